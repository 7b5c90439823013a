"""Local SGD: IST without groups (McMahan et al., AISTATS 2017; Stich, ICLR 2019).

Every worker trains a copy of the full model for J steps. Then the copies are averaged.
"""

from typing import Any

import optax

from ist_jax.core.decomposition import Decomposition, replicated
from ist_jax.core.task import Task
from ist_jax.methods.base import Method
from ist_jax.methods.ist import ist


def local_sgd(
    decomposition: Decomposition,
    task: Task,
    tx: optax.GradientTransformation,
    *,
    num_workers: int,
    batch_size: int,
    **options: Any,
) -> Method:
    """Local SGD on the full model. The decomposition's groups are not used.

    Args:
      decomposition: its `full` model is trained.
      task: the problem to solve.
      tx: the local optimizer.
      num_workers: S.
      batch_size: examples per local step of one worker.
      **options: `placement`, `opt_state` and `outer_tx`; see `ist`.

    Raises:
      ValueError: see `ist`.
    """
    return ist(replicated(decomposition, num_workers), task, tx, batch_size=batch_size, **options)
