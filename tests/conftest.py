"""Eight CPU devices, strict ranks, and the cases that the conformance suites run over."""

import gc
import os
import pathlib
import shutil
import subprocess

import compilation_cache

compilation_cache.export()
# thousands of small programs, each run a few times: optimisation would cost more than it saves
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # also in the processes that tests start

import jax  # noqa: E402
import pytest  # noqa: E402

pytest.register_assert_rewrite("laws", "command_line", "processes")  # so failures show values

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


# files that take minutes; they are begun first, so that all processes end at about the same time
LONG = (
    "killed_test.py",
    "graph_laws_test.py",
    "methods_conformance_test.py",
    "decompositions_conformance_test.py",
    "loop_test.py",
    "distributed_test.py",
    "convolutional_laws_test.py",
    "codecs_test.py",
    "colabs_test.py",
    "run_test.py",
    "kept_commands_test.py",
    "memory_of_architectures_test.py",
    "graph_training_test.py",
    "blocks_test.py",
    "workdir_test.py",
)


def pytest_collection_modifyitems(items):
    order = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.name, len(LONG)))


@pytest.fixture(autouse=True, scope="module")
def programs():
    """Forgets a file's compiled programs after it: all files' together need too much memory."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def real_data() -> pathlib.Path:
    """The folder of real data sets, from the environment variable IST_DATA_DIR."""
    if "IST_DATA_DIR" not in os.environ:
        pytest.skip("IST_DATA_DIR is not set: it names the folder with real data sets")
    return pathlib.Path(os.environ["IST_DATA_DIR"]).absolute()


@pytest.fixture
def disk(tmp_path):
    """A separate file system of 1 MB, if this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user may not mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
