"""The order of imports: each room imports only from those before it (ARCHITECTURE.md)."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "ist_jax"
# rooms, their parts, and files that stand elsewhere in the order
ORDER = (
    "version",
    "core",
    "exchange",
    "analysis.costs",
    "analysis.links",
    "methods",
    "models",
    "decompositions",
    "tasks",
    "data",
    "analysis",
    "training",
    "cli.config",
    "cli.quantities",
    "cli.signals",
    "cli.exit_status",
    "cli.compilation_cache",
    "cli.optimizers",
    "cli.methods",
    "cli.architectures",
    "cli.validation",
    "cli.builders",
    "cli.experiment",
    "cli.hosts",
    "cli.distributed",
    "cli.records",
    "cli.benchmarks",
    "cli.autotune",
    "cli.records.pages",
    "cli.main",
    "cli.commands",
)
FLAX = ("models", "training/export.py")


def imported(path):
    """Every module that a file names in an import."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def place(module):
    """Where a module, such as 'ist_jax.analysis.costs.leaf_costs', stands in the order."""
    parts = module.split(".")[1:]
    names = (".".join(parts[:length]) for length in (3, 2, 1))
    return next(ORDER.index(name) for name in names if name in ORDER)


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_those_before_it(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for target in imported(path):
        if target.startswith("ist_jax."):
            assert place(target) <= place(name), f"{name} imports {target}, which comes after it"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_flax_stays_with_the_models(path):
    if not str(path.relative_to(PACKAGE)).startswith(FLAX):
        assert not any(name.split(".")[0] == "flax" for name in imported(path))


def test_files_stay_small():
    assert len((PACKAGE / "core" / "subnet.py").read_text().splitlines()) <= 300
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 320, path
