"""DiLoCo: local SGD with an outer optimizer (Douillard et al., arXiv 2311.08105).

The outer optimizer's gradient is the parameters before a round minus those after it (the
pseudo-gradient).
"""

import optax

from ist_jax.core.decomposition import Decomposition
from ist_jax.core.placement import Placement
from ist_jax.core.task import Task
from ist_jax.methods.base import Method
from ist_jax.methods.local_sgd import local_sgd


def nesterov() -> optax.GradientTransformation:
    """The paper's outer optimizer: SGD with rate 0.7 and Nesterov momentum 0.9 (section 3.1)."""
    return optax.sgd(0.7, momentum=0.9, nesterov=True)


def diloco(
    decomposition: Decomposition,
    task: Task,
    tx: optax.GradientTransformation,
    *,
    num_workers: int,
    batch_size: int,
    outer_tx: optax.GradientTransformation | None = None,
    placement: Placement | None = None,
) -> Method:
    """DiLoCo on the full model. The decomposition's groups are not used.

    Args:
      decomposition: its `full` model is trained.
      task: the problem to solve.
      tx: the inner optimizer, AdamW in the paper. Its state stays with its worker.
      num_workers: S.
      batch_size: examples per local step of one worker.
      outer_tx: the outer optimizer; None: `nesterov()`.
      placement: see `ist`.

    Raises:
      ValueError: see `ist`.
    """
    return local_sgd(
        decomposition,
        task,
        tx,
        num_workers=num_workers,
        batch_size=batch_size,
        placement=placement,
        opt_state="local",
        outer_tx=outer_tx or nesterov(),
    )
