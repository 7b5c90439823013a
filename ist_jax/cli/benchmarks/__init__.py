"""Benchmarks of rounds on this machine, as ratios within one run."""
