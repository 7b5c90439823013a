"""Arguments of the command line that several suites give, and runs that they start from."""

import json
import pathlib

from ist_jax.cli.commands import export, run

ROOT = pathlib.Path(__file__).parent.parent
DIGITS = f"--config={ROOT}/experiments/demo/digits.py"
GCN = "--model.name=gcn --model.norm=layer --batch_size=0"
TEXT = "--model.name=transformer --model.norm=rms --data.name=text --data.dir=x"
QUICK = [
    DIGITS,
    *("--model.hidden", "16", "16"),
    "--epochs=1",
    "--local_steps=4",
    "--eval_every=2",
    "--calibration_examples=64",
]


def trained(folder, *arguments):
    assert run.main(["run", *QUICK, "--eval_subnets=True", *arguments, f"--workdir={folder}"]) == 0
    return folder, json.loads((folder / "summary.json").read_text())


def exported(workdir, out, *arguments):
    return export.main(["export", f"--workdir={workdir}", f"--out={out}", *arguments])
