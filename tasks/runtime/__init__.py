"""The machine and the process: locks, child processes, progress, the code's hash."""
