"""The command line and config files: what is right arrives where it should."""

import dataclasses
import json
import pathlib
import re
import typing

import pytest
from command_line import DIGITS, GCN

from ist_jax import data
from ist_jax.cli import builders, optimizers
from ist_jax.cli.architectures import ARCHITECTURES
from ist_jax.cli.commands import run
from ist_jax.cli.config import (
    FIELDS,
    METHOD_NAMES,
    Config,
    ConfigError,
    ConfigFile,
    from_json,
    replace,
    values,
)
from ist_jax.cli.config.custom import CUSTOM
from ist_jax.cli.experiment import resolve
from ist_jax.cli.methods import METHODS
from ist_jax.cli.validation import validate
from ist_jax.core.partition import PARTITIONS
from ist_jax.core.placement import PLACEMENTS
from ist_jax.exchange import COMPRESSIONS
from ist_jax.methods import OPT_STATES
from ist_jax.models.vgg import VGG12
from ist_jax.tasks import AUGMENTS

ROOT = pathlib.Path(__file__).parent.parent.parent


def parse(*arguments, config=DIGITS, workdir="--workdir=unused"):
    return validate(run.parse(["run", config, workdir, *arguments]).config)


def _documented(kind=Config, prefix=""):
    """Dotted name -> the string below the field, as a reader of the source sees it."""
    source = pathlib.Path(typing.cast(str, __import__("inspect").getsourcefile(kind))).read_text()
    body = source.split(f"class {kind.__name__}:")[1].split("\n@dataclasses")[0]
    docs = {}
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(field.default):
            docs |= _documented(type(field.default), f"{prefix}{field.name}.")
            continue
        below = re.search(rf'\n    {field.name}: .*?\n    """(.*?)"""', body, re.DOTALL)
        docs[prefix + field.name] = below[1]
    return docs


