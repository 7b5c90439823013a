"""Makes `python -m ist_jax` the same as the console command `ist-jax`."""

import sys

from ist_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
