"""Services of the machine for any program: devices, threads, signals, paths, progress."""
