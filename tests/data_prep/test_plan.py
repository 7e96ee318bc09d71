"""The plan stays on disk: Python holds no more of a large source than of a small one."""

from pathlib import Path
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.header_pass import make_plan
from data_prep.plan import Plan
from data_prep.spec import Candidate, DatasetSpec, Row
from data_prep.subsets import write_subsets
from radnet_jax.preprocessing import StoredPixels


def _spec(files, row):
    return DatasetSpec(
        name="made_up",
        version="1.0.0",
        task="single_label",
        labels=("a", "b", "c"),
        stored=StoredPixels("photo", "none", (0.0, 255.0), (8, 8), 1, "none", "uint8"),
        facts=(),
        candidates=lambda source: (Candidate(f"{k}.dcm") for k in range(files)),
        rows=lambda source, candidate: [row(int(candidate.path[:-4]))],
        encode=lambda source, path, frame: None,
    )


def _photograph(k):
    return Row(path=f"{k}", identity=f"image {k}", patient="", stratum=k % 3, label=k % 3)


def _slice(k):
    """Four slices a series, two series a study, two studies a patient, of whom every third file tells."""
    patient = f"id {k // 16}" if k % 3 == 0 else ""
    links = (f"study {k // 8}", f"series {k // 4}")
    return Row(
        path=f"{k}", identity=f"image {k}", patient=patient, links=links, series=links[1], position=-float(k % 4),
        stratum=k // 16 % 3, label=k // 16 % 3,
    )  # fmt: skip


def _peak(folder, files, row):
    """Bytes that Python holds at most while the plan and the subsets are made."""
    spec = _spec(files, row)
    folder.mkdir()
    schema = pa.schema(
        [("split", pa.string()), ("index", pa.int64()), ("case_id", pa.string()), ("patient", pa.string())]
    )
    tracemalloc.start()
    try:
        make_plan(folder / "plan.sqlite", spec, Path(), {"train": 1.0}, 0, "here", map, lambda n: None)
        with pq.ParquetWriter(folder / "manifest.parquet", schema) as writer:
            for start in range(0, files, 500):
                lines = [["train", k, f"{k}", f"{k}"] for k in range(start, start + 500)]
                writer.write_table(pa.Table.from_arrays([pa.array(c) for c in zip(*lines)], schema=schema))
        write_subsets(folder, folder / "plan.sqlite", spec, [], 0)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("row", [_photograph, _slice])
def test_python_holds_no_more_of_eight_times_the_files(tmp_path, row, monkeypatch):
    monkeypatch.setattr("data_prep.subsets._BATCH", 500)
    _peak(tmp_path / "warm", 500, row)
    small, large = _peak(tmp_path / "small", 1000, row), _peak(tmp_path / "large", 8000, row)
    assert large < 1.5 * small


def test_series_studies_and_patients_of_files_that_tell_little(tmp_path):
    make_plan(
        tmp_path / "plan", _spec(160, _slice), Path(), {"train": 0.7, "test": 0.3}, 0, "here", map, lambda n: None
    )
    with Plan(tmp_path / "plan") as plan:
        rows = [(split, row) for split in ("train", "test") for row in plan.rows(split)]
        assert plan.patients() == (10, 0)
        assert plan.series()["series"] == 40
        assert plan.joined() == 0
        assert plan.sizes() == {"train": 112, "test": 48}
    assert {int(row.path) // 16: row.patient for _, row in rows} == {p: f"id {p}" for p in range(10)}
    assert {int(row.path) // 16: row.person for _, row in rows} == {p: p + 1 for p in range(10)}
    assert all(row.slice == 3 - int(row.path) % 4 for _, row in rows)
    assert all(row.position == row.slice for _, row in rows)
