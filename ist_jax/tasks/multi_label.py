"""Several labels per example, as in extreme classification.

Precision and nDCG at k are those of the Extreme Classification Repository (Bhatia et al., 2016). An
example without labels counts with 0 there, and in the loss as a row of zeros.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ist_jax.core.model import Model
from ist_jax.core.task import SHARE, MetricInfo, Selection, Sums, Task, means
from ist_jax.core.types import Array, Batch, Key, Params
from ist_jax.tasks.augment import Size
from ist_jax.tasks.inputs import Moment, check_kind, make_batch, predict

TOP = (1, 3, 5)  # k of precision and nDCG at k; those above the number of labels are left out
METRIC_INFO = {
    "loss": MetricInfo("min", "nats"),
    **{f"p@{k}": MetricInfo("max", SHARE) for k in TOP},
    **{f"ndcg@{k}": MetricInfo("max", SHARE) for k in TOP},
    "micro_f1": MetricInfo("max", SHARE),
    "macro_f1": MetricInfo("max", SHARE),
}


def _binary(logits_BxC: Array, label_BxC: Array) -> Array:
    """[B]: the cross-entropy of every label, averaged over labels."""
    return optax.sigmoid_binary_cross_entropy(logits_BxC, label_BxC).mean(axis=-1)


def _softmax(logits_BxC: Array, label_BxC: Array) -> Array:
    """[B]: the cross-entropy of a softmax over labels, averaged over the example's labels.

    It is the normalised pick-all-labels loss (Menon et al., NeurIPS 2019, section 3.1).
    """
    share_BxC = label_BxC / jnp.maximum(label_BxC.sum(axis=-1, keepdims=True), 1)
    return optax.softmax_cross_entropy(logits_BxC, share_BxC)


# name -> (loss of every example, probability of every label)
LOSSES: dict[str, tuple[Callable[[Array, Array], Array], Callable[[Array], Array]]] = {
    "binary": (_binary, jax.nn.sigmoid),
    "softmax": (_softmax, jax.nn.softmax),
}


def check_labels(logits: Any, data: Any) -> None:
    """Checks that there is a logit for every label.

    Args:
      logits: the array, or its ShapeDtypeStruct.
      data: a `Dataset`.

    Raises:
      ValueError: logits are not an array [examples, labels] with a logit for every label, or the
        data are of another kind.
    """
    check_kind(data, "multi_label")
    shape, wanted = getattr(logits, "shape", None), data.num_classes
    if shape is None or len(shape) != 2 or shape[1] != wanted:
        raise ValueError(
            f"a model has an output for each of {wanted} labels, an array [examples, {wanted}], "
            f"but these are {'no array' if shape is None else f'of shape {list(shape)}'}: give its "
            f"last layer {wanted} outputs"
        )


def top_k_sums(logits_BxC: Array, label_BxC: Array, weight_B: Array) -> Sums:
    """Precision and nDCG at k of `TOP`: {name: (weighted sum, weight)}."""
    most = min(max(TOP), logits_BxC.shape[1])
    ranked_Bxk = jax.lax.top_k(logits_BxC, most)[1]
    hit_Bxk = jnp.take_along_axis(label_BxC, ranked_Bxk, axis=1)
    gain_1xk = 1 / jnp.log2(jnp.arange(2, most + 2, dtype=hit_Bxk.dtype))[None]
    num_labels_Bx1 = label_BxC.sum(axis=1, keepdims=True)
    # the hits of the best ranking, which starts with all labels of the example
    is_best_Bxk = jnp.arange(most, dtype=hit_Bxk.dtype)[None] < num_labels_Bx1
    count = weight_B.sum()
    sums = {}
    for k in (k for k in TOP if k <= most):
        gain_B = (hit_Bxk * gain_1xk)[:, :k].sum(axis=1)
        best_B = (is_best_Bxk * gain_1xk)[:, :k].sum(axis=1)
        share_B = gain_B / jnp.where(best_B > 0, best_B, 1)
        sums[f"p@{k}"] = ((weight_B * hit_Bxk[:, :k].mean(axis=1)).sum(), count)
        sums[f"ndcg@{k}"] = ((weight_B * share_B).sum(), count)
    return sums


def _f1(true: Array, wrong: Array) -> Array:
    """F1 from true positives, and false positives and negatives together; 0 without any."""
    total = 2 * true + wrong
    return 2 * true / jnp.where(total > 0, total, 1)


def multi_label(
    mean: Moment = 0.0,
    std: Moment = 1.0,
    *,
    loss: str = "binary",
    augment: str = "none",
    padding: int = 4,
    size: Size | None = None,
) -> Task:
    """The task over arrays {'x': [N, ...], 'y': [N, C], 0 and 1}.

    F1 counts a label as predicted if its probability is above 0.5. A label that no example has, in
    truth or by prediction, counts as 0 in the macro average, as in scikit-learn.

    Args:
      mean, std, augment, padding, size: as in `make_batch`.
      loss: 'binary' cross-entropy, or cross-entropy of a 'softmax' over labels.

    Raises:
      ValueError: `loss` has another value.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss is one of {', '.join(LOSSES)}, not {loss!r}")
    batch = make_batch(mean, std, augment=augment, padding=padding, size=size)
    losses_of, probabilities_of = LOSSES[loss]

    def mean_loss(model: Model, params: Params, batch: Batch, key: Key) -> tuple[Array, Any]:
        logits_BxC = model.apply(params, batch["x"], key=key)
        return losses_of(logits_BxC, batch["y"].astype(logits_BxC.dtype)).mean(), {}

    def metrics(logits_BxC: Array, batch: Batch, weight_B: Array) -> Sums:
        label_BxC = batch["y"].astype(logits_BxC.dtype)
        loss_B = losses_of(logits_BxC, label_BxC)
        predicted_BxC = (probabilities_of(logits_BxC) > 0.5).astype(logits_BxC.dtype)
        total_C = lambda value_BxC: (weight_B[:, None] * value_BxC).sum(axis=0)
        return {
            "means": {"loss": ((weight_B * loss_B).sum(), weight_B.sum())}
            | top_k_sums(logits_BxC, label_BxC, weight_B),
            "true_C": total_C(predicted_BxC * label_BxC),
            "wrong_C": total_C(abs(predicted_BxC - label_BxC)),
        }

    def summary(sums: Sums) -> dict[str, Array]:
        true_C, wrong_C = jnp.asarray(sums["true_C"]), jnp.asarray(sums["wrong_C"])
        return means(sums["means"]) | {
            "micro_f1": _f1(true_C.sum(), wrong_C.sum()),
            "macro_f1": _f1(true_C, wrong_C).mean(),
        }

    return Task(
        batch,
        mean_loss,
        predict,
        metrics,
        Selection("p@1", "max"),
        check=check_labels,
        summary=summary,
        metric_info=METRIC_INFO,
    )
