"""equal_seconds.py with 2 subnetworks.

    python -m ist_jax.cli.commands.run --config=experiments/ist/equal_seconds_2.py --config.data.dir=DIR --workdir=runs/equal_seconds_2

README.md beside this file has the table.
"""

from experiments.ist import equal_seconds


def get_config():
    return equal_seconds.config_of(2)
