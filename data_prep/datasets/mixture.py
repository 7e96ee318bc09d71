"""Several built datasets as one, in one kind of pixels: pretraining on photographs and CT slices together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import functools
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from array_record.python import array_record_module
from jaxtyping import UInt8
import numpy as np
import pyarrow.parquet as pq
import tensorflow_datasets as tfds

from data_prep.hashing import Salt
from data_prep.ingest.csv_table import check_columns, read_rows
from data_prep.ingest.image import fit
from data_prep.spec import DATASETS, Candidate, DatasetSpec, Mixed, Reject, Row
from radnet_jax.data.card import CARD_FILE, MANIFEST_FILE, DatasetCard, Member, read_card
from radnet_jax.errors import UserError
from radnet_jax.preprocessing import MODALITIES, Adapter, ModelInput, StoredPixels, Window, make_adapter, to_unit

BUILD_FILE = "build.json"
COLUMNS = ("dataset", "weight")
CHANNELS = 3


class _Built(NamedTuple):
    """A member: its folder as the table gives it, its card, its salt, and the way of its pixels."""

    folder: str
    name: str
    weight: float
    card: DatasetCard
    salt: Salt
    nobody: bool
    adapter: Adapter


@DATASETS.register("mixture")
def mixture(source: Path, size: int, windows: str = "", modality: str = "") -> DatasetSpec:
    """--source=mixture.csv (UTF-8, a header line) with the columns dataset (folder of a dataset that data_prep.build
    has built; relative to the table), weight (how often its images are to be drawn, relative to the others; empty in
    all rows: as many as it has for training) and, where two members have the same name, name.
    All records are kept, with their splits, ids and hashed patients, as 8-bit images of three channels: grey is
    repeated, CT goes through windows that must be declared. The card tells members, weights and windows; the input
    pipeline draws by weight. Labels are kept where all members have the same ones. Members of patients must have been
    built with one salt, and no patient may be in the train split of one member and in the val or test split of another.
    Options: --windows=40:400 (centre:width in HU, for CT; three of them, 40:400,-600:1500,400:1800, fill the three
    channels), --modality=photo|CT|XR|MR|US|fundus (as what the mixture counts, where its members differ).
    """
    asked = _windows(windows)
    members = _members(source, size, asked, modality)
    hu = any(member.card.stored.unit == "HU" for member in members)
    if asked and not hu:
        raise UserError("mixture: windows", got=windows, expected="none, since no member is in HU")
    _check_patients(source.parent, members)
    labelled = len({(member.card.task, member.card.labels) for member in members}) == 1
    first = members[0].card
    rules = {member.card.stored.resize for member in members}
    adapters = {member.folder: member.adapter for member in members}
    return DatasetSpec(
        name="mixture",
        version="1.0.0",
        task=first.task if labelled else "none",
        labels=first.labels if labelled else (),
        stored=StoredPixels(
            members[0].adapter.model_input.modality, "none", (0.0, 255.0), (size, size), CHANNELS,
            rules.pop() if len(rules) == 1 else "none", "uint8",
        ),
        facts=("member",),
        candidates=functools.partial(_candidates, members=members),
        rows=functools.partial(_rows, labelled=labelled),
        encode=functools.partial(_encode, adapters=adapters),
        no_patients=all(member.nobody for member in members),
        tables=(source.name, *(str(Path(member.folder, CARD_FILE)) for member in members)),
        folder=source.parent,
        files=functools.partial(_files, table=source.name, members=members),
        scaling="; ".join(f"{member.name}: {_crossing(member.adapter)}" for member in members),
        mixed=Mixed(
            members=tuple(
                Member(m.name, m.weight, m.card.fingerprint, dict(m.card.splits), _crossing(m.adapter)) for m in members
            ),
            salt=_check_salts(members),
            generated=all(member.card.generated for member in members),
        ),
    )  # fmt: skip


def _windows(text: str) -> tuple[Window, ...]:
    try:
        windows = tuple((float(c), float(w)) for c, w in (part.split(":") for part in text.split(","))) if text else ()
    except ValueError as error:
        raise UserError("mixture: windows", got=repr(text), expected="centre:width such as 40:400") from error
    if len(windows) not in (0, 1, CHANNELS) or not all(math.isfinite(c) and 0 < w < math.inf for c, w in windows):
        raise UserError("mixture: windows", got=repr(text), expected=f"one or {CHANNELS}, each centre:width in HU")
    return windows


def _members(source: Path, size: int, windows: tuple[Window, ...], modality: str) -> list[_Built]:
    columns = check_columns(source, COLUMNS)
    lines = list(read_rows(source, (*COLUMNS, *(("name",) if "name" in columns else ()))))
    if not lines:
        raise UserError(f"table {source.name} has no rows", expected="a row for each dataset of the mixture")
    cards = [read_card(source.parent / line["dataset"]) for line in lines]
    names = [line.get("name") or card.name for line, card in zip(lines, cards, strict=True)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"two members of the mixture are called {twice!r}", fix="tell them apart in a column name")
    found = sorted({card.stored.modality for card in cards})
    if modality not in (MODALITIES if len(found) > 1 else ("", *MODALITIES)):
        raise UserError(
            f"mixture: modality (the members are {' and '.join(found)})",
            got=repr(modality),
            expected=f"--modality=one of {', '.join(MODALITIES)}",
        )
    members = []
    for line, name, card, weight in zip(lines, names, cards, _weights(lines, cards), strict=True):
        adapter = _adapter(name, card.stored, size, windows, modality or found[0])
        salt, nobody = _identities(source.parent / line["dataset"])
        members.append(_Built(line["dataset"], name, weight, card, salt, nobody, adapter))
    return members


def _weights(lines: list[dict[str, str]], cards: list[DatasetCard]) -> list[float]:
    """Weights of the rows; where all are empty, as many as the dataset has training records."""
    if not any(line["weight"] for line in lines):
        return [float(card.splits.get("train", 0)) for card in cards]
    weights = []
    for number, line in enumerate(lines, 2):
        try:
            weights.append(float(line["weight"]))
        except ValueError:
            weights.append(math.nan)
        if not 0 < weights[-1] < math.inf:
            raise UserError(
                f"mixture: weight in line {number}",
                got=repr(line["weight"]),
                expected="a number above 0, or none in all",
            )
    return weights


def _adapter(name: str, stored: StoredPixels, size: int, windows: tuple[Window, ...], modality: str) -> Adapter:
    if stored.unit == "HU" and not windows:
        raise UserError(
            f"mixture: {name} holds Hounsfield units", fix="declare what is shown of them: --windows=40:400"
        )
    shown = windows if stored.unit == "HU" else ()
    channels = "keep" if len(shown) == CHANNELS or (not shown and stored.channels == CHANNELS) else "repeat"
    model_input = ModelInput(
        modality, CHANNELS, (size, size), shown, None if shown else stored.value_range, (0.0,) * 3, (1.0,) * 3
    )
    try:
        return make_adapter(stored, model_input, {"windows": shown, "channels": channels})
    except UserError as error:
        raise UserError(f"mixture: member {name}: {error}") from error


def _crossing(adapter: Adapter) -> str:
    """The way of a member's pixels, in words."""
    stored, parts = adapter.stored, [adapter.stored.modality]
    if adapter.windows:
        parts.append(
            f"HU window{'s' * (len(adapter.windows) > 1)} " + ", ".join(f"{c:g}:{w:g}" for c, w in adapter.windows)
        )
    elif stored.value_range != (0.0, 255.0):
        parts.append(f"values {stored.value_range[0]:g} to {stored.value_range[1]:g}")
    if adapter.channels == "repeat":
        parts.append(f"repeated to {CHANNELS} channels")
    return ", ".join(parts)


