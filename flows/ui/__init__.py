"""What a person watching a run sees: progress at the terminal, artifacts in Prefect's UI."""
