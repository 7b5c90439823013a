"""Communication-efficient training of neural networks by Independent Subnetwork Training, in JAX and Flax."""

from ist_jax.core.subnet import extract, label_axes, merge
from ist_jax.decompositions import decompose, replicated
from ist_jax.methods import data_parallel, diloco, ensemble, ist, local_sgd
from ist_jax.training.loop import LoopConfig, Phase, run
from ist_jax.version import __version__

__all__ = [
    "LoopConfig",
    "Phase",
    "__version__",
    "data_parallel",
    "decompose",
    "diloco",
    "ensemble",
    "extract",
    "ist",
    "label_axes",
    "local_sgd",
    "merge",
    "replicated",
    "run",
]
