"""The optimizers of optax, one by one: what works with which state between rounds."""

import inspect
import pathlib
import re
import typing

import jax
import optax
import pytest
from cases import BATCH, ROOT, TASK, also_slowly
from optax import contrib
from tiny_model import assert_alike, distance, plainly_trained, tiny, trained

from ist_jax import data_parallel, ensemble, ist, local_sgd

ROOT_FOLDER = pathlib.Path(__file__).parent.parent.parent
PAGE = (ROOT_FOLDER / "docs" / "optimizers.md").read_text()
TESTED = "0.2.8"  # later versions of optax may have more transforms
RATE, STEPS = 0.05, 4
HIDDEN = {"hidden": True, "output": False}
EVEN_STEPS = lambda step: step % 2 == 0

WORKS = "works"
SCHEDULE = "counts the steps of its schedule together with those of its averages"
GLOBAL = "depends on the gradients of all of a subnetwork"
SHAPE = "state that is shaped like its parameter"

# name -> (optimizer, what 'reset' does, what 'carry' does)
TABLE = {
    "sgd": (lambda: optax.sgd(RATE, 0.9, nesterov=True), WORKS, WORKS),
    "adabelief": (lambda: optax.adabelief(RATE), WORKS, WORKS),
    "adadelta": (lambda: optax.adadelta(RATE), WORKS, WORKS),
    "adafactor": (lambda: optax.adafactor(RATE, min_dim_size_to_factor=4), WORKS, SHAPE),
    "adagrad": (lambda: optax.adagrad(RATE), WORKS, WORKS),
    "adam": (lambda: optax.adam(RATE), WORKS, WORKS),
    "adamax": (lambda: optax.adamax(RATE), WORKS, WORKS),
    "adamaxw": (lambda: optax.adamaxw(RATE), WORKS, WORKS),
    "adamw": (lambda: optax.adamw(RATE, mask=HIDDEN), WORKS, WORKS),
    "adan": (lambda: optax.adan(RATE), WORKS, WORKS),
    "amsgrad": (lambda: optax.amsgrad(RATE), WORKS, WORKS),
    "fromage": (lambda: optax.fromage(RATE), WORKS, WORKS),
    "lamb": (lambda: optax.lamb(RATE), WORKS, WORKS),
    "lars": (lambda: optax.lars(RATE), WORKS, WORKS),
    "lion": (lambda: optax.lion(RATE), WORKS, WORKS),
    "nadam": (lambda: optax.nadam(RATE), WORKS, WORKS),
    "nadamw": (lambda: optax.nadamw(RATE), WORKS, WORKS),
    "novograd": (lambda: optax.novograd(RATE), WORKS, SHAPE),
    "optimistic_adam_v2": (lambda: optax.optimistic_adam_v2(RATE), WORKS, WORKS),
    "optimistic_gradient_descent": (
        lambda: optax.optimistic_gradient_descent(RATE),
        WORKS,
        WORKS,
    ),
    "radam": (lambda: optax.radam(RATE), WORKS, WORKS),
    "rmsprop": (lambda: optax.rmsprop(RATE, momentum=0.9), WORKS, WORKS),
    "rprop": (lambda: optax.rprop(RATE), WORKS, WORKS),
    "sign_sgd": (lambda: optax.sign_sgd(RATE), WORKS, WORKS),
    "signum": (lambda: optax.signum(RATE), WORKS, WORKS),
    "sm3": (lambda: optax.sm3(RATE), WORKS, GLOBAL),
    "yogi": (lambda: optax.yogi(RATE), WORKS, WORKS),
    "scale_by_distance_over_gradients": (
        lambda: optax.chain(optax.scale_by_distance_over_gradients(), optax.scale(-1.0)),
        WORKS,
        SHAPE,
    ),
    "scale_by_lbfgs": (
        lambda: optax.chain(optax.scale_by_lbfgs(3), optax.scale(-RATE)),
        WORKS,
        SHAPE,
    ),
    # wrappers and parts of chains
    "MultiSteps": (lambda: optax.MultiSteps(optax.adam(RATE), 2), WORKS, WORKS),
    "apply_every": (lambda: optax.chain(optax.apply_every(4), optax.sgd(RATE)), WORKS, WORKS),
    "apply_if_finite": (lambda: optax.apply_if_finite(optax.adam(RATE), 3), WORKS, GLOBAL),
    "conditionally_mask": (
        lambda: optax.conditionally_mask(optax.adam(RATE), EVEN_STEPS),
        WORKS,
        WORKS,
    ),
    "conditionally_transform": (
        lambda: optax.chain(
            optax.conditionally_transform(optax.scale_by_adam(), EVEN_STEPS), optax.scale(-RATE)
        ),
        WORKS,
        WORKS,
    ),
    "clip": (
        lambda: optax.chain(
            optax.clip(1.0),
            optax.clip_by_block_rms(1.0),
            optax.clip_by_global_norm(1.0),
            optax.adaptive_grad_clip(0.1),
            optax.centralize(),
            optax.stateless(lambda updates, params: updates),
            optax.stateless_with_tree_map(lambda update, param: update),
            optax.trace(0.9),
            optax.identity(),
            optax.scale(-RATE),
        ),
        WORKS,
        WORKS,
    ),
    "normalize_by_update_norm": (
        lambda: optax.chain(optax.normalize_by_update_norm(), optax.scale(-RATE)),
        WORKS,
        WORKS,
    ),
    "ema": (lambda: optax.chain(optax.ema(0.9), optax.scale(-RATE)), WORKS, WORKS),
    "flatten": (lambda: optax.flatten(optax.adam(RATE)), WORKS, GLOBAL),
    "freeze": (lambda: optax.chain(optax.sgd(RATE), optax.freeze(HIDDEN)), WORKS, WORKS),
    "inject_hyperparams": (
        lambda: optax.inject_hyperparams(optax.adam)(learning_rate=RATE),
        WORKS,
        WORKS,
    ),
    "keep_params_nonnegative": (
        lambda: optax.chain(optax.sgd(RATE), optax.keep_params_nonnegative()),
        WORKS,
        WORKS,
    ),
    "masked": (
        lambda: optax.chain(optax.masked(optax.trace(0.9), HIDDEN), optax.scale(-RATE)),
        WORKS,
        WORKS,
    ),
    "partition": (
        lambda: optax.partition(
            {"a": optax.adam(RATE), "b": optax.sgd(RATE, 0.9)}, {"hidden": "a", "output": "b"}
        ),
        WORKS,
        WORKS,
    ),
    "selective_transform": (
        lambda: optax.selective_transform(optax.adam(RATE), freeze_mask=HIDDEN),
        WORKS,
        WORKS,
    ),
    "set_to_zero": (optax.set_to_zero, WORKS, WORKS),
    "snapshot": (
        lambda: optax.chain(optax.sgd(RATE), optax.snapshot("norm", optax.tree.norm)),
        WORKS,
        GLOBAL,
    ),
    "zero_nans": (lambda: optax.chain(optax.zero_nans(), optax.sgd(RATE)), WORKS, SHAPE),
    # optax.contrib
    "acprop": (lambda: contrib.acprop(RATE), WORKS, WORKS),
    "ademamix": (lambda: contrib.ademamix(RATE), SCHEDULE, WORKS),
    "adopt": (lambda: contrib.adopt(RATE), WORKS, WORKS),
    "cocob": (contrib.cocob, WORKS, WORKS),
    "dadapt_adamw": (contrib.dadapt_adamw, SCHEDULE, GLOBAL),
    "dog": (contrib.dog, WORKS, GLOBAL),
    "dowg": (contrib.dowg, WORKS, GLOBAL),
    "galore": (lambda: contrib.galore(RATE, rank=2), WORKS, SHAPE),
    "madgrad": (lambda: contrib.madgrad(RATE), SCHEDULE, WORKS),
    "mechanize": (lambda: contrib.mechanize(optax.sgd(RATE)), WORKS, GLOBAL),
    "muon": (lambda: contrib.muon(RATE), WORKS, WORKS),
    "prodigy": (contrib.prodigy, SCHEDULE, GLOBAL),
    "sam": (
        lambda: contrib.sam(
            optax.sgd(RATE, 0.9), optax.chain(contrib.normalize(), optax.sgd(0.01))
        ),
        WORKS,
        WORKS,
    ),
    "schedule_free": (
        lambda: contrib.schedule_free(optax.sgd(RATE), learning_rate=RATE),
        SCHEDULE,
        WORKS,
    ),
    "schedule_free_adamw": (lambda: contrib.schedule_free_adamw(RATE), SCHEDULE, WORKS),
    "schedule_free_sgd": (lambda: contrib.schedule_free_sgd(RATE), SCHEDULE, WORKS),
    "simplified_ademamix": (lambda: contrib.simplified_ademamix(RATE), SCHEDULE, WORKS),
    "split_real_and_imaginary": (
        lambda: contrib.split_real_and_imaginary(optax.adam(RATE)),
        WORKS,
        WORKS,
    ),
}
MORE = r"takes gradients, its state and parameters, and this one fails on them .\w+: .*"
NOISE = "draws no random numbers, and the state of this one has a key"
# name -> (optimizer, why no method takes it)
REFUSED = {
    "lbfgs": (optax.lbfgs, f"{MORE}'value'"),
    "lookahead": (lambda: optax.lookahead(optax.sgd(RATE), 5, 0.5), f"{MORE}'fast'"),
    "polyak_sgd": (optax.polyak_sgd, f"{MORE}'value'"),
    "momo": (contrib.momo, f"{MORE}'value'"),
    "momo_adam": (contrib.momo_adam, f"{MORE}'value'"),
    "reduce_on_plateau": (
        lambda: optax.chain(optax.sgd(RATE), contrib.reduce_on_plateau()),
        f"{MORE}'value'",
    ),
    "sophia": (lambda: contrib.sophia(RATE), f"{MORE}obj_fn must be provided"),
    "sam, opaque": (
        lambda: contrib.sam(optax.sgd(RATE), optax.sgd(0.01), opaque_mode=True),
        f"{MORE}grad_fn must be provided",
    ),
    "add_noise": (lambda: optax.chain(optax.add_noise(0.1, 0.5, 0), optax.sgd(RATE)), NOISE),
    "noisy_sgd": (lambda: optax.noisy_sgd(RATE, key=0), NOISE),
    "differentially_private_aggregate": (
        lambda: contrib.differentially_private_aggregate(1.0, 1.0, 0),
        f"{MORE}|keeps the shapes",
    ),
    "monitor": (
        lambda: optax.chain(
            optax.sgd(RATE),
            optax.monitor({"norm": optax.measure_with_ema(optax.tree.norm, 0.9)}),
        ),
        "keeps the shapes of its state and of the parameters, and this one's does not",
    ),
}


