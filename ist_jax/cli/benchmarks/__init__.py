"""What rounds cost on this machine, as ratios within one run."""
