"""What other packages ask of the metrics store, a question a function."""
