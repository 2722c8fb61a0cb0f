"""The server of `slimline serve`, its workers, and what starts them again."""
