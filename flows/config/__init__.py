"""What a user writes: studies and hosts, read from YAML and checked."""
