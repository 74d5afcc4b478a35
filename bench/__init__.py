"""Measurements of Tidegate on this machine; ``python -m bench`` is the benchmark, docs/benchmark.md its method."""
