"""Verdicts as records: what the kernel, Envoy and the parsers report becomes a record with names, rules and reasons, is
kept, filtered, summed up and judged again."""
