"""What is installed: one package, one command, types; and what the command imports."""

import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import jax
import pytest

from ist_jax.cli import compilation_cache, main
from ist_jax.cli.commands import benchmark

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The names in a wheel that is built from a copy of the sources."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__", "records", "results")
    for name in ("ist_jax", "experiments"):
        ignore = ignored if name == "experiments" else shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=ignore)
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    command = [*build, "--wheel-dir", folder, folder / "source"]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return zipfile.ZipFile(built)


def test_a_script_beside_a_clone_imports_the_package(tmp_path):
    """The clone's folder, ist_jax, is no package, and must not hide the one inside it."""
    (tmp_path / "ist_jax").mkdir()
    script = [sys.executable, "-c", "import ist_jax; print(ist_jax.decompose.__name__)"]
    ended = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True)
    assert ended.stdout == "decompose\n", ended.stderr


def test_one_package_is_installed_and_it_is_typed(wheel):
    names = {name.split("/")[0] for name in wheel.namelist()}
    packages = {name for name in names if not name.endswith(".dist-info")}
    assert packages == {"ist_jax"} and len(names) == 2
    assert "ist_jax/py.typed" in wheel.namelist()
    sources = {str(file.relative_to(ROOT)) for file in (ROOT / "ist_jax").rglob("*.py")}
    assert sources <= set(wheel.namelist())


def test_one_command_is_installed(wheel):
    (points,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    commands = re.findall(r"^([\w-]+) = (.*)$", wheel.read(points).decode(), re.MULTILINE)
    assert commands == [("ist-jax", "ist_jax.cli.main:main")]


def test_every_import_of_the_package_is_of_a_requirement():
    """By the name that is imported; the standard library and optional packages are allowed, too."""
    required = {
        re.split(r"[^\w-]", line)[0].lower()
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = [one for of in project["optional-dependencies"].values() for one in of]
    known = required | {re.split(r"[^\w-]", one)[0].lower() for one in optional}
    names = {"PIL": "pillow", "sklearn": "scikit-learn", "orbax": "orbax-checkpoint"}
    names |= {"tensorflow_datasets": "tensorflow-datasets", "tensorboardX": "tensorboardx"}
    names |= {"jaxlib": "jax", "array_record": "tensorflow-datasets"}
    pattern = re.compile(r"^\s*(?:from|import) (\w+)", re.MULTILINE)
    for file in (ROOT / "ist_jax").rglob("*.py"):
        for name in set(pattern.findall(file.read_text())) - set(sys.stdlib_module_names):
            if name not in ("ist_jax", "tensorflow"):
                assert names.get(name, name).lower() in known, f"{file}: {name}"


def test_every_command_has_a_module():
    folder = ROOT / "ist_jax" / "cli"
    modules = {file.stem for file in (folder / "commands").glob("*.py")} - {"__init__"}
    assert {name.replace("-", "_") for name in main.COMMANDS} == modules
    assert all((folder / "benchmarks" / f"{name}.py").exists() for name in benchmark.BENCHMARKS)


def test_help_imports_no_command(monkeypatch, capsys):
    monkeypatch.setattr(main.importlib, "import_module", None)
    monkeypatch.setattr(main, "end_at_once", lambda: None)
    with pytest.raises(SystemExit) as end:
        main.main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in main.COMMANDS)


@pytest.mark.parametrize("arguments", [["rum"], []])
def test_an_unknown_command_is_status_2(arguments, monkeypatch, capsys):
    monkeypatch.setattr(main, "end_at_once", lambda: None)
    with pytest.raises(SystemExit) as end:
        main.main(arguments)
    assert end.value.code == 2 and capsys.readouterr().err.count("error: ") == 1


def test_compiled_programs_are_kept_in_the_users_cache_unless_jax_is_told_otherwise():
    environ = {"XDG_CACHE_HOME": "/somewhere"}
    compilation_cache.keep_compiled_programs(environ)
    kept = environ["JAX_COMPILATION_CACHE_DIR"]
    assert re.fullmatch(rf"/somewhere/ist_jax/programs/jax-{jax.__version__}-[0-9a-f]{{8}}", kept)
    assert environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "0"
    environ["JAX_COMPILATION_CACHE_DIR"] = "/elsewhere"
    compilation_cache.keep_compiled_programs(environ)
    assert environ["JAX_COMPILATION_CACHE_DIR"] == "/elsewhere"


def test_programs_of_different_processors_are_kept_apart(monkeypatch):
    here = compilation_cache.folder("programs")
    assert compilation_cache.folder("programs") == here
    monkeypatch.setattr(compilation_cache.platform, "machine", lambda: "another")
    assert compilation_cache.folder("programs").name != here.name


def test_jax_is_not_imported_before_its_cache_is_set():
    program = "import sys, ist_jax.cli.main; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
