"""One file per subcommand of `ist-jax`."""