@pytest.fixture(autouse=True)
def promotion():
    """Some transforms of optax multiply arrays of different ranks, as users may."""
    with jax.numpy_rank_promotion("allow"):
        yield


FAST = ("adam", "MultiSteps", "partition", "schedule_free_sgd")


@pytest.mark.parametrize("name", also_slowly(FAST, TABLE))
def test_what_works_trains_as_optax_does_and_what_does_not_is_refused(name):
    """One worker, two rounds of four steps: the state is initialised anew, or goes on."""
    make, *outcomes = TABLE[name]
    expected = plainly_trained(make(), STEPS)
    for opt_state, outcome in zip(("reset", "carry"), outcomes):
        if outcome == WORKS:
            assert_alike(trained(make(), opt_state, STEPS), expected[opt_state])
        else:
            with pytest.raises(ValueError, match=outcome):
                ist(tiny(2), TASK, make(), batch_size=BATCH, opt_state=opt_state)
    moved = distance(expected["carry"], expected["start"])
    assert (moved > 0) == (name != "set_to_zero")


NOT_CARRIED = [name for name, (*_, carry) in TABLE.items() if carry != WORKS]


@pytest.mark.parametrize("name", also_slowly(("dadapt_adamw",), NOT_CARRIED))
def test_data_parallel_takes_what_cannot_be_carried_and_its_state_goes_on(name):
    make, *_ = TABLE[name]
    expected = plainly_trained(make(), STEPS)["carry"]
    assert_alike(trained(make(), "data_parallel", STEPS), expected)