def _identities(folder: Path) -> tuple[Salt, bool]:
    """The salt that a dataset's ids are hashed with, without its value, and whether its images are of nobody."""
    try:
        data = json.loads((folder / BUILD_FILE).read_text())
        return Salt(b"", data["salt"]["kind"], data["salt"]["fingerprint"]), bool(data["patients"]["nobody"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"dataset {folder} has no readable {BUILD_FILE}", fix="build it anew") from error


def _check_salts(members: list[_Built]) -> Salt:
    """The salt of the mixture: that of all members of patients, who could not be told to be the same with several."""
    salts = {member.salt.fingerprint(): member for member in members if not member.nobody}
    if len(salts) > 1:
        raise UserError(
            "members of the mixture were built with different salts, so that a patient of both can't be found",
            got=" and ".join(member.name for member in salts.values()),
            fix="build them with one salt file",
        )
    return next(iter(salts.values()), members[0]).salt


def _check_patients(base: Path, members: list[_Built]) -> None:
    """Refuses a patient who is in the train split of one member and in the val or test split of another."""
    seen: dict[str, dict[str, set[str]]] = {}
    for member in members:
        if not member.nobody:
            seen[member.name] = {"train": set(), "held out": set()}
            with pq.ParquetFile(base / member.folder / MANIFEST_FILE) as file:
                for batch in file.iter_batches(columns=["split", "patient"]):
                    for split, patient in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                        seen[member.name]["train" if split == "train" else "held out"].add(patient)
    for one, splits in seen.items():
        for other in seen:
            if shared := splits["train"] & seen[other]["held out"]:
                raise UserError(
                    f"{len(shared)} patient(s) in the train split of {one} are in the val or test split of {other}",
                    fix="rebuild one of them with splits that agree, or without these splits",
                )


def _files(source: Path, *, table: str, members: list[_Built]) -> Iterator[str]:
    yield table
    for member in members:
        for name in (CARD_FILE, MANIFEST_FILE):
            yield str(Path(member.folder, name))


def _candidates(source: Path, *, members: list[_Built]) -> Iterator[Candidate]:
    """The shards of all members."""
    for number, member in enumerate(members):
        splits = tfds.builder_from_directory(str(source / member.folder)).info.splits
        for split in member.card.splits:
            start = 0
            for name, count in zip(sorted(splits[split].filenames), splits[split].shard_lengths, strict=True):
                entry = {"member": member.name, "number": str(number), "split": split, "start": str(start)}
                yield Candidate(str(Path(member.folder, name)), entry | {"count": str(count)})
                start += count


def _rows(source: Path, candidate: Candidate, *, labelled: bool) -> list[Row]:
    entry, path = candidate.entry, Path(candidate.path)
    start, split = int(entry["start"]), entry["split"]
    wanted = [("split", "=", split), ("index", ">=", start), ("index", "<", start + int(entry["count"]))]
    lines = pq.read_table(source / path.parent / MANIFEST_FILE, filters=wanted).sort_by("index").to_pylist()
    if not (source / path).is_file() or len(lines) != int(entry["count"]):
        raise Reject("incomplete_member")
    return [_row(candidate, frame, line, labelled) for frame, line in enumerate(lines)]


def _row(candidate: Candidate, frame: int, line: Mapping[str, Any], labelled: bool) -> Row:
    label = line.get("label") if labelled else None
    size, spacing = (line["rows"], line["columns"]), (line["row_spacing"], line["column_spacing"])
    return Row(
        path=candidate.path,
        identity=line["case_id"],
        patient=line["patient"],
        stratum=int(candidate.entry["number"]) if label is None else label,
        label=-1 if label is None else label,
        labels=tuple(line.get("labels") or ()) if labelled else (),
        label_mask=tuple(line.get("label_mask") or ()) if labelled else (),
        frame=frame,
        size=None if None in size else size,
        spacing=None if None in spacing else spacing,
        thickness=line["thickness"],
        pool=line["split"],
        facts={"member": candidate.entry["member"]},
        carried={name: line[name] for name in ("case_id", "patient", "source", "phash")},
    )


_open: tuple[Path, Any, Any] | None = None  # the last shard, its reader and the features of its records


def _encode(source: Path, path: str, frame: int, *, adapters: Mapping[str, Adapter]) -> UInt8[np.ndarray, "h w 3"]:
    global _open
    shard = source / path
    if _open is None or _open[0] != shard:
        features = tfds.builder_from_directory(str(shard.parent)).info.features
        _open = shard, array_record_module.ArrayRecordReader(str(shard)), features
    _, reader, features = _open
    try:
        image = features.deserialize_example_np(reader.read([frame])[0])["image"]
    except (RuntimeError, IndexError, ValueError) as error:
        raise Reject("unreadable", str(error)) from error
    adapter = adapters[str(Path(path).parent)]
    unit = to_unit(fit(image, adapter.model_input.size, "stretch_area", 0), adapter)
    return np.repeat(np.rint(unit * 255).astype(np.uint8), CHANNELS // unit.shape[2], axis=2)
