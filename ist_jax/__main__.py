"""`python -m ist_jax` is the console command `ist-jax`."""

import sys

from ist_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
