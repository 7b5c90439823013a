"""What is wrong with a command line or a config file is one line and exit status 2."""

import re
import time

import pytest
from command_line import DIGITS, GCN, ROOT

from ist_jax.cli.commands import run
from ist_jax.cli.config import ConfigError, defaults, resolve

WRONG = {
    "--config.metod=ist": "config.metod is no field: did you mean 'method'",
    "--config.optimizer.learning_rte=1": "did you mean 'optimizer.learning_rate'",
    "--config.learning_rate=1": "did you mean '.*learning_rate'",
    "--config.method=its": "method is one of .* not 'its': did you mean 'ist'",
    "--config.decomposition=neurons": "decomposition is one of auto, mlp",
    "--config.model.name=mpl": "model.name is one of mlp.* not 'mpl': did you mean 'mlp'",
    "--config.num_subnets=0.5": "num_subnets is an integer, not '0.5'",
    "--config.num_subnets=0": "num_subnets is from 1 to .* not 0",
    "--config.num_subnets=-2": "num_subnets is from 1",
    "--config.num_subnets=512": "narrower than num_subnets=512",
    "--config.model.hidden=(64,0)": "model.hidden names the width",
    "--config.model.hidden=()": "model.hidden names the width",
    "--config.local_steps=0": "local_steps is from 1",
    "--config.batch_size=-1": "batch_size is from 0",
    "--config.batch_size=1": "at least two examples per step",
    "--config.epochs=0": "epochs is between 0 and 1e.09, both excluded, not 0.0",
    "--config.epochs=nan": "epochs is between",
    "--config.epochs=many": "epochs.*many",
    "--config.partition=random": "partition is one of",
    "--config.model.hidden=(1000000,1000000)": "holds at least 5,... GB of parameters, and the memory is",
    "--config.placement=gpu": "placement is one of",
    "--config.num_devices=99": "num_devices=99 is more than the 8 devices",
    "--config.placement=sharded --config.num_devices=3": "num_subnets=4 is no multiple of num_devices=3",
    "--config.placement=sharded --config.num_devices=2 --config.partition=rolling": "a mesh exchanges equal blocks",
    "--config.opt_state=own": "stays with a worker while ist moves its units",
    "--config.opt_state=carry --config.method=data_parallel": "data_parallel always keeps its own",
    "--config.outer.name=sgd --config.method=ensemble": "which ensemble does not have",
    "--config.method=diloco --config.outer.name=none": "diloco is local SGD with an outer optimizer",
    "--config.model.scaling=keep": "stands in for a norm",
    "--config.model.norm=layernorm": "did you mean 'layer'",
    "--config.model.norm=layer --config.model.hidden=(254,)": r"must divide every layer of model.hidden=\(254,\): LayerNorm",
    "--config.model.activation=sigmoid --config.model.hidden=(254,)": "'sigmoid' is not 0 at 0",
    "--config.dense_fraction=0.7 --config.warmup_fraction=0.3": "leave no samples",
    "--config.dense_fraction=0.1 --config.method=ensemble": "must be 0",
    "--config.optimizer.momentum=2": "optimizer.momentum is from 0 to 1",
    "--config.data.validation_fraction=1": "data.validation_fraction is between 0 and 1",
    "--config.data.name=idx": "needs data.dir, the folder",
    "--config.data.name=npz": "needs data.dir, the file",
    "--config.data.name=mnist": "data.name is one of",
    "--config.batch_size=0 --config.data.split=disjoint": "needs data.split=shared",
    "--config.model.name=gcn --config.decomposition=mlp": "decomposition='mlp' is of model.name='mlp', not 'gcn'",
    "--config.model.name=gcn": "model.norm is one of none, layer, matrix for model.name='gcn', not 'batch'",
    "--config.model.name=gcn --config.model.norm=none": "batch_size=.* is of clusters, of which data.clusters=1",
    f"{GCN} --config.model.hidden=(254,)": r"must divide every layer of model.hidden=\(254,\): normalisation runs over",
    f"{GCN} --config.model.hidden=(64,) --config.model.split_output=False": "leave no layer of one hidden layer",
    f"{GCN} --config.model.norm=matrix --config.data.clusters=8": "model.norm=matrix is over all nodes at once",
    f"{GCN} --config.model.scaling=keep": "model.scaling='keep' stands in for a norm, and model.norm is 'layer'",
    f"{GCN} --config.model.name=gat --config.model.scaling=keep": "model.scaling is one of none for model.name='gat'",
    f"{GCN} --config.data.split=dirichlet --config.batch_size=1": "dirichlet is by labels, which the clusters",
    f"{GCN} --config.data.split=disjoint --config.data.clusters=8 --config.batch_size=4": "leaves each of 4 workers a share of",
    "--config.model.split_input=True": "model.split_input=True is of gcn and sage and gat",
    "--config.data.clusters=4": "data.clusters=4, .*: of graphs, which data.name='digits' is not",
    f"{GCN} --config.data.name=digits_graph --config.data.augment=crop": "data.augment='crop' is of images",
    "--config.data.projection=8": "data.projection=8: of graphs, which data.name='digits' is not",
    f"{GCN} --config.data.name=digits_graph --config.data.validation_fraction=0.2": "has a validation split of its own",
    "--config.model.norm=layer --config.model.hidden=(4,)": "norm=layer runs over the units of a subnetwork, at least two",
    f"{GCN} --config.model.dropout=1": "model.dropout is from 0 to 0.99",
    f"{GCN} --config.data.name=planetoid": "data.name='planetoid' needs data.dir, the folder",
    f"{GCN} --config.data.name=graph_npz": "data.name='graph_npz' needs data.dir, the file",
    "--config.eval_subnets=maybe": "eval_subnets is true or false, not 'maybe'",
    "--config.exchange.wire=int4": "exchange.wire is one of exact, bfloat16, int8, not 'int4'",
    "--config.exchange.wire=int8 --config.method=local_sgd": "which local_sgd does not exchange",
    "--config.drop.rate=1.5": "drop.rate is from 0 to 1",
    "--config.drop.rounds=(1,2) --config.drop.workers=(0,)": "a worker for every round of drop.rounds: 1 and 2",
    "--config.drop.rounds=(1000000,) --config.drop.workers=(0,)": "names round 1000000, and the run has",
    "--config.drop.rounds=(1,) --config.drop.workers=(9,)": "drop.workers=.9,. from 0 to",
    "--config.link.bandwidth=fast": "link.bandwidth is a number with one of the units bps, .* not 'fast'",
    "--config.link.bandwidth=0Gbps": "link.bandwidth is above 0",
    "--config.link.bandwidth=1Gbps --config.link.latency=3": "link.latency is a number with one of the units s, ms",
    "--config.link.bandwidth=1Gbps --config.link.latency=1e999s": "link.latency is a finite number, not '1e999s'",
    "--config.link.bandwidth=1e400Gbps": "link.bandwidth is a finite number",
    "--config.batch_size=1000000": "batch_size=1000000 is at most the 1,?1.. training examples: use 0 for all",
    "--config.split_stages=(1,)": "split_stages=.1,. is of resnet, and does nothing for model.name='mlp'",
    "--config.model.channels=(8,)": "model.channels=.8,. is of vgg, and does nothing",
    "--config.model.name=resnet --config.model.stage_sizes=(1,0)": "model.stage_sizes names the blocks",
    "--config.model.name=resnet --config.num_subnets=23": "num_subnets=23 and min_blocks=0 are at most the 22 blocks",
    "--config.model.name=resnet --config.min_blocks=23": "num_subnets=4 and min_blocks=23 are at most the 22 blocks",
    "--config.model.name=resnet --config.split_stages=(5,)": r"split_stages are of the 4 of .* not \(5,\)",
    "--config.model.name=resnet --config.model.block=wide": "model.block is one of preact, post",
    "--config.model.name=resnet --config.model.norm=layer": "model.norm is one of batch, group for model.name='resnet'",
    "--config.model.name=resnet --config.decomposition=channels": "is of model.name='vgg', not 'resnet', which .* blocks",
    "--config.model.name=resnet --config.decomposition=filters --config.model.norm=group": "are for decomposition=blocks",
    "--config.model.name=resnet --config.decomposition=filters --config.model.block=post --config.min_blocks=2": "for filters",
    "--config.model.name=resnet --config.decomposition=filters --config.num_subnets=65": "model.width=64 is narrower",
    "--config.model.name=resnet": "takes images, .* not shape",
    "--config.model.name=vgg --config.model.channels=(0,)": "model.channels=.* has a convolution, and none of fewer than 4",
    "--config.data.augment=crop": "is of images, and an input has shape",
    "--config.data.augment=flip": "data.augment is one of none, crop, crop_flip",
    "--config.optimizer.momentum_schedule=demon": "optimizer.momentum decay, which is 0",
    "--config.local_steps_schedule=(5,0)": "local_steps_schedule=.5, 0. are local steps of a round",
    "--config.local_steps_schedule=(5,) --config.method=ensemble": "leave them out for method='ensemble'",
    "--config.local_steps_schedule=(5,) --config.method=diloco": "leave them out for method='diloco'",
    "--config.model.dropout=0.5": "model.dropout=0.5 is of gcn and sage and gat, and does nothing for model.name='mlp'",
    "--config.model.name=resnet --config.model.bias=True": "model.bias=True is of mlp .* does nothing for model.name='resnet'",
    "--config.min_blocks=2": "min_blocks=2 is of resnet",
    "--config.model.name=resnet --config.min_blocks=2 --config.method=ensemble": "not with method='ensemble'",
    "--config.model.name=resnet --config.min_blocks=2 --config.partition=uniform": "not with .* partition='uniform'",
    "--config.model.name=resnet --config.decomposition=filters": "use model.block=post",
    "--config.model.name=vgg --config.batch_size=1": "needs at least two examples per step",
    "--config.model.name=vgg --config.data.dataset=images": "halves images of side 8 4 times; at most 3 times",
    "--config.data.dir=somewhere": "data.dir='somewhere': data.name='digits' is embedded and reads no files",
    "--config.data.name=idx --config.data.dir=x --config.data.dataset=kmnist": "'idx' is one data set: set",
    "--flagfile=nowhere": "--flagfile is no option",
    "stray": "unexpected argument 'stray'",
    "--config.seed=1e3": "seed is an integer, not '1e3'",
    "--config.seed": "--config.seed has no value: write --config.seed=VALUE",
    "--config.x=1": "config.x is no field .--help lists the fields",
    "--config.method=IST": "not 'IST': did you mean 'ist'",
    "--config.method=local_sgd --config.outer.learning_rate=0.4": "outer.learning_rate=0.4 is of an outer optimizer",
    "--config.link.latency=5ms": "link.latency=5ms is of a simulated link",
    "--config.data.alpha=0.5": "data.alpha=0.5 is of data.split=dirichlet, which this run does not have: leave it out",
    "--config.data.crop_padding=5": "data.crop_padding=5 is of an augmentation",
    "--config.model.eval_norm=batch --config.eval_batch_size=1": "at least two examples per batch, and eval_batch_size is 1",
    "--frobnicate=1": "--frobnicate is no option; options are --config.x=y",
}


