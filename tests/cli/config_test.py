"""The command line and config files: what is right arrives where it should."""

import dataclasses
import json
import pathlib

import pytest
from command_line import DIGITS, GCN

from ist_jax import data
from ist_jax.cli import builders
from ist_jax.cli.commands import run
from ist_jax.cli.config import FIELDS, METHODS, Config, ConfigError, defaults, described, resolve
from ist_jax.cli.config_files import load_config
from ist_jax.cli.validation import CHOICES, RANGES, validate

ROOT = pathlib.Path(__file__).parent.parent.parent


def parse(*arguments, config=DIGITS, workdir="--workdir=unused"):
    return run.parse([config, workdir, *arguments]).config


def test_help_lists_every_field_with_its_meaning(capsys):
    assert run.main(["run", "--help"]) == 0
    shown = capsys.readouterr().out
    for name, field in FIELDS.items():
        assert f"--config.{name}=" in shown and field.metadata["doc"] in shown


def test_no_field_defaults_to_none_and_every_field_is_documented_and_checked():
    for name, field in FIELDS.items():
        assert field.default is not None and field.metadata["doc"]
        free = field.type is bool or name in (
            "model.hidden",
            "data.dir",
            "data.dataset",
            "init_from",
        )
        free |= name in (
            "drop.rounds",
            "drop.workers",
            "link.bandwidth",
            "link.latency",
        )  # by functions of their own
        free |= name in (
            "model.stage_sizes",
            "model.channels",
            "split_stages",
            "local_steps_schedule",
        )
        assert free or name in CHOICES or name in RANGES, f"{name} is checked nowhere"
    assert set(CHOICES) | set(RANGES) <= set(FIELDS)
    assert described().count("\n") + 1 == 2 * len(FIELDS)


def test_the_command_line_wins_over_the_methods_own_value_which_wins_over_the_file():
    config = defaults()
    config.optimizer.learning_rate = 0.1
    config.per_method.single.optimizer = {"learning_rate": 0.2}
    config.method = "ist"
    assert resolve(config).optimizer.learning_rate == 0.1
    config.method = "single"
    assert resolve(config).optimizer.learning_rate == 0.2
    config.optimizer.learning_rate = 0.3
    assert resolve(config, {"optimizer.learning_rate": 0.3}).optimizer.learning_rate == 0.3


def test_overrides_arrive_with_their_types():
    config = parse(
        "--config.model.hidden=(32, 16)",
        "--config.epochs=2",
        "--config.eval_subnets=false",
        "--config.model.norm=none",
    )
    assert config.model.hidden == (32, 16) and config.epochs == 2.0 and config.eval_subnets is False
    assert dataclasses.asdict(config)["model"]["norm"] == "none"


def test_a_config_json_of_a_run_is_a_config(tmp_path):
    from ist_jax.cli.records.record import start

    config = parse("--config.model.hidden=(32, 16)", "--config.seed=3")
    start(tmp_path, config, data.load("digits"))
    assert parse(config=f"--config={tmp_path}/config.json") == config
    assert parse("--config.seed=4", config=f"--config={tmp_path}/config.json").seed == 4
    written = json.loads((tmp_path / "config.json").read_text())
    assert (
        written["environment"]["packages"]["jax"]
        and len(written["environment"]["data"]["fingerprint"]) == 64
    )
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="not the config.json of a run"):
        parse(config=f"--config={tmp_path}/config.json")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_built_with_the_samples_of_the_config(method):
    config = parse(f"--config.method={method}", "--config.epochs=3.5")
    dataset = builders.dataset(config)
    phases, _ = builders.phases(config, dataset)
    (phase,) = phases
    assert phase.samples == round(3.5 * dataset.num_train)
    assert phase.algorithm.num_workers == (1 if method == "single" else 4)


def test_a_model_refuses_data_of_another_kind():
    config = parse()
    with pytest.raises(
        ConfigError,
        match="model.name='mlp' is for classification, and data.name='digits' is regression",
    ):
        builders.phases(config, builders.dataset(config).spec._replace(task="regression"))


def test_a_last_layer_that_is_not_dealt_may_have_any_width():
    assert parse(
        *GCN.split(), "--config.model.hidden=(256,10)", "--config.model.split_output=False"
    ).model.hidden == (256, 10)


def test_a_graph_and_a_model_of_vectors_refuse_each_other():
    for arguments in (
        ["--config.data.name=digits_graph", "--config.data.validation_fraction=0.1"],
        GCN.split(),
    ):
        config = parse(*arguments)
        with pytest.raises(ConfigError, match="choose another of the two"):
            builders.phases(config, builders.dataset(config))


def test_phases_share_out_the_samples():
    config = parse(
        "--config.warmup_fraction=0.25", "--config.dense_fraction=0.25", "--config.epochs=4"
    )
    dataset = builders.dataset(config)
    phases, _ = builders.phases(config, dataset)
    assert [phase.samples for phase in phases] == [
        dataset.num_train,
        2 * dataset.num_train,
        dataset.num_train,
    ]
    assert [phase.algorithm.costs.steps_per_sync for phase in phases] == [None, None, 1]


