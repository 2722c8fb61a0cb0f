"""The artifact store: immutable directories, addressed by their content."""
