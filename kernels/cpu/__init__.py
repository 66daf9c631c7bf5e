"""Tile programs for the CPU: serial Numba functions, compiled ahead of time into the core."""
