"""Reports of sweeps: how throughput, waiting, switching and memory grow with the number of experts."""
