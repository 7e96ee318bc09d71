"""Shared set-up of the tests: 8 forced CPU devices and one compilation cache for all of them."""

import os
from pathlib import Path
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # tests compile much and compute little: 4 times faster
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import pytest

REAL_DATA = Path(os.environ.get("RADNET_JAX_TEST_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))
REFERENCE_TABLES = Path(os.environ.get("RADNET_JAX_TEST_TABLES", REAL_DATA.parent / "reference"))


@pytest.fixture(autouse=True)
def few_compiled_programs():
    """Lets go of compiled programs now and then, as a study does."""
    yield
    if "jax" in sys.modules:
        from radnet_jax import programs

        if programs.let_go():
            from tests import every_objective

            every_objective.forget()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images; the test is skipped, and says so, where it is absent."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real images at {REAL_DATA}; RADNET_JAX_TEST_DATA names another folder")
    return REAL_DATA


@pytest.fixture(scope="session")
def ct_dataset(tmp_path_factory) -> Path:
    """A built dataset of small phantoms: six body regions, 36 patients, 144 slices of 24 px."""
    from data_prep.build import build
    from data_prep.phantom import write_ct

    folder = tmp_path_factory.mktemp("ct")
    write_ct(folder / "source", patients_per_region=6, slices=4, image_size=32)
    build("radnet", folder / "source", folder / "dataset", size=24, splits=("train", "val", "test"))
    return folder / "dataset"


@pytest.fixture(scope="session")
def reference_tables() -> Path:
    """The folder of the published studies' result tables; the test is skipped, and says so, where it is absent."""
    if not REFERENCE_TABLES.is_dir():
        pytest.skip(f"no tables at {REFERENCE_TABLES}; RADNET_JAX_TEST_TABLES names another folder")
    return REFERENCE_TABLES
