"""What is wrong with a command line or a config file is one line and exit status 2."""

import json
import re
import time

import pytest
from command_line import DIGITS, GCN, ROOT, TEXT

from ist_jax.cli.commands import export, run
from ist_jax.cli.config import Config, ConfigError, ConfigFile

# (arguments, what the message says)
CASES = [
    ("--metod=ist", "--metod is no option: did you mean 'method'"),
    ("--config.seed 1", "--config.seed is no option: did you mean 'seed'"),
    (
        "--config.optimizer.momentum=0",
        "--config.optimizer.momentum is no option: did you mean 'optimizer.momentum'",
    ),
    ("--optimizer.learning_rte=1", "did you mean 'optimizer.learning_rate'"),
    ("--learning_rate=1", "did you mean 'outer.learning_rate' or 'optimizer.learning_rate'"),
    ("--method=its", "method is one of .* not 'its': did you mean 'ist'"),
    ("--decomposition=units", "decomposition is one of auto, mlp"),
    ("--decomposition=neurons", "is for model.name='transformer', not 'mlp'"),
    ("--model.name=mpl", "model.name is one of mlp.* not 'mpl': did you mean 'mlp'"),
    ("--num_subnets=0.5", "num_subnets is an integer, not '0.5'"),
    ("--num_subnets=0", "num_subnets is from 1 to .* not 0"),
    ("--num_subnets=-2", "num_subnets is from 1"),
    ("--num_subnets=512", "narrower than num_subnets=512"),
    ("--model.hidden 64 0", "model.hidden names the width"),
    ("--model.hidden", "model.hidden names the width"),
    ("--local_steps=0", "local_steps is from 1"),
    ("--batch_size=-1", "batch_size is from 0"),
    ("--batch_size=1", "at least two examples per step"),
    ("--epochs=0", "epochs is between 0 and 1e.09, both excluded, not 0.0"),
    ("--epochs=nan", "epochs is between"),
    ("--epochs=many", "epochs.*many"),
    ("--partition=random", "partition is one of"),
    ("--model.hidden 1000000 1000000", "holds at least 5,... GB of parameters, and the memory is"),
    ("--placement=gpu", "placement is one of"),
    ("--num_devices=99", "num_devices=99 is more than the 8 devices"),
    ("--placement=sharded --num_devices=3", "num_subnets=4 is no multiple of num_devices=3"),
    ("--placement=sharded --num_devices=2 --partition=rolling", "a mesh exchanges equal blocks"),
    ("--opt_state=local", "stays with a worker, while the units of ist move"),
    ("--opt_state=carry --method=data_parallel", "data_parallel always keeps its state"),
    ("--outer.name=sgd --method=ensemble", "which ensemble does not have"),
    ("--method=diloco --outer.name=none", "diloco is local SGD with an outer optimizer"),
    ("--method=sparse_loco --outer.name=none", "sparse_loco is local SGD with an outer optimizer"),
    ("--method=sparse_loco --outer.momentum=0.5", "an outer optimizer .* with momentum"),
    ("--method=sparse_loco --sparse.density=0", "sparse.density is from 1e-09 to 1, not 0.0"),
    (
        "--method=diloco --streaming.overlap=1",
        "belongs to method=streaming_diloco",
    ),
    (
        "--method=streaming_diloco --streaming.overlap=21",
        "overlap=21 must be at most the 10 local steps",
    ),
    (
        "--method=streaming_diloco --streaming.fragments=99",
        "must be from 1 to ., the number of the model's parameters",
    ),
    ("--method=streaming_diloco --opt_state=carry", "streaming_diloco always keeps its state"),
    ("--exchange.average_every=2", "average_every=2 averages parameters without a group less oft"),
    ("--exchange.average_every=2 --method=diloco", "which exchanges units, not to diloco"),
    ("--optimizer.name=muon --optimizer.momentum=0.9", "belongs to sgd; muon has its own"),
    ("--model.scaling=keep", "stands in for a norm"),
    ("--model.norm=layernorm", "did you mean 'layer'"),
    (
        "--model.norm=layer --model.hidden 254",
        r"must divide every layer of model.hidden=\(254,\): LayerNorm",
    ),
    ("--model.activation=sigmoid --model.hidden 254", "'sigmoid' is not 0 at 0"),
    ("--dense_fraction=0.7 --warmup_fraction=0.3", "leave no samples"),
    ("--dense_fraction=0.1 --method=ensemble", "must be 0"),
    ("--optimizer.momentum=2", "optimizer.momentum is from 0 to 1"),
    ("--data.validation_fraction=1", "data.validation_fraction is between 0 and 1"),
    ("--data.name=idx", "needs data.dir, the folder"),
    ("--data.name=npz", "needs data.dir, the file"),
    ("--data.name=mnist", "data.name is one of"),
    ("--batch_size=0 --data.split=disjoint", "needs data.split=shared"),
    (
        "--model.name=gcn --decomposition=mlp",
        "decomposition='mlp' is for model.name='mlp', not 'gcn'",
    ),
    (
        "--model.name=gcn",
        "model.norm is one of none, layer, matrix for model.name='gcn', not 'batch'",
    ),
    (
        "--model.name=gcn --model.norm=none",
        "batch_size=.* counts clusters, of which there are data.clusters=1",
    ),
    (
        f"{GCN} --model.hidden 254",
        r"must divide every layer of model.hidden=\(254,\): normalisation runs over",
    ),
    (
        f"{GCN} --model.hidden 64 --model.split_output=False",
        "leave no layer to partition in a model",
    ),
    (f"{GCN} --model.norm=matrix --data.clusters=8", "model.norm=matrix normalises over all nodes"),
    (
        f"{GCN} --model.scaling=keep",
        "model.scaling='keep' stands in for a norm, and model.norm is 'layer'",
    ),
    (
        f"{GCN} --model.name=gat --model.scaling=keep",
        "model.scaling is one of none for model.name='gat'",
    ),
    (f"{GCN} --data.split=dirichlet --batch_size=1", "dirichlet is by labels, which the clusters"),
    (
        f"{GCN} --data.split=disjoint --data.clusters=8 --batch_size=4",
        "gives each of 4 workers a share of",
    ),
    ("--model.split_input=True", "model.split_input=True belongs to gcn and sage and gat"),
    ("--data.clusters=4", "data.clusters=4, .*: for graphs, which data.name='digits' is not"),
    (f"{GCN} --data.name=digits_graph --data.augment=crop", "data.augment='crop' is for images"),
    ("--data.projection=8", "data.projection=8: for graphs, which data.name='digits' is not"),
    (
        f"{GCN} --data.name=digits_graph --data.validation_fraction=0.2",
        "has its own validation split",
    ),
    (
        "--model.norm=layer --model.hidden 4",
        "norm=layer runs over the units of a subnetwork, at least two",
    ),
    (f"{GCN} --model.dropout=1", "model.dropout is from 0 to 0.99"),
    (f"{GCN} --data.name=planetoid", "data.name='planetoid' needs data.dir, the folder"),
    (f"{GCN} --data.name=graph_npz", "data.name='graph_npz' needs data.dir, the file"),
    ("--eval_subnets=maybe", "eval_subnets is true or false, not 'maybe'"),
    (
        "--exchange.compression=int4",
        "exchange.compression is one of exact, bfloat16, int8, not 'int4'",
    ),
    ("--exchange.compression=int8 --method=local_sgd", "which exchanges units, not to local_sgd"),
    ("--failures.rate=1.5", "failures.rate is from 0 to 1"),
    (
        "--failures.rounds 1 2 --failures.workers 0",
        "one worker for each of failures.rounds, not 1 for 2",
    ),
    ("--failures.rounds 1000000 --failures.workers 0", "names round 1000000, and the run has"),
    ("--failures.rounds 1 --failures.workers 9", "failures.workers=.9,. from 0 to"),
    (
        "--link.bandwidth=fast",
        "link.bandwidth is a number with one of the units bps, .* not 'fast'",
    ),
    ("--link.bandwidth=0Gbps", "link.bandwidth is above 0"),
    (
        "--link.bandwidth=1Gbps --link.latency=3",
        "link.latency is a number with one of the units s, ms",
    ),
    (
        "--link.bandwidth=1Gbps --link.latency=1e999s",
        "link.latency is a finite number, not '1e999s'",
    ),
    ("--link.bandwidth=1e400Gbps", "link.bandwidth is a finite number"),
    (
        "--batch_size=1000000",
        "batch_size=1000000 is above the number of training examples, 11..: use 0 for all",
    ),
    (
        "--split_stages 1",
        "split_stages=.1,. belongs to resnet, and does nothing for model.name='mlp'",
    ),
    ("--model.channels 8", "model.channels=.8,. belongs to vgg, and does nothing"),
    ("--model.name=resnet --model.stage_sizes 1 0", "model.stage_sizes names the blocks"),
    (
        "--model.name=resnet --num_subnets=23",
        "num_subnets=23 and min_blocks=0 are at most the 22 blocks",
    ),
    (
        "--model.name=resnet --min_blocks=23",
        "num_subnets=4 and min_blocks=23 are at most the 22 blocks",
    ),
    ("--model.name=resnet --split_stages 5", r"split_stages are stages from 1 to 4 .* not \(5,\)"),
    ("--model.name=resnet --model.block=wide", "model.block is one of preact, post"),
    (
        "--model.name=resnet --model.norm=layer",
        "model.norm is one of batch, group for model.name='resnet'",
    ),
    (
        "--model.name=resnet --decomposition=channels",
        "is for model.name='vgg', not 'resnet': use blocks, filters or auto",
    ),
    (
        "--model.name=resnet --decomposition=filters --model.norm=group",
        "are for decomposition=blocks",
    ),
    (
        "--model.name=resnet --decomposition=filters --model.block=post --min_blocks=2",
        "for filters",
    ),
    (
        "--model.name=resnet --decomposition=filters --num_subnets=65",
        "model.width=64 is less than num_subnets=65",
    ),
    ("--model.name=resnet", "takes images, .* not shape"),
    (
        "--model.name=vgg --model.channels 0",
        "model.channels has at least one convolution, each of at least 4 channels",
    ),
    ("--data.context=64", "data.context=64 belongs to tokens .data.name=text or tokens."),
    ("--data.name=text", "needs data.dir, the file"),
    (f"{TEXT} --data.vocabulary=words", "data.vocabulary is one of characters, bytes"),
    (f"{TEXT} --data.augment=crop", "data.augment='crop' is for labelled examples or images"),
    (f"{TEXT} --data.split=dirichlet", "data.split='dirichlet' is for labelled examples"),
    (f"{TEXT} --data.validation_fraction=0.5", "and again for the test: use less than 0.5"),
    (f"{TEXT} --model.norm=batch", "model.norm is one of rms, layer for model.name='transformer'"),
    (f"{TEXT} --model.heads=5", "model.heads=5 must divide model.width=64"),
    (f"{TEXT} --model.kv_heads=3", "model.kv_heads=3 must divide model.heads"),
    (f"{TEXT} --model.heads=64", "model.positions=rotary rotates pairs of features"),
    (f"{TEXT} --model.layers=3 --decomposition=layers", "a group has 3 layers"),
    (
        f"{TEXT} --decomposition=experts --model.experts=1",
        "model.experts_per_token=2 must be at most",
    ),
    (f"{TEXT} --model.balance=1", "model.balance=1.0 belongs to experts"),
    (f"{TEXT} --data.name=digits --data.dir=", "is for next_token, and data.name='digits' is"),
    ("--data.augment=crop", "is for images, and an input has shape"),
    ("--data.augment=flip", "data.augment is one of none, crop, crop_flip"),
    ("--optimizer.momentum_schedule=demon", "optimizer.momentum decay, which is 0"),
    ("--local_steps_schedule 5 0", "local_steps_schedule=.5, 0. has local steps of rounds"),
    ("--local_steps_schedule 5 --method=ensemble", "leave it out for method='ensemble'"),
    ("--local_steps_schedule 5 --method=diloco", "leave it out for method='diloco'"),
    ("--local_steps_schedule 5 --method=sparse_loco", "leave it out for method='sparse_loco'"),
    (
        "--model.dropout=0.5",
        "model.dropout=0.5 belongs to gcn .* transformer, and does nothing for model.name='mlp'",
    ),
    (
        "--model.name=resnet --model.bias=True",
        "model.bias=True belongs to mlp .* does nothing for model.name='resnet'",
    ),
    ("--min_blocks=2", "min_blocks=2 belongs to resnet"),
    ("--model.name=resnet --min_blocks=2 --method=ensemble", "not with method='ensemble'"),
    ("--model.name=resnet --min_blocks=2 --partition=uniform", "not with .* partition='uniform'"),
    ("--model.name=resnet --decomposition=filters", "use model.block=post"),
    ("--model.name=vgg --batch_size=1", "needs at least two examples per step"),
    ("--model.name=vgg --data.dataset=images", "halves images of side 8 4 times; at most 3 times"),
    (
        "--data.dir=somewhere",
        "data.dir='somewhere': data.name='digits' is embedded and reads no files",
    ),
    ("--data.name=idx --data.dir=x --data.dataset=kmnist", "'idx' is one data set: set"),
    ("--flagfile=nowhere", "--flagfile is no option"),
    ("stray", "unexpected argument 'stray'"),
    ("--seed=1e3", "seed is an integer, not '1e3'"),
    ("--seed", "Missing value for argument .--seed."),
    ("--x=1", "--x is no option .--help lists the options"),
    ("--method=IST", "not 'IST': did you mean 'ist'"),
    (
        "--method=local_sgd --outer.learning_rate=0.4",
        "outer.learning_rate=0.4 belongs to an outer optimizer",
    ),
    ("--link.latency=5ms", "link.latency=5ms belongs to a simulated link"),
    (
        "--data.alpha=0.5",
        "data.alpha=0.5 belongs to data.split=dirichlet, which this run does not have: leave it",
    ),
    ("--data.crop_padding=5", "data.crop_padding=5 belongs to an augmentation"),
    (
        "--model.eval_norm=batch --eval_batch_size=1",
        "at least two examples per batch, and eval_batch_size is 1",
    ),
    ("--frobnicate=1", "--frobnicate is no option"),
]
WRONG = dict(CASES)


