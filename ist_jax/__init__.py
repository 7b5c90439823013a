"""Communication-efficient training of neural networks by Independent Subnetwork Training.

Names are imported on first use (PEP 562), so that `import ist_jax` is fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ist_jax.version import __version__

if TYPE_CHECKING:
    from ist_jax import data, models, tasks
    from ist_jax.core.subnet import extract, label_axes, merge
    from ist_jax.decompositions import decompose, replicated
    from ist_jax.methods import (
        data_parallel,
        diloco,
        ensemble,
        ist,
        local_sgd,
        sparse_loco,
        streaming_diloco,
    )
    from ist_jax.training import export
    from ist_jax.training.config import LoopConfig, Phase
    from ist_jax.training.loop import run

_MODULES = {
    "data": "ist_jax.data",
    "export": "ist_jax.training.export",
    "models": "ist_jax.models",
    "tasks": "ist_jax.tasks",
}
_NAMES = {
    "LoopConfig": "ist_jax.training.config",
    "Phase": "ist_jax.training.config",
    "data_parallel": "ist_jax.methods",
    "decompose": "ist_jax.decompositions",
    "diloco": "ist_jax.methods",
    "ensemble": "ist_jax.methods",
    "extract": "ist_jax.core.subnet",
    "ist": "ist_jax.methods",
    "label_axes": "ist_jax.core.subnet",
    "local_sgd": "ist_jax.methods",
    "merge": "ist_jax.core.subnet",
    "replicated": "ist_jax.decompositions",
    "run": "ist_jax.training.loop",
    "sparse_loco": "ist_jax.methods",
    "streaming_diloco": "ist_jax.methods",
}

__all__ = [
    "LoopConfig",
    "Phase",
    "__version__",
    "data",
    "data_parallel",
    "decompose",
    "diloco",
    "ensemble",
    "export",
    "extract",
    "ist",
    "label_axes",
    "local_sgd",
    "merge",
    "models",
    "replicated",
    "run",
    "sparse_loco",
    "streaming_diloco",
    "tasks",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
