"""Ways to train: a table from a method's name to how it is built from the two algorithms."""

from ist_jax.methods.base import Algorithm, Costs, Start, State
from ist_jax.methods.data_parallel import data_parallel
from ist_jax.methods.ensemble import ensemble
from ist_jax.methods.ist import OPT_STATES, drawn, ist

__all__ = [
    "OPT_STATES",
    "Algorithm",
    "Costs",
    "Start",
    "State",
    "data_parallel",
    "drawn",
    "ensemble",
    "ist",
]
