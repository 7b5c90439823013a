"""Records of runs: written, read, and made into tables, pictures and pages."""