@pytest.mark.parametrize("arguments", sorted(WRONG))
def test_a_wrong_configuration_is_one_line_and_status_2(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    began = time.monotonic()
    assert run.main(["run", DIGITS, "--workdir=here", *arguments.split()]) == 2
    assert time.monotonic() - began < 5
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert re.search(WRONG[arguments], error), error
    assert not set(error) & set("─│╭╰"), "no part of a box"
    assert not (tmp_path / "here").exists(), "nothing was started"


def test_missing_arguments_and_files_are_said(capsys, tmp_path):
    for arguments, says in (
        (["--workdir=x"], "--config FILE is missing"),
        (["--config"], "Missing value for argument '--config'. Expected 1 values.\n"),
        (
            ["--config", "--workdir=x"],
            "Missing value for argument '--config'. Expected 1 values.\n",
        ),
        ([DIGITS], "--workdir DIR is missing"),
        (["--config=nowhere.py", "--workdir=x"], "there is no such file"),
        ([f"--config={'x' * 300}.py", "--workdir=x"], "File name too long"),
        ([f"--config={ROOT}/README.md", "--workdir=x"], "a config file is a .py file"),
        ([DIGITS, "--workdir=x", "--data.name=idx", f"--data.dir={tmp_path}"], "is missing"),
    ):
        assert run.main(["run", *arguments]) == 2
        assert says in capsys.readouterr().err


FILES = dict(
    [
        ("Config(modle=1)", "unexpected keyword argument 'modle'"),
        (
            "replace(Config(), optimiser=dict(momentum=0.9))",
            "optimiser.momentum is no field: did you mean",
        ),
        ("replace(Config(), model=dict(hiden=(8,)))", "did you mean 'model.hidden'"),
        ("Config(batch_size=0.5)", "batch_size is an integer, not 0.5"),
        (
            "Config(model=ModelConfig(hidden=(8.5,)))",
            "model.hidden is integers such as 256 256, not '8.5'",
        ),
        ("Config(method='its')", "method is one of .* not 'its': did you mean 'ist'"),
        (
            "Config(optimizer=OptimizerConfig(momentum=2.0))",
            "optimizer.momentum is from 0 to 1, not 2.0",
        ),
        ("dict(batch_size=3)", "get_config.. must return an ist_jax.cli.config.Config"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ]
)


@pytest.mark.parametrize("value", sorted(FILES))
def test_what_is_wrong_in_a_config_file_is_one_line_and_names_the_file(value, tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(f"from ist_jax.cli.config import *\ndef get_config():\n    return {value}\n")
    assert run.main(["run", f"--config={file}", f"--workdir={tmp_path}/run"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --config {file}: ") and error.count("\n") == 1
    assert re.search(FILES[value], error), error


@pytest.mark.parametrize(
    "signature, says",
    [
        ("num_subnet=4", "the parameter num_subnet of get_config.. is no top-level field: did you"),
        ("method", "the parameter method of get_config.. needs a default"),
        ("model=None", "the parameter model of get_config.. is no top-level field"),
    ],
)
def test_parameters_of_a_config_file_are_top_level_fields(signature, says, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(f"def get_config({signature}):\n    return None\n")
    with pytest.raises(ConfigError, match=says):
        ConfigFile(str(file))


def test_a_wrong_configuration_in_python_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match="num_subnets is an integer, not '4'"):
        run.train(Config(num_subnets="4"), tmp_path / "run")
    with pytest.raises(ConfigError, match="leave no samples for ist"):
        run.train(Config(warmup_fraction=0.5, dense_fraction=0.5), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_workdir_that_cannot_be_written_is_said(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run.main(["run", DIGITS, f"--workdir={tmp_path}/file/below"]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_a_workdir_of_an_older_layout_is_refused_in_one_line(tmp_path, capsys):
    old = {"config": {"method": "ist", "exchange.wire": "exact", "drop.rate": 0.0}}
    old["environment"] = {"data": {"fingerprint": "0"}}
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert run.main(["run", DIGITS, f"--workdir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert "a run of an earlier version (its config.json has exchange.wire, drop.rate)" in error
    assert error.count("\n") == 1
    assert run.main(["run", f"--config={tmp_path}/config.json", "--workdir=x"]) == 2
    error = capsys.readouterr().err
    assert "exchange.wire is no field" in error and "has to be trained again" in error
    for main, arguments in (
        (run.main, ["run", DIGITS, f"--init_from={tmp_path}", f"--workdir={tmp_path}/next"]),
        (export.main, ["export", f"--workdir={tmp_path}", f"--out={tmp_path}/out"]),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {tmp_path}/config.json: exchange.wire is no field")
        assert "has to be trained again" in error and error.count("\n") == 1
    assert not (tmp_path / "next").exists() and not (tmp_path / "out").exists()
