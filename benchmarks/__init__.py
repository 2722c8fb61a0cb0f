"""How fast slimline itself is: `python -m benchmarks` prints the tables of docs/benchmarks.md."""
