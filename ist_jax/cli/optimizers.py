"""The optax optimizers that a configuration describes."""

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from ist_jax.cli.config import OptimizerConfig, OuterConfig


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


def muon(rate: optax.Schedule, weight_decay: float) -> optax.GradientTransformation:
    """Muon for matrices, NAdamW for all other parameters (K. Jordan et al., 2024).

    Updates of matrices are scaled to the size of AdamW's, so that one learning rate fits both (Liu
    et al.: Muon is scalable for LLM training, arXiv 2502.16982, equation 4).
    """
    return optax.contrib.muon(
        rate, weight_decay=weight_decay, adam_weight_decay=weight_decay, consistent_rms=0.2
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
