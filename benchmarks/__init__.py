"""Measured tables: programs that write benchmarks/results/*.json, and one that renders them into the README."""
