"""CheXpert (Irvin et al. 2019): chest X-rays of Stanford Hospital with 14 observations of the reports' labeller."""

from __future__ import annotations

from collections.abc import Iterator
import functools
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from jaxtyping import UInt8
import numpy as np

from data_prep import observations
from data_prep.facts import age_band, sex
from data_prep.ingest.csv_table import check_columns, read_rows
from data_prep.ingest.image import fit
from data_prep.ingest.reduced import read_reduced
from data_prep.observations import ALIASES, NO_FINDING, Policy, check_policy, is_wanted, pack, rank
from data_prep.spec import DATASETS, SPLIT_NAMES, Candidate, DatasetSpec, Reject, Row
from radnet_jax.errors import UserError
from radnet_jax.preprocessing import StoredPixels

FOLDERS = ("", "CheXpert-v1.0-small", "CheXpert-v1.0", "CheXpert-v1.0 batch 1 (validate & csv)")
BATCHES = "CheXpert-v1.0 batch * (train *)"  # the full-size download parts the training images
FACTS = ("Sex", "Age", "AP/PA")


class _Layout(NamedTuple):
    """tables: path of each part's table; images: folders that may hold the part's patient folders."""

    tables: dict[str, str]
    images: dict[str, tuple[str, ...]]


@DATASETS.register("chexpert")
def chexpert(
    source: Path,
    size: int,
    findings: str = "14",
    views: str = "frontal",
    uncertain: str = "ignore",
    blank: str = "negative",
    official_valid: str = "auto",
) -> DatasetSpec:
    """CheXpert-v1.0-small or CheXpert-v1.0 as unpacked: train.csv, valid.csv, train/patient00001/study1/
    view1_frontal.jpg, valid/...; also the four batch folders of the full-size download side by side; optionally the
    test set that was published later, test_labels.csv and test/ (from the CheXlocalize download) in the same folder.
    Source: that folder or the one above. From Stanford AIMI (stanfordmlgroup.github.io/competitions/chexpert), Stanford
    University Dataset Research Use Agreement: research only, no redistribution.
    Labels: 14 observations, multi-label. Splits: valid.csv (radiologists' labels) is val where there is a test set,
    else test; what is missing is taken out of train. Patients carry "chexpert" and Stanford's number.
    Options: --findings=14|5 (5: the competition's), --views=frontal|all|PA|AP,
    --uncertain=ignore|zeros|ones|best (-1 in the tables: left out by label_mask, negative, positive, or what was best
    for each of the five findings in the paper, others left out), --blank=negative|ignore (no mention in the report; the
    paper counts it as negative), --official_valid=auto|val|test.
    """
    policy = check_policy("chexpert", findings, views, uncertain, blank)
    if official_valid not in ("auto", "val", "test"):
        raise UserError("chexpert: official_valid", got=repr(official_valid), expected="auto, val or test")
    layout = _layout(source, policy)
    as_test = official_valid == "test" or (official_valid == "auto" and "test" not in layout.tables)
    official = {"valid": "test" if as_test else "val"} | ({"test": "test"} if "test" in layout.tables else {})
    missing = [name for name in SPLIT_NAMES if name not in ("train", *official.values())]
    pools = official | {"train": "+".join(["train", *missing])}
    ranks = rank((pack(row, policy.findings) for row in _table(source, layout, "train", policy)), policy.findings)
    return DatasetSpec(
        name="chexpert",
        version="1.0.0",
        task="multi_label",
        labels=policy.findings,
        stored=StoredPixels("XR", "none", (0.0, 255.0), (size, size), 1, "pad_area", "uint8"),
        facts=("sex", "age_band", "view"),
        candidates=functools.partial(_candidates, layout=layout, policy=policy, pools=pools),
        rows=functools.partial(_rows, policy=policy, ranks=ranks, views=views),
        encode=functools.partial(_encode, size=size),
        single_file=True,
        tables=tuple(layout.tables.values()),
        files=functools.partial(_files, layout=layout, policy=policy, pools=pools),
    )