def test_help_lists_every_field_with_its_meaning(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")  # one column of boxes
    assert run.main(["run", "--help"]) == 0
    shown = "".join(capsys.readouterr().out.replace("│", "").split())
    documented = _documented()
    assert set(documented) == set(FIELDS)
    for name, text in documented.items():
        assert f"--{name.replace('_', '-')}" in shown, name
        assert "".join(text.split()) in shown, name


def test_help_shows_the_values_of_the_config_file(capsys):
    assert run.main(["run", DIGITS, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "(default: 60.0)" in shown and "(default: 256 256)" in shown


def test_every_field_has_a_default_and_is_checked():
    assert values(Config()).keys() == FIELDS.keys()
    elsewhere = {"data.dir", "data.dataset", "init_from", "link.bandwidth", "link.latency"}
    elsewhere |= {"builders"}
    for name, field in FIELDS.items():
        assert field.default is not None
        is_checked = field.choices or field.range is not None or field.kind in (bool, tuple)
        assert is_checked or name in elsewhere, f"{name} is checked nowhere"


def test_the_choices_of_the_types_are_those_of_the_library():
    choices = {name: set(field.choices) for name, field in FIELDS.items()}
    assert choices["data.name"] == {*data.SOURCES, CUSTOM} and choices["data.split"] == set(
        data.SPLITS
    )
    assert choices["data.augment"] == set(AUGMENTS)
    assert choices["data.standardise"] == set(data.STANDARDISE)
    assert choices["partition"] == set(PARTITIONS) - {"fixed"}
    assert choices["placement"] == {*PLACEMENTS, "autotune"}
    assert choices["exchange.compression"] == set(COMPRESSIONS)
    assert choices["opt_state"] == {"auto", *OPT_STATES}
    assert choices["decomposition"] == {"auto", *ARCHITECTURES}
    assert choices["method"] == set(METHODS)
    assert choices["model.name"] == {row.model for row in ARCHITECTURES.values()}
    assert Config().model.channels == VGG12
    for name in ("model.norm", "model.activation", "model.scaling", "model.block", "model.dtype"):
        used = {choice for row in ARCHITECTURES.values() for choice in row.choices.get(name, ())}
        assert choices[name] - {"auto"} == used, name


def config_file(folder, text, name="mine"):
    (folder / f"{name}.py").write_text(text)
    return f"--config={folder}/{name}.py"


PER_METHOD = """
from ist_jax.cli.config import Config, OptimizerConfig

def get_config(method="ist", num_subnets=2):
    rate = {"single": 0.2}.get(method, 0.1)
    return Config(batch_size=8 * num_subnets, optimizer=OptimizerConfig(learning_rate=rate))
"""


def test_the_command_line_wins_over_the_methods_value_which_a_config_file_chooses(tmp_path):
    file = config_file(tmp_path, PER_METHOD)
    assert parse(config=file).optimizer.learning_rate == 0.1
    single = parse("--method=single", config=file)
    assert single.optimizer.learning_rate == 0.2 and single.method == "single"
    both = parse("--method=single", "--optimizer.learning_rate=0.3", config=file)
    assert both.optimizer.learning_rate == 0.3
    assert parse(config=file).num_subnets == 2 and parse(config=file).batch_size == 16
    assert parse("--num-subnets", "8", config=file).batch_size == 64


def test_a_config_file_may_import_its_neighbours_whatever_files_were_read_before(tmp_path):
    for folder, rate in (("one", 0.25), ("two", 0.5)):
        (tmp_path / folder).mkdir()
        config_file(tmp_path / folder, f"RATE = {rate}\n", "common")
        text = "import common\nfrom ist_jax.cli.config import Config, OptimizerConfig\n"
        text += "def get_config():\n    return Config(optimizer=OptimizerConfig(common.RATE and"
        text += " 'sgd', common.RATE))\n"
        file = config_file(tmp_path / folder, text)
        assert parse(config=file).optimizer.learning_rate == rate


def test_overrides_arrive_with_their_types():
    config = parse(
        *("--model.hidden", "32", "16"),
        *("--epochs=2", "--eval_subnets=false", "--model.norm=none"),
    )
    assert config.model.hidden == (32, 16) and config.epochs == 2.0 and config.eval_subnets is False
    assert dataclasses.asdict(config)["model"]["norm"] == "none"
    spelled = parse("--optimizer.learning-rate", "0.5", "--num-subnets=2")
    assert spelled == parse("--optimizer.learning_rate=0.5", "--num_subnets", "2")
    assert type(parse("--epochs=2").epochs) is float


def test_a_config_json_of_a_run_is_a_config(tmp_path):
    from ist_jax.cli.records.record import start

    config = parse("--model.hidden", "32", "16", "--seed=3")
    start(tmp_path, resolve(config))
    assert parse(config=f"--config={tmp_path}/config.json") == config
    assert from_json(tmp_path / "config.json") == config
    assert parse("--seed=4", config=f"--config={tmp_path}/config.json").seed == 4
    written = json.loads((tmp_path / "config.json").read_text())
    environment = written["environment"]
    assert environment["packages"]["jax"] and len(environment["data"]["fingerprint"]) == 64
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="not the config.json of a run"):
        parse(config=f"--config={tmp_path}/config.json")


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_every_method_is_built_with_the_samples_of_the_config(method):
    experiment = resolve(parse(f"--method={method}", "--epochs=3.5"))
    (phase,) = experiment.phases
    assert phase.samples == round(3.5 * experiment.data.num_train)
    assert phase.method.num_workers == (1 if method == "single" else 4)
    parts = phase.method.partition
    assert METHODS[method].splits == (parts.num_subnets == 4 and bool(parts.sizes))


def test_a_model_refuses_data_of_another_kind():
    says = "is for classification, regression, multi_label, and data.name='digits' is node_class"
    with pytest.raises(ConfigError, match=f"model.name='mlp' .* {says}"):
        resolve(parse(), spec=data.load("digits").spec._replace(task="node_classification"))


def test_a_last_layer_that_is_not_dealt_may_have_any_width():
    assert parse(
        *GCN.split(), "--model.hidden", "256", "10", "--model.split_output=False"
    ).model.hidden == (256, 10)


def test_a_graph_and_a_model_of_vectors_refuse_each_other():
    for arguments in (
        ["--data.name=digits_graph", "--data.validation_fraction=0.1"],
        GCN.split(),
    ):
        with pytest.raises(ConfigError, match="choose another model or other data"):
            resolve(parse(*arguments))


def test_phases_share_out_the_samples():
    config = parse("--warmup_fraction=0.25", "--dense_fraction=0.25", "--epochs=4")
    experiment = resolve(config)
    phases, passes = experiment.phases, experiment.spec.num_train
    assert [phase.samples for phase in phases] == [passes, 2 * passes, passes]
    assert [phase.method.costs.steps_per_sync for phase in phases] == [None, None, 1]


def test_batch_size_zero_is_the_whole_training_set():
    experiment = resolve(parse("--batch_size=0"))
    assert experiment.phases[0].method.batch_size == experiment.spec.num_train


@pytest.mark.parametrize("name", ["constant", "cosine", "linear", "step", "thirds"])
def test_schedules(name):
    optimizer = dataclasses.replace(
        Config().optimizer, schedule=name, learning_rate=0.4, warmup=0.1
    )
    rate = optimizers.schedule(optimizer, 100)
    assert (
        float(rate(0)) == 0
        and float(rate(5)) == pytest.approx(0.2)
        and float(rate(10)) == pytest.approx(0.4)
    )
    assert float(rate(100)) == pytest.approx(
        {"constant": 0.4, "cosine": 0, "linear": 0, "step": 0.004, "thirds": 0.004}[name], abs=1e-6
    )


CONFIG_FILES = sorted((ROOT / "experiments").rglob("*.py"))


@pytest.mark.parametrize("file", CONFIG_FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_every_config_file_is_valid_for_every_method(file):
    name = ConfigFile(str(file)).config().data.name
    needs_dir = name != CUSTOM and data.SOURCES[name].reads != "nothing"
    for method in METHOD_NAMES:
        place = ["--data.dir=x"] * needs_dir
        config = parse(f"--method={method}", *place, config=f"--config={file}")
        assert config.method == method


def test_one_file_serves_several_numbers_of_subnetworks():
    """Where every value was tuned for each of them."""
    file = f"--config={ROOT}/experiments/ist/equal_seconds.py"
    tuned = {}
    for subnets in (2, 4, 8):
        for method in METHOD_NAMES:
            arguments = [f"--method={method}", f"--num_subnets={subnets}", "--data.dir=x"]
            config = parse(*arguments, config=file)
            tuned[method, subnets] = (config.epochs, config.optimizer.learning_rate)
            assert config.num_subnets == subnets
    assert tuned["ist", 8] == (10.0, 0.005) and tuned["single", 8] == (1.0, 0.001)
    assert tuned["diloco", 2] == (4.0, 0.002)
    with pytest.raises(ConfigError, match="equal_seconds.py: num_subnets is one of 2, 4, 8"):
        parse("--num_subnets=3", "--data.dir=x", config=file)


def test_the_last_of_two_values_wins_also_for_tuples():
    hidden = ["--model.hidden", "8", "8", "--model.hidden", "16"]
    assert parse(*hidden).model.hidden == (16,)
    assert parse("--seed=1", "--epochs=2", "--seed=3").seed == 3
    assert parse("--seed", "2", "--num_subnets", "2").seed == 2


def test_replace_changes_single_values_of_groups():
    config = replace(Config(), epochs=3, model={"hidden": [8, 8]}, **{"optimizer.momentum": 0.5})
    assert config.epochs == 3.0 and config.model.hidden == (8, 8)
    assert config.model.norm == Config().model.norm and config.optimizer.momentum == 0.5


def test_validate_returns_the_config():
    model = dataclasses.replace(Config().model, scaling="none")
    assert validate(Config()) == dataclasses.replace(Config(), decomposition="mlp", model=model)


RESNET = ("--model.name=resnet", "--data.dataset=images")


def test_branches_of_dealt_blocks_are_scaled_as_the_paper_says_unless_something_else_is():
    """ResIST, section 3: 'keep'. Other models, and methods without partitioned blocks: none."""
    assert parse(*RESNET).model.scaling == "keep"
    assert parse(*RESNET, "--model.scaling=none").model.scaling == "none"
    for other in (
        "--method=local_sgd",
        "--method=ensemble",
        "--decomposition=filters",
    ):
        block = ["--model.block=post"] * other.endswith("filters")
        assert parse(*RESNET, other, *block).model.scaling == "none"
    assert parse().model.scaling == "none"


@pytest.mark.parametrize("method", ["single", "data_parallel", "local_sgd"])
def test_a_method_that_trains_the_whole_model_is_not_refused_for_a_split_that_it_does_not_use(
    method,
):
    """Stages and blocks to be partitioned, filters of a bottleneck or under a group norm; and one
    worker's shards."""
    whole = (
        *RESNET,
        f"--method={method}",
        "--model.stage_sizes",
        "1",
        "2",
        "--model.width=8",
    )
    images = data.load("digits", dataset="images")
    for options in (
        ["--split_stages", "3", "--min_blocks=9"],
        [
            "--decomposition=filters",
            "--model.block=preact_bottleneck",
            "--num_subnets=16",
        ],
        ["--decomposition=filters", "--model.norm=group"],
    ):
        made = builders.make_decomposition(parse(*whole, *options), images.spec)
        assert made.partition.sizes == {} and made.full.module.stage_sizes == (1, 2)
        assert made.full.module.unrolled == ("--decomposition=filters" in options), (
            "parameters lie as those of ist do"
        )
    if method == "single":
        assert parse("--method=single", "--batch_size=0", "--data.split=disjoint").batch_size == 0


@pytest.mark.parametrize("depth, hidden", [("2layer", (4096,)), ("3layer", (8192, 8192))])
def test_the_speech_configs_have_the_papers_settings(depth, hidden):
    config = parse("--data.dir=x", config=f"--config={ROOT}/experiments/ist/speech_{depth}.py")
    assert config.model.hidden == hidden and not config.model.bias and config.model.norm == "batch"
    assert (config.batch_size, config.local_steps, config.epochs) == (128, 60, 100)
    assert (config.optimizer.name, config.optimizer.learning_rate, config.optimizer.schedule) == (
        "sgd",
        0.01,
        "constant",
    )
    assert config.optimizer.momentum == 0 and config.data.name == "speech_commands"