@pytest.mark.parametrize("name", TABLE)
def test_every_optimizer_of_the_table_is_accepted_or_refused_when_the_method_is_made(name):
    """Two subnetworks; no round is compiled."""
    make, *outcomes = TABLE[name]
    tx = make()
    data_parallel(tiny(2), TASK, tx, num_workers=2, batch_size=BATCH)
    ensemble(tiny(2), TASK, tx, batch_size=BATCH)
    for opt_state, outcome in zip(("reset", "carry"), outcomes):
        options = dict(batch_size=BATCH, opt_state=opt_state)
        if outcome == WORKS:
            jax.eval_shape(ist(tiny(2), TASK, tx, **options).init, ROOT)
        else:
            with pytest.raises(ValueError, match=outcome):
                ist(tiny(2), TASK, tx, **options)


@pytest.mark.parametrize("name", REFUSED)
def test_an_optimizer_that_needs_more_or_draws_numbers_is_refused_by_every_method(name):
    make, words = REFUSED[name]
    options = dict(batch_size=BATCH)
    for method in (
        lambda: ist(tiny(2), TASK, make(), **options),
        lambda: ist(tiny(2), TASK, make(), opt_state="carry", **options),
        lambda: ensemble(tiny(2), TASK, make(), **options),
        lambda: data_parallel(tiny(2), TASK, make(), num_workers=2, **options),
    ):
        with pytest.raises(ValueError, match=words) as error:
            method()
        assert "\n" not in str(error.value)


