"""The direction of imports: each room imports only from those before it (ARCHITECTURE.md)."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
MECHANISM = ("types", "trees", "keys", "subnet", "partition", "order", "placement", "exchange")
ALLOWED = {
    "version": (),
    "types": (),
    "trees": ("types",),
    "keys": ("types",),
    "subnet": ("types", "trees"),
    "partition": ("types",),
    "order": ("types",),
    "placement": ("order",),
    "exchange": ("types", "trees", "subnet", "partition", "placement"),
    "costs": ("types", "trees", "subnet", "partition", "exchange"),
    "hlo": (),
    "link": (),
    "lost": (),
    "models": ("types", "models"),
    "decompositions": ("types", "trees", "partition", "models"),
    "tasks": ("types",),
    "data": ("types", "keys", "order"),
    "algorithms": (*MECHANISM, "costs", "link", "models", "decompositions", "tasks"),
    "evaluation": ("types", "algorithms", "tasks", "data"),
    "machine": (),
    "meter": ("types", "trees", "order", "hlo", "machine", "processes", "algorithms"),
    "files": (),
    "export": ("types", "files", "models"),
    "processes": (),
    "checkpoint": ("trees", "files", "processes"),
    "writers": ("files",),
    "workdir": ("files", "processes", "checkpoint", "writers"),
    "summary": ("algorithms", "costs", "link", "writers", "workdir"),
    "loop": (
        *("trees", "summary", "order", "link", "lost", "meter", "types", "keys", "processes", "algorithms", "tasks", "data"),
        *("evaluation", "workdir", "writers"),
    ),
}
FLAX = ("models", "decompositions", "algorithms", "export")  # the last two: as the type of a model, and for its trees


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def room(path):
    return path.relative_to(ROOT / "ist_jax").with_suffix("").parts[0]


@pytest.mark.parametrize("path", sorted((ROOT / "ist_jax").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_from_those_before_it(path):
    if path == ROOT / "ist_jax" / "__init__.py":
        return
    here = room(path)
    names = list(imported(path))
    for name in names:
        assert not name.startswith("experiments"), "nothing imports experiments"
        if name.startswith("ist_jax."):
            target = name.split(".")[1]
            assert target == here or target in ALLOWED[here], f"{path.name} imports {name}"
    if here not in FLAX:
        assert not any(name.startswith("flax") for name in names), "flax stays with the models"


def test_the_core_stays_small():
    assert len((ROOT / "ist_jax" / "subnet.py").read_text().splitlines()) <= 250
    for path in (ROOT / "ist_jax" / "decompositions").glob("*.py"):
        if path.name not in ("__init__.py", "base.py"):
            assert len(path.read_text().splitlines()) <= 100
    for path in [*(ROOT / "ist_jax").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]:
        assert len(path.read_text().splitlines()) <= 310, path
