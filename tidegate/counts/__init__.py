"""Exact counts of what the proxy said: read from the kernel's memory, named, freed when old."""
