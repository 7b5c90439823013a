"""Next-token prediction: metrics by hand, shifted windows, and outputs that do not fit."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from ist_jax.tasks import next_token

CONTEXT, VOCABULARY = 4, 7
ARRAYS = {
    "start": np.arange(0, 20, CONTEXT, dtype=np.int32),
    "tokens": np.arange(21, dtype=np.uint8) % VOCABULARY,
}


def metrics(task, logits, index=(0, 3), weight=(1.0, 1.0)):
    batch = task.batch(ARRAYS, jnp.array(index), None)
    return task.summary(task.metrics(logits, batch, jnp.array(weight)))


def test_the_perplexity_of_a_uniform_model_is_the_size_of_the_vocabulary():
    task = next_token(CONTEXT, bytes_per_token=2.0)
    values = metrics(task, jnp.zeros((2, CONTEXT, VOCABULARY)))
    assert values["perplexity"] == pytest.approx(VOCABULARY, rel=1e-5)
    assert values["loss"] == pytest.approx(np.log(VOCABULARY), rel=1e-5)
    assert values["bits_per_byte"] == pytest.approx(np.log2(VOCABULARY) / 2, rel=1e-5)
    assert set(task.metric_info) == set(values)
    assert set(metrics(next_token(CONTEXT), jnp.zeros((2, CONTEXT, VOCABULARY)))) == set(
        next_token(CONTEXT).metric_info
    )


def test_the_perplexity_of_a_large_loss_is_finite():
    logits = jnp.full((2, CONTEXT, VOCABULARY), -1e4).at[..., VOCABULARY - 1].set(0.0)
    values = metrics(next_token(CONTEXT), logits)
    assert values["loss"] > 1e3 and np.isfinite(values["perplexity"])


def test_metrics_are_means_over_the_tokens_of_examples_with_weight():
    logits = np.random.default_rng(0).normal(size=(2, CONTEXT, VOCABULARY)).astype(np.float32)
    values = metrics(next_token(CONTEXT), jnp.array(logits), weight=(0.0, 1.0))
    target = np.arange(13, 17) % VOCABULARY  # of the window that starts at 12
    loss = -log_softmax(logits[1], axis=1)[np.arange(CONTEXT), target]
    assert values["loss"] == pytest.approx(loss.mean(), rel=1e-5)
    assert values["accuracy"] == (logits[1].argmax(axis=1) == target).mean()


def test_targets_follow_their_inputs_and_training_windows_are_shifted_within_the_stream():
    task, index = next_token(CONTEXT), jnp.tile(jnp.arange(5), 40)
    batch = jax.jit(task.batch)(ARRAYS, index, jax.random.key(0))
    np.testing.assert_array_equal((batch["x"] + 1) % VOCABULARY, batch["y"])
    assert batch["x"].dtype == jnp.int32
    shift = (np.asarray(batch["x"][:, 0]) - ARRAYS["start"][index]) % VOCABULARY
    at_the_end = np.asarray(index) == 4
    assert set(shift[~at_the_end]) == {0, 1, 2, 3} and set(shift[at_the_end]) == {0}
    for still in (
        task.batch(ARRAYS, index, None),
        next_token(CONTEXT, shift=False).batch(ARRAYS, index, jax.random.key(0)),
    ):
        np.testing.assert_array_equal(still["x"][:, 0], ARRAYS["start"][index] % VOCABULARY)


@pytest.mark.parametrize(
    "outputs,says",
    [
        (jax.ShapeDtypeStruct((1, CONTEXT, 6), jnp.float32), r"these are of shape \[1, 4, 6\]"),
        (jax.ShapeDtypeStruct((1, VOCABULARY), jnp.float32), "4, at least 7"),
        ({}, "no array"),
    ],
)
def test_outputs_that_are_no_logits_of_the_vocabulary_are_refused(outputs, says):
    with pytest.raises(ValueError, match=says):
        next_token(CONTEXT).check(outputs, SimpleNamespace(num_classes=VOCABULARY))
    next_token(CONTEXT).check(
        jax.ShapeDtypeStruct((1, CONTEXT, 9), jnp.float32), SimpleNamespace(num_classes=VOCABULARY)
    )
