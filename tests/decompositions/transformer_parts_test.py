"""Transformers in parts: what a subnetwork holds, scales, placements, and what is refused."""

import jax
import numpy as np
import optax
import pytest
from bigrams import CONTEXT, loaded, text_file
from cases import placements
from laws import check_law_5, shapes_and_labels

from ist_jax import ist
from ist_jax.core.trees import leaf_shapes
from ist_jax.decompositions import transformer
from ist_jax.methods import Start
from ist_jax.models import Transformer
from ist_jax.tasks import next_token

EXAMPLE = jax.ShapeDtypeStruct((1, CONTEXT), np.int32)
FIELDS = dict(layers=4, width=8, heads=8, kv_heads=4, head_dim=2, mlp_width=12)


def split(*kinds, num_subnets=4, scaling="keep", **fields):
    model = Transformer(32, CONTEXT, **FIELDS | fields)
    return transformer(model, EXAMPLE, num_subnets=num_subnets, split=kinds, scaling=scaling)


def shapes_of_subnet(decomposition):
    init = decomposition.subnet.init
    return leaf_shapes(jax.eval_shape(init, jax.random.key(0), np.zeros((1, CONTEXT), np.int32)))


@pytest.mark.parametrize(
    "kinds,fields,shapes",
    [
        (("neurons",), {}, {"mlp/up": [4, 8, 3], "mlp/down": [4, 3, 8]}),
        (("heads",), {}, {"attention/query": [4, 8, 1, 2, 2], "attention/key": [4, 8, 1, 2]}),
        (("neurons", "heads"), {}, {"mlp/up": [4, 8, 3], "attention/output": [4, 1, 2, 2, 8]}),
        (("layers",), {}, {"mlp/up": [1, 8, 12], "attention/key": [1, 8, 4, 2]}),
        (("experts",), dict(experts=8), {"mlp/experts/up": [4, 2, 8, 12]}),
    ],
)
def test_a_subnetwork_holds_its_share_of_what_is_split(kinds, fields, shapes):
    held = shapes_of_subnet(split(*kinds, **fields))
    assert {name: held[f"layers/{name}/kernel"] for name in shapes} == shapes
    assert held["embedding/embedding"] == [32, 8], "the embedding is shared"


def test_layers_that_are_not_in_a_loop_are_divided_differently():
    parts = split("neurons", "heads", scan=False).partition
    assert parts.sizes == {
        f"{k}_{i}": n for k, n in (("neurons", 12), ("heads", 4)) for i in range(4)
    }
    assert split("neurons", "heads").partition.sizes == {"neurons": 12, "heads": 4}
    assert split("layers").partition.sizes == {"layers": 4}


@pytest.mark.parametrize(
    "kinds,scaling,attention,mlp",
    [
        (("neurons",), "keep", 1.0, 0.25),
        (("heads",), "sqrt", 0.5, 1.0),
        (("neurons", "heads"), "none", 1.0, 1.0),
        (("layers",), "keep", 0.25, 0.25),
    ],
)
def test_branches_that_sum_over_split_parts_are_scaled_in_the_full_model(
    kinds, scaling, attention, mlp
):
    decomposition = split(*kinds, scaling=scaling)
    full, subnet = decomposition.full.module, decomposition.subnet.module
    assert (full.attention_scale, full.mlp_scale) == (attention, mlp)
    assert (subnet.attention_scale, subnet.mlp_scale) == (1.0, 1.0)


@pytest.mark.parametrize(
    "kinds,fields,says",
    [
        (("layers", "heads"), {}, "layers or experts, not by"),
        (("words",), {}, "neurons, heads, both, layers or experts"),
        ((), {}, "neurons, heads, both, layers or experts"),
        (("layers",), dict(scan=False), "use scan=True"),
        (("neurons",), dict(experts=8), "split 'experts' instead of 'neurons'"),
        (("experts",), {}, "experts=0 must be at least 4 times as many"),
        (("experts",), dict(experts=9), "would still receive tokens"),
        (("heads",), dict(kv_heads=2), "group 'heads' has 2 units"),
    ],
)
def test_parts_that_cannot_be_split_are_refused(kinds, fields, says):
    with pytest.raises(ValueError, match=says):
        split(*kinds, **fields)


@pytest.mark.parametrize("kinds", [("neurons", "heads"), ("layers",), ("experts",)])
@pytest.mark.slow
def test_law_5_all_placements_train_a_transformer_alike(kinds, tmp_path):
    data, task = loaded(text_file(tmp_path)), next_token(CONTEXT)
    fields = dict(experts=8) if kinds == ("experts",) else {}
    decomposition = split(*kinds, layers=4, dropout=0.1, **fields)
    shapes, _ = shapes_and_labels(decomposition)
    rng = np.random.default_rng(0)
    start = Start(jax.tree.map(lambda leaf: 0.3 * rng.normal(size=leaf.shape), shapes))
    start = jax.tree.map(np.float32, start)

    def make(placement):
        return ist(decomposition, task, optax.sgd(0.1), batch_size=4, placement=placement)

    places = {name: placements()[name] for name in ("looped", "vmapped", "sharded-4")}
    check_law_5(make, places, data, start, rtol=1e-3, atol=1e-4)
