"""Starting from another run, exporting a model or a subnetwork, scoring it elsewhere."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from cases import also_slowly
from command_line import QUICK, exported, trained

from ist_jax.cli.commands import evaluate, run
from ist_jax.cli.commands import export as exporting
from ist_jax.cli.records.restored import restore, start_from
from ist_jax.models import MLP
from ist_jax.models.linen import LinenModel
from ist_jax.training import export


def score_of(folder):
    """The test accuracy that an exported model's record states."""
    return export.read(folder).about["metrics"]["test"]["accuracy"]


@pytest.fixture(scope="module")
def ist_run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("ist") / "run")


@pytest.mark.slow
def test_the_whole_model_scores_elsewhere_as_it_did_in_the_run(ist_run, tmp_path, capsys):
    workdir, summary = ist_run
    capsys.readouterr()
    assert exported(workdir, tmp_path / "whole") == 0
    assert f"test accuracy {summary['last']['test']['accuracy']:.4f}" in capsys.readouterr().out
    about = export.read(tmp_path / "whole").about
    assert about["selection"] == summary["selection"] and "loss" in about["metrics"]["test"]
    assert about["metrics"]["test"]["accuracy"] == pytest.approx(
        summary["last"]["test"]["accuracy"]
    )
    assert about["metrics"]["validation"]["accuracy"] == pytest.approx(
        summary["last"]["validation"]["accuracy"]
    )
    assert (
        about["parameters"] == summary["parameters"]["model"]
        and about["round"] == summary["rounds"]
    )
    capsys.readouterr()
    assert evaluate.main(["evaluate", f"--model={tmp_path}/whole"]) == 0
    assert f"test accuracy {summary['last']['test']['accuracy']:.4f}" in capsys.readouterr().out
    assert evaluate.main(["evaluate", f"--model={tmp_path}/whole", "--split=validation"]) == 0
    assert (
        f"validation accuracy {summary['last']['validation']['accuracy']:.4f}"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize("subnet", [0, 3])
def test_a_subnetwork_is_a_smaller_model_with_its_own_accuracy(ist_run, tmp_path, subnet):
    workdir, summary = ist_run
    assert exported(workdir, tmp_path / "one", f"--subnet={subnet}") == 0
    model, variables, about = export.read(tmp_path / "one")
    assert model.hidden == (4, 4) and about["parameters"] == summary["parameters"]["per_device"]
    assert about["metrics"]["test"]["accuracy"] == pytest.approx(
        summary["last"]["test_subnets"]["accuracy"][subnet]
    )
    whole = restore(workdir)
    kernel_DxH = whole.method.params(whole.state)["hidden_0"]["kernel"]
    np.testing.assert_array_equal(
        variables["params"]["hidden_0"]["kernel"],
        kernel_DxH[:, np.array(about["units"]["hidden_0"])],
    )
    assert model.apply(variables, jnp.zeros((3, 64))).shape == (3, 10)


@pytest.mark.slow
def test_a_run_on_a_mesh_is_exported_as_it_was_trained(tmp_path):
    mesh = ["--placement=sharded", "--num_devices=4", "--model.hidden", "18", "18"]
    workdir, summary = trained(tmp_path / "mesh", *mesh)
    assert exported(workdir, tmp_path / "out") == 0
    assert score_of(tmp_path / "out") == pytest.approx(
        summary["last"]["test"]["accuracy"], abs=0.003
    )


@pytest.mark.parametrize(
    "method", also_slowly(["ensemble"], ["data_parallel", "diloco", "ensemble"])
)
def test_other_methods_are_exported_whole_or_by_member(method, tmp_path, capsys):
    workdir, summary = trained(tmp_path / "run", f"--method={method}")
    whole, one = (
        exported(workdir, tmp_path / "whole"),
        exported(workdir, tmp_path / "one", "--subnet=1"),
    )
    error = capsys.readouterr().err
    if method == "ensemble":
        assert (whole, one) == (2, 0) and "an ensemble is 4 models, and has no full model" in error
        assert score_of(tmp_path / "one") == pytest.approx(
            summary["last"]["test_subnets"]["accuracy"][1]
        )
    else:
        assert (whole, one) == (0, 2) and "ended training full models" in error
        assert score_of(tmp_path / "whole") == pytest.approx(summary["last"]["test"]["accuracy"])


@pytest.mark.slow
def test_a_model_scores_the_same_images_with_and_without_an_axis_of_channels(tmp_path, capsys):
    """One source gives (28, 28), another (28, 28, 1)."""
    rng = np.random.default_rng(0)
    y = np.arange(400) % 4
    x = (rng.integers(0, 60, (400, 5, 5)) + 40 * y[:, None, None]).astype(np.uint8)
    for name, images in (("plain", x), ("channel", x[..., None])):
        np.savez(
            tmp_path / f"{name}.npz", x_train=images, y_train=y, x_test=images[:100], y_test=y[:100]
        )
    data = [
        "--data.name=npz",
        f"--data.dir={tmp_path}/plain.npz",
        "--batch_size=32",
    ]
    workdir, summary = trained(tmp_path / "run", *data)
    assert exported(workdir, tmp_path / "model") == 0
    capsys.readouterr()
    for name in ("plain", "channel"):
        assert (
            evaluate.main(
                [
                    "evaluate",
                    f"--model={tmp_path}/model",
                    "--name=npz",
                    f"--dir={tmp_path}/{name}.npz",
                ]
            )
            == 0
        )
        assert f"test accuracy {summary['last']['test']['accuracy']:.4f}" in capsys.readouterr().out


@pytest.mark.slow
def test_subnetworks_are_exported_from_a_later_part_with_other_local_steps(tmp_path):
    """The parts of local_steps_schedule are phases of the method itself, not a dense one."""
    workdir, summary = trained(tmp_path / "run", "--local_steps_schedule", "6")
    assert exported(workdir, tmp_path / "one", "--subnet=1") == 0
    assert score_of(tmp_path / "one") == pytest.approx(
        summary["last"]["test_subnets"]["accuracy"][1]
    )


def test_what_cannot_be_exported_or_scored_is_one_line(ist_run, tmp_path, capsys):
    workdir, _ = ist_run
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    (tmp_path / "hollow").mkdir()
    shutil.copy(workdir / "config.json", tmp_path / "hollow")
    assert exported(workdir, tmp_path / "good") == 0
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "model.json").write_text("{}")
    shutil.copytree(tmp_path / "good", tmp_path / "other")
    (tmp_path / "other" / "model.json").write_text(
        (tmp_path / "good" / "model.json").read_text().replace("16", "15")
    )
    flipped = shutil.copytree(tmp_path / "good", tmp_path / "flipped") / "variables.npz"
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    older = shutil.copytree(tmp_path / "good", tmp_path / "older") / "model.json"
    older.write_text(older.read_text().replace("exchange.compression", "exchange.wire"))
    images = tmp_path / "images.npz"
    x, y = np.zeros((40, 3, 3), np.uint8), np.arange(40) % 20
    np.savez(images, x_train=x, y_train=y, x_test=x, y_test=y)
    capsys.readouterr()
    cases = [
        (exporting.main, ["--workdir=nowhere", "--out=x"], "nowhere holds no run"),
        (evaluate.main, [f"--model={workdir}"], "is the workdir of a run: export its model first"),
        (
            evaluate.main,
            [f"--model={tmp_path}/good", "--name=idx"],
            "--name idx needs --dir",
        ),
        (
            exporting.main,
            [f"--workdir={workdir}", "--out=x", "--subnet=4"],
            "--subnet 4 is from 0 to 3",
        ),
        (
            exporting.main,
            [f"--workdir={workdir}", "--out=x", "--subnet=one"],
            "--subnet is an integer, not 'one'",
        ),
        (exporting.main, [f"--workdir={workdir}"], "--out DIR is missing"),
        (exporting.main, [f"--workdir={workdir}", f"--out={tmp_path}/full"], "exists already"),
        (exporting.main, [f"--workdir={tmp_path}/hollow", "--out=x"], "holds no checkpoint"),
        (evaluate.main, [f"--model={tmp_path}/bad"], "holds no exported model"),
        (evaluate.main, [f"--model={tmp_path}/full"], "holds no exported model"),
        (evaluate.main, [f"--model={tmp_path}/other"], "its arrays are not those of its model"),
        (evaluate.main, [f"--model={tmp_path}/flipped"], "holds no exported model"),
        (evaluate.main, [f"--model={tmp_path}/older"], "a run of an earlier version has to be"),
        (
            evaluate.main,
            [f"--model={tmp_path}/good", "--name=mnist"],
            "data.name is one of digits, idx",
        ),
        (
            evaluate.main,
            [f"--model={tmp_path}/good", "--name=npz", f"--dir={images}"],
            "takes inputs of shape",
        ),
        (
            evaluate.main,
            [f"--model={tmp_path}/good", "--name=idx", "--dir=nowhere"],
            "is not a folder",
        ),
    ]
    for main, arguments, says in cases:
        assert main(["command", *arguments]) == 2, arguments
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1 and error.startswith("error: "), error


