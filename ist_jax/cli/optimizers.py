"""The optax optimizers that a configuration describes."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from ist_jax.cli.config import OptimizerConfig, OuterConfig
from ist_jax.core.trees import map_with_names

# pattern of a kernel -> how many of its last axes are the inputs and the outputs of a matrix; axes
# before them are layers or experts, of which each has a matrix
_MATRICES = (
    (r".*attention/query/kernel", (1, 3)),
    (r".*attention/(key|value)/kernel", (1, 2)),
    (r".*attention/output/kernel", (3, 1)),
    (r".*mlp/(experts/)?(gate|up|down)/kernel", (1, 1)),
)


def schedule(o: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """The learning rate over all local steps of a run.

    After the warm-up, 'cosine' and 'linear' fall to 0 over the remaining steps. 'step' and 'thirds'
    fall at fractions of the whole run, whatever the warm-up. A fall that is due during the warm-up
    comes at its end.
    """
    warmup = round(o.warmup * total_steps)
    rest = max(total_steps - warmup, 1)

    def falls(*steps: int) -> optax.Schedule:
        # `steps` count from the start of the run, `after_warmup` from the end of the warm-up
        after_warmup = {step - warmup: 0.1 for step in steps}
        return optax.piecewise_constant_schedule(o.learning_rate, after_warmup)

    after = {
        "constant": optax.constant_schedule(o.learning_rate),
        "cosine": optax.cosine_decay_schedule(o.learning_rate, rest),
        "linear": optax.linear_schedule(o.learning_rate, 0.0, rest),
        "step": falls(total_steps // 2, total_steps * 3 // 4),
        "thirds": falls(total_steps // 3, total_steps * 2 // 3),
    }[o.schedule]
    rise = optax.linear_schedule(0.0, o.learning_rate, max(warmup, 1))
    return optax.join_schedules([rise, after], [warmup]) if warmup else after


def demon(momentum: float, total_steps: int) -> optax.Schedule:
    """Momentum that decays to 0 (Chen et al.: Demon, arXiv 1910.04952, equation 1)."""

    def at(step: jax.typing.ArrayLike) -> jax.Array:
        left = jnp.maximum(1 - step / total_steps, 0)
        return momentum * left / (1 - momentum + momentum * left)

    return at


def _sgd(
    o: OptimizerConfig, rate: optax.Schedule, total_steps: int
) -> optax.GradientTransformation:
    if o.momentum_schedule == "constant":
        return optax.sgd(rate, momentum=o.momentum or None)
    make = optax.inject_hyperparams(
        lambda learning_rate, momentum: optax.sgd(learning_rate, momentum)
    )
    return make(learning_rate=rate, momentum=demon(o.momentum, total_steps))


def _matrix_axes(name: str, leaf: Any) -> optax.contrib.MuonDimensionNumbers | None:
    """The axes of a matrix, or of stacked matrices; None for any other parameter."""
    is_plain = leaf.ndim == 2 and name.rsplit("/", 1)[-1] == "kernel"
    known = (axes for pattern, axes in _MATRICES if re.fullmatch(pattern, name))
    inputs, outputs = next(known, (1, 1) if is_plain else (0, 0))
    middle, first = leaf.ndim - outputs, leaf.ndim - outputs - inputs
    if not inputs or first < 0:
        return None
    axes = tuple(range(first, middle)), tuple(range(middle, leaf.ndim))
    return optax.contrib.MuonDimensionNumbers(*axes)


def muon(rate: optax.Schedule, weight_decay: float) -> optax.GradientTransformation:
    """Muon for kernels that are matrices, NAdamW for other parameters (K. Jordan et al., 2024).

    Kernels of Transformers are matrices from their inputs to their outputs, one for every layer and
    expert. Embeddings, norms and convolutions are no matrices.

    Updates of matrices are scaled to the size of AdamW's, so that one learning rate fits both (Liu
    et al.: Muon is scalable for LLM training, arXiv 2502.16982, equation 4).
    """
    return optax.contrib.muon(
        rate,
        weight_decay=weight_decay,
        adam_weight_decay=weight_decay,
        consistent_rms=0.2,
        muon_weight_dimension_numbers=lambda params: map_with_names(_matrix_axes, params),
    )


def local_optimizer(o: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
    """The local optimizer, with schedules over `total_steps` local steps."""
    rate = schedule(o, total_steps)
    if o.name == "adamw":
        tx = optax.adamw(rate, weight_decay=o.weight_decay)
    elif o.name == "muon":
        tx = muon(rate, o.weight_decay)
    else:
        decay = optax.add_decayed_weights(o.weight_decay) if o.weight_decay else optax.identity()
        tx = optax.chain(
            decay, optax.adam(rate) if o.name == "adam" else _sgd(o, rate, total_steps)
        )
    return optax.chain(optax.clip_by_global_norm(o.clip), tx) if o.clip else tx


def outer_optimizer(o: OuterConfig) -> optax.GradientTransformation:
    """SGD with Nesterov momentum."""
    return optax.sgd(o.learning_rate, o.momentum or None, nesterov=bool(o.momentum))
