"""The commands of `slimline`, a module each."""