def test_batch_size_zero_is_the_whole_training_set():
    config = parse("--config.batch_size=0")
    dataset = builders.dataset(config)
    assert builders.phases(config, dataset)[0][0].algorithm.batch_size == dataset.num_train


@pytest.mark.parametrize("name", ["constant", "cosine", "linear", "step", "thirds"])
def test_schedules(name):
    optimizer = dataclasses.replace(
        Config().optimizer, schedule=name, learning_rate=0.4, warmup=0.1
    )
    rate = builders.schedule(optimizer, 100)
    assert (
        float(rate(0)) == 0
        and float(rate(5)) == pytest.approx(0.2)
        and float(rate(10)) == pytest.approx(0.4)
    )
    assert float(rate(100)) == pytest.approx(
        {"constant": 0.4, "cosine": 0, "linear": 0, "step": 0.004, "thirds": 0.004}[name], abs=1e-6
    )


CONFIG_FILES = [
    file
    for file in sorted((ROOT / "experiments").glob("*/*.py"))
    if "def get_config" in file.read_text()
]


@pytest.mark.parametrize("file", CONFIG_FILES, ids=lambda file: file.stem)
def test_every_config_file_is_valid_for_every_method(file):
    needs_dir = load_config(str(file)).data.name not in data.EMBEDDED
    for method in METHODS:
        config = parse(
            f"--config.method={method}",
            *(["--config.data.dir=x"] * needs_dir),
            config=f"--config={file}",
        )
        assert config.method == method


def test_the_last_of_two_values_wins_also_for_tuples():
    assert parse("--config.model.hidden=(8,8)", "--config.model.hidden=(16,)").model.hidden == (16,)
    assert parse("--config.seed=1", "--config.epochs=2", "--config.seed=3").seed == 3
    assert parse("--config.seed", "2", "--config.num_subnets", "2").seed == 2


def test_validate_returns_the_config():
    model = dataclasses.replace(Config().model, scaling="none")
    assert validate(Config()) == dataclasses.replace(Config(), decomposition="mlp", model=model)


RESNET = ("--config.model.name=resnet", "--config.data.dataset=images")


def test_branches_of_dealt_blocks_are_scaled_as_the_paper_says_unless_something_else_is():
    """ResIST, section 3: 'keep'. Other models, and methods that do not deal blocks, are not scaled."""
    assert parse(*RESNET).model.scaling == "keep"
    assert parse(*RESNET, "--config.model.scaling=none").model.scaling == "none"
    for other in (
        "--config.method=local_sgd",
        "--config.method=ensemble",
        "--config.decomposition=filters",
    ):
        block = ["--config.model.block=post"] * other.endswith("filters")
        assert parse(*RESNET, other, *block).model.scaling == "none"
    assert parse().model.scaling == "none"


@pytest.mark.parametrize("method", ["single", "data_parallel", "local_sgd"])
def test_a_method_that_trains_the_whole_model_is_not_refused_for_a_split_that_it_does_not_use(
    method,
):
    """Stages and blocks to be dealt, filters of a bottleneck or under a group norm; of one worker, whose shards it has."""
    whole = (
        *RESNET,
        f"--config.method={method}",
        "--config.model.stage_sizes=(1,2)",
        "--config.model.width=8",
    )
    images = data.load("digits", dataset="images")
    for options in (
        ["--config.split_stages=(3,)", "--config.min_blocks=9"],
        [
            "--config.decomposition=filters",
            "--config.model.block=preact_bottleneck",
            "--config.num_subnets=16",
        ],
        ["--config.decomposition=filters", "--config.model.norm=group"],
    ):
        made = builders.decomposition(parse(*whole, *options), images.spec)
        assert made.partition.sizes == {} and made.full.module.stage_sizes == (1, 2)
        assert made.full.module.unrolled == ("--config.decomposition=filters" in options), (
            "parameters lie as those of ist do"
        )
    if method == "single":
        assert (
            parse(
                "--config.method=single", "--config.batch_size=0", "--config.data.split=disjoint"
            ).batch_size
            == 0
        )


@pytest.mark.parametrize("depth, hidden", [("2layer", (4096,)), ("3layer", (8192, 8192))])
def test_the_speech_configs_have_the_papers_settings(depth, hidden):
    config = run.parse(
        [f"--config={ROOT}/experiments/ist/speech_{depth}.py", "--config.data.dir=x", "--workdir=x"]
    ).config
    assert config.model.hidden == hidden and not config.model.bias and config.model.norm == "batch"
    assert (config.batch_size, config.local_steps, config.epochs) == (128, 60, 100)
    assert (config.optimizer.name, config.optimizer.learning_rate, config.optimizer.schedule) == (
        "sgd",
        0.01,
        "constant",
    )
    assert config.optimizer.momentum == 0 and config.data.name == "speech_commands"
