"""Methods: ways to train. Each is one file."""

from ist_jax.methods.base import Method, MethodInfo, StartError
from ist_jax.methods.costs import Costs
from ist_jax.methods.data_parallel import data_parallel
from ist_jax.methods.diloco import diloco
from ist_jax.methods.ensemble import ensemble
from ist_jax.methods.ist import drawn_partitions, ist
from ist_jax.methods.local_sgd import local_sgd
from ist_jax.methods.sparse_loco import sparse_loco
from ist_jax.methods.state import Start, State
from ist_jax.methods.streaming_diloco import streaming_diloco
from ist_jax.methods.subnet_method import OPT_STATES

__all__ = [
    "OPT_STATES",
    "Costs",
    "Method",
    "MethodInfo",
    "Start",
    "StartError",
    "State",
    "data_parallel",
    "diloco",
    "drawn_partitions",
    "ensemble",
    "ist",
    "local_sgd",
    "sparse_loco",
    "streaming_diloco",
]
