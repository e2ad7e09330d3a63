"""What any program needs from the machine: devices, threads, signals, paths, progress."""
