"""Bibtex of the Extreme Classification Repository: sparse inputs, several labels per example."""

import functools
import io

import optax
import pytest
from sklearn.datasets import load_svmlight_file
from sklearn.preprocessing import MultiLabelBinarizer

import ist_jax
from ist_jax import data, tasks
from ist_jax.decompositions import mlp
from ist_jax.models import MLP

FEATURES, LABELS = 1836, 159


def read(folder, part):
    """(sparse inputs, sparse table of labels) of a file, whose first line has the counts."""
    lines = (folder / "xc" / "bibtex" / f"{part}.txt").read_bytes().split(b"\n", 1)[1]
    x, labels = load_svmlight_file(
        io.BytesIO(lines), n_features=FEATURES, multilabel=True, zero_based=True
    )
    table = MultiLabelBinarizer(classes=range(LABELS), sparse_output=True)
    return x, table.fit_transform([map(int, row) for row in labels])


@pytest.mark.slow
def test_labels_of_real_text_are_learned(real_data):
    """Linear and tree models of the repository have a precision at 1 of 62 to 65 %."""
    train, test = map(functools.partial(read, real_data), ("train", "test"))
    bibtex = data.from_arrays(*train, *test, standardise="none", name="bibtex")
    assert bibtex.task == "multi_label" and bibtex.train["x_column"].shape == (4392, 271)
    net = mlp(MLP((512,), LABELS, affine_output=True), bibtex.example, num_subnets=2)
    task = tasks.multi_label()
    method = ist_jax.ist(net, task, optax.adam(3e-3), batch_size=64)
    phase = ist_jax.Phase(method, samples=8 * bibtex.num_train, local_steps=20)
    results = ist_jax.run([phase], task, bibtex, ist_jax.LoopConfig(eval_every=4))
    assert results.summary["selected"]["test"]["p@1"] > 0.6
