"""The console command `ist-jax`."""
