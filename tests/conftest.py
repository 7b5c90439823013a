"""Eight CPU devices, strict ranks, and the cases that the conformance suites run over."""

import gc
import os
import pathlib
import shutil
import subprocess

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# the tests compile a thousand small programs and run each a few times: the backend's optimisations cost more than they save
jax.config.update("jax_disable_most_optimizations", True)
_CACHE = pathlib.Path(__file__).parent.parent / ".jax_cache"
jax.config.update(
    "jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture(autouse=True, scope="module")
def programs():
    """Those of a file of tests are forgotten after it: the suite's together take more memory than a small machine has."""
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
    """A file system of 1 MB of its own, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user may not mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
