"""Quality, speed, memory, energy and size of a variant, and how sure we are of each."""
