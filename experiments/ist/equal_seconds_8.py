"""equal_seconds.py with 8 subnetworks.

    python -m ist_jax.cli.commands.run --config=experiments/ist/equal_seconds_8.py --config.data.dir=DIR --workdir=runs/equal_seconds_8

README.md beside this file has the table.
"""

from experiments.ist import equal_seconds


def get_config():
    return equal_seconds.config_of(8)