def test_a_full_disk_names_the_model_that_it_has_no_room_for(ist_run, disk, capsys):
    (disk / "ballast").write_bytes(bytes(1020 * 1024))
    assert exported(ist_run[0], disk / "model") == 1
    assert f"No space left on device: '{disk}/model'" in capsys.readouterr().err
    assert [path.name for path in disk.iterdir()] == ["ballast"], "no half of it"


def test_pickled_variables_are_not_loaded(tmp_path):
    model = MLP((4,), 3)
    params = {"hidden_0": {"kernel": np.zeros((2, 4))}}
    export.write(tmp_path / "out", LinenModel(model), params, None, {})
    np.savez(tmp_path / "out" / "variables.npz", x=np.array([print], dtype=object))
    with pytest.raises(export.ExportError, match="allow_pickle"):
        export.read(tmp_path / "out")


def test_every_field_of_a_model_survives(tmp_path):
    model = MLP(
        (4, 5), 3, norm="none", bias=True, activation="gelu", sum_scale=0.5, dtype=jnp.bfloat16
    )
    export.write(tmp_path / "out", LinenModel(model), {}, None, {"a": 1})
    exported_model = export.read(tmp_path / "out")
    assert exported_model.model == model and exported_model.about == {"a": 1}
    with pytest.raises(export.ExportError, match="exists already"):
        export.write(tmp_path / "out", LinenModel(model), {}, None, {})


