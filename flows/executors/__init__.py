"""Where an order is measured: on this machine, on a work pool, in a Slurm job."""