def _layout(source: Path, policy: Policy) -> _Layout:
    found = [folder for folder in FOLDERS if (source / folder / "train.csv").is_file()]
    if len(found) != 1:
        raise UserError(
            "source is not in the CheXpert layout",
            got=f"train.csv in {len(found)} folders" if found else "no train.csv",
            expected="train.csv and valid.csv, in the source or in CheXpert-v1.0-small or CheXpert-v1.0 below it",
        )
    base = PurePosixPath(found[0])
    tables = {part: str(base / f"{part}.csv") for part in ("train", "valid")}
    for name in tables.values():
        check_columns(source / name, ("Path", *FACTS, *policy.findings))
    batches = sorted(path.name for path in source.glob(BATCHES) if path.is_dir())
    images = {"train": (str(base / "train"), *batches), "valid": (str(base / "valid"),), "test": (str(base / "test"),)}
    test = str(base / "test_labels.csv")
    if (source / test).is_file():
        tables["test"] = test
        columns = [ALIASES.get(c, c) for c in check_columns(source / test, ("Path",))]
        missing = [f for f in policy.findings if f not in columns and f != NO_FINDING]
        if missing:
            raise UserError(f"test_labels.csv lacks the column(s) {', '.join(missing)}")
    return _Layout(tables, images)


def _table(source: Path, layout: _Layout, part: str, policy: Policy) -> Iterator[dict[str, str]]:
    path = source / layout.tables[part]
    names = check_columns(path, ())
    wanted = [name for name in names if ALIASES.get(name, name) in ("Path", *FACTS, *policy.findings)]
    for row in read_rows(path, wanted):
        yield {ALIASES.get(name, name): cell for name, cell in row.items()}


def _candidates(source: Path, *, layout: _Layout, policy: Policy, pools: dict[str, str]) -> Iterator[Candidate]:
    for part in layout.tables:
        for row in _table(source, layout, part, policy):
            name = _name(row["Path"], part)
            yield Candidate(
                _place(source, layout, part, name),
                {
                    "name": name,
                    "pool": pools[part],
                    "sex": row.get("Sex", ""),
                    "age": row.get("Age", ""),
                    "view": row.get("AP/PA", ""),
                    "codes": pack(row, policy.findings),
                },
            )


def _name(path: str, part: str) -> str:
    """ "patient00001/study1/view1_frontal.jpg", whatever the release puts before it."""
    parts = PurePosixPath(path).parts
    return str(PurePosixPath(*parts[parts.index(part) + 1 :])) if part in parts else path


def _place(source: Path, layout: _Layout, part: str, name: str) -> str:
    """The first of the part's folders that has the patient; the first of all where none has."""
    folders = layout.images[part]
    patient = PurePosixPath(name).parts[0] if name else ""
    folder = next((f for f in folders[1:] if (source / f / patient).is_dir()), folders[0])
    return str(PurePosixPath(folder, name))


def _files(source: Path, *, layout: _Layout, policy: Policy, pools: dict[str, str]) -> Iterator[str]:
    yield from layout.tables.values()
    for candidate in _candidates(source, layout=layout, policy=policy, pools=pools):
        yield candidate.path


def _rows(source: Path, candidate: Candidate, *, policy: Policy, ranks: tuple[int, ...], views: str) -> list[Row]:
    entry = candidate.entry
    name = PurePosixPath(entry["name"])
    if len(name.parts) != 3 or not name.parts[0].startswith("patient"):
        raise Reject("unknown_path", entry["name"])
    side = entry["view"] if entry["view"] in ("PA", "AP") else "frontal"
    projection = "lateral" if "lateral" in name.stem else side
    if not is_wanted(projection, views):
        return []
    if not (source / candidate.path).is_file():
        raise Reject("missing_file")
    return [
        observations.row(
            candidate,
            policy,
            ranks,
            identity=f"chexpert {name}",
            patient=f"chexpert {name.parts[0].removeprefix('patient')}",
            pool=entry["pool"],
            facts={"sex": sex(entry["sex"]), "age_band": age_band(entry["age"]), "view": projection},
        )
    ]


def _encode(source: Path, path: str, frame: int, *, size: int) -> UInt8[np.ndarray, "h w 1"]:
    return fit(read_reduced(source / path, 1, size), (size, size), "pad_area", 0)