@pytest.mark.slow
@pytest.mark.parametrize("subnets", [1, 2, 8])
def test_a_run_starts_from_another_ones_parameters_with_any_number_of_subnetworks(
    ist_run, tmp_path, subnets
):
    workdir, summary = ist_run
    small = [
        f"--num_subnets={subnets}",
        f"--init_from={workdir}",
        "--optimizer.learning_rate=1e-9",
    ]
    _, again = trained(tmp_path / "next", *small)
    assert again["last"]["test"]["accuracy"] == pytest.approx(
        summary["last"]["test"]["accuracy"], abs=0.003
    ), "it starts where the other ended"
    given, origin = start_from(workdir)
    given = given.params
    assert (
        json.loads((tmp_path / "next" / "config.json").read_text())["environment"]["start"]
        == origin
    )
    whole = restore(tmp_path / "next")
    np.testing.assert_allclose(
        whole.method.params(whole.state)["output"]["kernel"],
        given["output"]["kernel"],
        atol=1e-6,
    )


@pytest.mark.slow
def test_a_run_that_started_from_another_goes_on_without_it(ist_run, tmp_path):
    source = shutil.copytree(ist_run[0], tmp_path / "source")
    command = ["run", *QUICK, f"--init_from={source}", f"--workdir={tmp_path}/next"]
    assert run.main(command) == 0
    (tmp_path / "next" / "summary.json").unlink()
    shutil.rmtree(source)
    assert run.main(command) == 0


def test_a_start_that_does_not_fit_is_said(ist_run, tmp_path, capsys):
    same = ["run", *QUICK, f"--workdir={tmp_path}/next"]
    assert run.main([*same, f"--init_from={ist_run[0]}", "--model.hidden", "32", "16"]) == 2
    assert "hidden_0/kernel has shape [64, 16] there and [64, 32] here" in capsys.readouterr().err
    for data in (
        [],
        ["--data.name=npz", "--data.dir=none.npz"],
    ):  # before data are read
        assert run.main([*same, "--init_from=nowhere", *data]) == 2
        assert "nowhere holds no run" in capsys.readouterr().err
    assert not (tmp_path / "next").exists()
