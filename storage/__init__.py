"""What is kept: artifacts, measurements, and the data that ships with slimline."""