@pytest.mark.parametrize("arguments", sorted(WRONG))
def test_a_wrong_configuration_is_one_line_and_status_2(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    began = time.monotonic()
    assert run.main(["run", DIGITS, "--workdir=here", *arguments.split()]) == 2
    assert time.monotonic() - began < 5
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert re.search(WRONG[arguments], error), error
    assert not (tmp_path / "here").exists(), "nothing was started"


def test_missing_arguments_and_files_are_said(capsys, tmp_path):
    for arguments, says in (
        (["--workdir=x"], "--config=FILE is missing"),
        ([DIGITS], "--workdir=DIR is missing"),
        (["--config=nowhere.py", "--workdir=x"], "there is no such file"),
        ([f"--config={'x' * 300}.py", "--workdir=x"], "File name too long"),
        ([f"--config={ROOT}/README.md", "--workdir=x"], "a config file is a .py file"),
        (
            [DIGITS, "--workdir=x", "--config.data.name=idx", f"--config.data.dir={tmp_path}"],
            "is missing",
        ),
    ):
        assert run.main(["run", *arguments]) == 2
        assert says in capsys.readouterr().err
    broken = tmp_path / "broken.py"
    broken.write_text(
        "from ist_jax.cli.config import defaults\ndef get_config():\n  c = defaults()\n  c.modle = 1\n  return c\n"
    )
    assert run.main(["run", f"--config={broken}", "--workdir=x"]) == 2
    assert "modle" in capsys.readouterr().err


def test_a_workdir_that_cannot_be_written_is_said(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run.main(["run", DIGITS, f"--workdir={tmp_path}/file/below"]) == 1
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    "edit,says",
    [
        (lambda c: c.per_method.update({"singel": {}}), "did you mean 'single'"),
        (lambda c: c.per_method.ist.update({"batch": 3}), "did you mean 'batch_size'"),
        (
            lambda c: c.per_method.ist.update({"batch_size": 0.5}),
            "batch_size is an integer, not 0.5",
        ),
        (lambda c: c.per_method.ist.update({"model": {"hidden": (8.5,)}}), "tuple of integers"),
    ],
)
def test_wrong_per_method_values_are_refused(edit, says):
    config = defaults()
    with config.unlocked():
        edit(config)
    with pytest.raises(ConfigError, match=says):
        resolve(config)
