"""The demo: ``make demo`` builds a node out of network namespaces and shows policy at work on it."""
