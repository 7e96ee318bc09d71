"""The tasks of a build on Beam's local runner: the same bytes as by the processes of this machine."""

import importlib.util
import json

import pytest

from data_prep import beam as beam_module
from data_prep import shards
from data_prep.beam import check_beam
from data_prep.build import build, main
from data_prep.spec import DATASETS
from radnet_jax.data import storage
from radnet_jax.data.cache import CACHE_VARIABLE
from radnet_jax.errors import UserError
from tests.data_prep import hostile
from tests.data_prep.dicom_files import source_of_patients
from tests.data_prep.test_units import files

has_beam = importlib.util.find_spec("apache_beam") is not None
with_beam = pytest.mark.skipif(not has_beam, reason="needs Apache Beam: make test-beam")

if "hostile" not in DATASETS.names():
    DATASETS.register("hostile")(hostile.spec)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = source_of_patients(tmp_path_factory.mktemp("source") / "in", patients=18, slices=2)
    (folder / "p0" / "bad.dcm").write_bytes(b"no image" * 100)
    return folder


@pytest.mark.skipif(has_beam, reason="Beam is installed")
def test_without_beam_one_line_tells_how_to_install_it(source, tmp_path, capsys):
    flags = ["--dataset=radnet", f"--source={source}", f"--out={tmp_path / 'out'}", "--runner=beam"]
    assert main(flags) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "pip install -c constraints-beam.txt" in error
    assert not (tmp_path / "out").exists()


@with_beam
@pytest.mark.parametrize(
    "options", ["", "--runner=DirectRunner --direct_running_mode=multi_processing --direct_num_workers=2"]
)
def test_the_same_bytes(source, tmp_path, options):
    build("radnet", source, tmp_path / "near", size=16)
    build("radnet", source, tmp_path / "beam", size=16, runner="beam", beam_options=options)
    assert files(tmp_path / "beam") == files(tmp_path / "near")


@with_beam
def test_over_a_store(source, tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    url = f"file://{tmp_path}/store"
    for path in source.rglob("*.dcm"):
        storage.put(path, f"{url}/raw/{path.relative_to(source)}")
    build("radnet", source, tmp_path / "near", size=16)
    build("radnet", f"{url}/raw", f"{url}/out", size=16, runner="beam")
    assert files(tmp_path / "store" / "out") == files(tmp_path / "near")


@with_beam
def test_a_killed_build_goes_on_at_the_units_that_are_not_done(source, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "RECORDS_PER_SHARD", 4)
    build("radnet", source, tmp_path / "near", size=16)
    real, ran = beam_module.run_unit, []

    def counting(unit):
        if len(ran) == 5:
            raise KeyboardInterrupt
        ran.append(unit)
        return real(unit)

    with monkeypatch.context() as patch:
        patch.setattr(beam_module, "ordered_map", _in_process)
        patch.setattr(beam_module, "run_unit", counting)
        with pytest.raises(UserError, match="the same command goes on"):
            build("radnet", source, tmp_path / "out", size=16, runner="beam")
        assert not (tmp_path / "out" / "card.json").exists()
        before = len(ran)
        ran.clear()
        patch.setattr(beam_module, "run_unit", lambda unit: ran.append(unit) or real(unit))
        build("radnet", source, tmp_path / "out", size=16, runner="beam")
    assert before + len(ran) == 1 + 3 * 3  # one unit of headers, three shards of each split; none of them twice
    assert files(tmp_path / "out") == files(tmp_path / "near")


class _in_process:  # noqa: N801 (stands for a function)
    """The pool's map without its processes."""

    def __init__(self, workers, limits):
        pass

    def __enter__(self):
        return map

    def __exit__(self, *error):
        pass


@with_beam
def test_a_file_that_crashes_its_reader_costs_itself_only(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("header_crash", "crash", "bomb", *(f"good{k}" for k in range(6))):
        (tmp_path / "in" / name).write_text("x")
    card = build(
        "hostile", tmp_path / "in", tmp_path / "out", size=8, splits=("train",), runner="beam", memory_limit=0.25
    )
    assert card.splits == {"train": 6}
    reasons = json.loads((tmp_path / "out" / "build.json").read_text())["rejected"]
    assert reasons == {"memory_limit": 1, "worker_crash": 2}


@with_beam
def test_a_pipeline_that_fails_is_one_line(tmp_path, capfd):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "error").write_text("x")
    with pytest.raises(UserError, match="the Beam pipeline failed") as error:
        build("hostile", tmp_path / "in", tmp_path / "out", size=8, splits=("train",), runner="beam")
    assert hostile.PATIENT not in str(error.value)


@with_beam
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--runner=Spork", "can't be used"),
        ("--ruhner=DirectRunner", 'did you mean "runner"'),
        ("DirectRunner", "expected flags"),
        ("--direct_num_workers=many", "can't be used"),
        ('--runner="DirectRunner', "can't be used"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        check_beam(options)
