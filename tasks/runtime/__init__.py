"""The machine and its processes: host description, threads, machine lock, progress, and the code's hash."""