def test_an_outer_optimizer_that_draws_numbers_is_refused():
    with pytest.raises(ValueError, match=NOISE):
        ist(tiny(2), TASK, optax.sgd(RATE), batch_size=BATCH, outer_tx=optax.noisy_sgd(1.0, key=0))


@pytest.mark.parametrize("name", ["cocob", "madgrad", "schedule_free_sgd"])
def test_parameters_that_the_state_computes_are_not_merged(name):
    """Their next step would undo what the merge, or an outer optimizer, did."""
    make, options = TABLE[name][0], dict(num_workers=2, batch_size=BATCH)
    with pytest.raises(ValueError, match="its own averages, and would undo what a synchronis"):
        local_sgd(tiny(2), TASK, make(), opt_state="local", **options)
    with pytest.raises(ValueError, match="its own averages, and would undo what an outer optim"):
        local_sgd(tiny(2), TASK, make(), opt_state="carry", outer_tx=optax.sgd(1.0), **options)
    local_sgd(tiny(2), TASK, make(), opt_state="carry", **options)


def test_the_page_says_of_every_optimizer_what_is_so():
    names = {name.split(",")[0] for name in REFUSED}
    assert not [name for name in names if f"`{name}`" not in PAGE]
    said = {}
    for row, *cells in re.findall(r"^\| (.*?) \| (.*?) \| (.*?) \| .*? \|$", PAGE, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", row):
            said.setdefault(name, [not cell.startswith("no") for cell in cells])
    for name, (_, *outcomes) in TABLE.items():
        assert said[name] == [outcome == WORKS for outcome in outcomes], name


@pytest.mark.skipif(optax.__version__ != TESTED, reason="another optax may have more transforms")
def test_every_transform_of_optax_is_in_a_table():
    named = set(re.findall(r"(?:optax|contrib)\.(\w+)", pathlib.Path(__file__).read_text()))
    transforms = (optax.GradientTransformation, optax.GradientTransformationExtraArgs)
    public = {
        name
        for module in (optax, contrib)
        for name, value in vars(module).items()
        if inspect.isfunction(value) and _returns(value) in transforms and name[0] != "_"
    }
    others = {name for name in public - named if not name.startswith("scale_by_")}
    # parts of what is there, and other names of it
    assert others <= {
        "add_decayed_weights",
        "dpsgd",
        "multi_transform",
        "named_chain",
        "optimistic_adam",
        "with_extra_args_support",
    }, others


def _returns(function: typing.Any) -> typing.Any:
    return inspect.signature(function).return_annotation
