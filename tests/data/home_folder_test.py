"""A leading ~ in a path of data is the home folder, as in a shell."""

import numpy as np
import pytest
from command_line import DIGITS

from ist_jax import data
from ist_jax.cli.commands import run
from ist_jax.cli.config import Config, DataConfig, checked, replace
from ist_jax.cli.records.record import as_json
from ist_jax.data import speech_commands


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    x, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 4
    np.savez(tmp_path / "mine.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    return tmp_path


def test_data_are_read_from_the_home_folder(home):
    assert data.load("npz", "~/mine.npz").num_train == 36
    with pytest.raises(data.DataError, match=f"{home}/none.npz"):
        data.load("npz", "~/none.npz")


def test_the_paths_of_a_configuration_are_expanded_wherever_it_comes_from(home):
    """`data.dir=~/mine.npz` was recorded as a file in a folder called ~."""
    given = Config(data=DataConfig(name="npz", dir="~/mine.npz"), init_from="~/run")
    arguments = ["--data.name=npz", "--data.dir=~/mine.npz", "--init_from=~/run"]
    parsed = run.parse(["run", DIGITS, "--workdir=unused", *arguments]).config
    changed = replace(Config(), data=dict(dir="~/mine.npz"), init_from="~/run")
    for config in (checked(given), parsed, changed):
        assert config.data.dir == f"{home}/mine.npz" == as_json(config)["data.dir"]
        assert config.init_from == f"{home}/run"
    assert checked(Config()).data.dir == "", "no path is no path"


def test_the_cache_of_features_may_be_in_the_home_folder(home, monkeypatch):
    monkeypatch.setenv("IST_CACHE_DIR", "~/features")
    assert speech_commands._cache_file(home, []).parent == home / "features"
