"""ImageNet-1k (Russakovsky et al. 2015): the classification set of ILSVRC 2012; also subsets of 100 and 10 classes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
import functools
import os
from pathlib import Path, PurePosixPath
import re

from data_prep.ingest.csv_table import check_columns, read_rows
from data_prep.photographs import check_official_val, photographs, train_pool, val_pools
from data_prep.spec import DATASETS, Candidate, DatasetSpec
from radnet_jax.errors import UserError

CLASSES = 1000
FOLDERS = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "")
MAPPING = "LOC_synset_mapping.txt"
SOLUTION = "LOC_val_solution.csv"
_SYNSET = re.compile(r"n\d{8}")


@DATASETS.register("imagenet")
def imagenet(source: Path, size: int, classes: int = 1000, official_val: str = "halves") -> DatasetSpec:
    """ImageNet-1k as Kaggle publishes it: ILSVRC/Data/CLS-LOC/train/n01440764/n01440764_10026.JPEG, .../val/
    ILSVRC2012_val_00000001.JPEG, LOC_synset_mapping.txt and LOC_val_solution.csv. Also just train/ and val/ with a
    folder for each synset in both; without the mapping there must be all 1000. From kaggle.com/c/
    imagenet-object-localization-challenge or image-net.org, terms of access: research and education only, no sharing.
    Labels: synsets, in the order of the mapping (which is the order of their names).
    Splits: the official test has no labels. --official_val=halves (default, as in the RadNet study): half of each class
    of the official validation images is val, half test; --official_val=test: all of them are test, val is taken out of
    train.
    Options: --classes=1000|100|10 (every 10th or every 100th synset of the mapping, from the first on).
    """
    if classes not in (1000, 100, 10):
        raise UserError("imagenet: classes", got=classes, expected="1000, 100 or 10")
    check_official_val("imagenet", official_val)
    base = next((folder for folder in FOLDERS if (source / folder / "train").is_dir()), None)
    if base is None or not (source / base / "val").is_dir():
        raise UserError(
            f"source lacks the folder {'train' if base is None else 'val'}",
            expected=f"train and val in the source, or in {FOLDERS[0]} below it",
        )
    synsets, tables = _synsets(source, base)
    flat = not any(_SYNSET.fullmatch(entry.name) for entry in os.scandir(source / base / "val"))
    if flat:
        check_columns(source / SOLUTION, ("ImageId", "PredictionString"))
        tables = (*tables, SOLUTION)
    chosen = synsets[:: 1000 // classes]
    missing = [synset for synset in chosen if not (source / base / "train" / synset).is_dir()]
    if missing:
        raise UserError(f"train lacks the folder of {len(missing)} synset(s)", got=f"no {missing[0]}")
    candidates = functools.partial(
        _candidates, base=base, synsets=synsets, labels=chosen, flat=flat, official_val=official_val
    )
    return photographs("imagenet", size, chosen, candidates, _identity, "unknown_synset", tables)


def _synsets(source: Path, base: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All synsets in index order, and the tables that said so."""
    if not (source / MAPPING).is_file():
        found = tuple(sorted(e.name for e in os.scandir(source / base / "train") if _SYNSET.fullmatch(e.name)))
        if len(found) != CLASSES:
            raise UserError(
                "source does not say which synsets there are",
                got=f"{len(found)} synset folders in train",
                expected=f"{MAPPING}, or the folders of all {CLASSES}",
            )
        return found, ()
    lines = [line for line in (source / MAPPING).read_text(encoding="utf-8", errors="replace").splitlines() if line]
    synsets = tuple(line.split()[0] for line in lines)
    wrong = next((number for number, synset in enumerate(synsets, 1) if not _SYNSET.fullmatch(synset)), None)
    if wrong or synsets != tuple(sorted(set(synsets))):
        raise UserError(
            f"{MAPPING} is not sorted by synset" if not wrong else f"line {wrong} of {MAPPING} starts with no synset",
            expected="lines such as: n01440764 tench, Tinca tinca",
        )
    return synsets, (MAPPING,)


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith("."))


def _candidates(
    source: Path, *, base: str, synsets: tuple[str, ...], labels: tuple[str, ...], flat: bool, official_val: str
) -> Iterator[Candidate]:
    pool = train_pool(official_val)
    for label, synset in enumerate(labels):
        for name in _names(source / base / "train" / synset):
            yield Candidate(str(PurePosixPath(base, "train", synset, name)), {"label": str(label), "pool": pool})
    folder = PurePosixPath(base, "val")
    val: dict[str, list[str]] = defaultdict(list)
    if flat:
        for row in read_rows(source / SOLUTION, ("ImageId", "PredictionString")):
            val[row["PredictionString"].split(" ")[0]].append(f"{row['ImageId']}.JPEG")
    for label, synset in enumerate(labels):
        names = val[synset] if flat else _names(source / folder / synset)
        for name, split in val_pools(names, official_val):
            path = folder / name if flat else folder / synset / name
            yield Candidate(str(path), {"label": str(label), "pool": split})
    for synset in sorted({*val} - {*synsets}):
        yield from (Candidate(str(folder / name), {"label": "", "pool": ""}) for name in sorted(val[synset]))


def _identity(path: PurePosixPath) -> str:
    return f"imagenet {path.stem}"
