"""Builds of miniatures in this process, and how to find a record by the name that its owner gave it."""

import contextlib
import json
from typing import NamedTuple
from unittest import mock

import pyarrow.parquet as pq
import tensorflow_datasets as tfds

from data_prep import build as build_module
from data_prep.build import build, main
from data_prep.generated import mark_generated
from data_prep.hashing import PUBLIC_SALT, pseudonym
from data_prep.miniatures import write_miniature
from data_prep.spec import GENERATED_MARKER


class Built(NamedTuple):
    """card; records and manifest rows of all splits by case id, each with its "split"; build.json."""

    card: object
    records: dict
    rows: dict
    report: dict

    def record(self, identity):
        return self.records[case(identity)]

    def row(self, identity):
        return self.rows[case(identity)]

    def merged(self, split=""):
        """What is stored and what the manifest says of each record (of a split), in the manifest's order."""
        return [row | self.records[name] for name, row in self.rows.items() if split in ("", row["split"])]


def case(identity):
    return pseudonym(PUBLIC_SALT.value, "case", identity)  # miniatures are generated: their salt is public


@contextlib.contextmanager
def in_process(workers, limits):
    yield map


def build_from(dataset, source, out, **options):
    """Builds a source in this process; 16 pixels, all splits. What a test changed in a generated one is generated."""
    folder = source if source.is_dir() else source.parent
    if (folder / GENERATED_MARKER).is_file():
        mark_generated(folder, "tests", {})
    with mock.patch.object(build_module, "ordered_map", in_process):
        card = build(dataset, source, out, **{"size": 16, "log": lambda line: None} | options)
    records = {}
    for split in card.splits:
        for record in tfds.builder_from_directory(out).as_data_source(split):
            records[record["case_id"].decode()] = record | {"split": split}
    rows = {row["case_id"]: row for row in pq.read_table(out / "manifest.parquet").to_pylist()}
    assert sum(card.splits.values()) == len(records) == len(rows)
    return Built(card, records, rows, json.loads((out / "build.json").read_text()))


def build_miniature(dataset, folder, **options):
    """Writes the miniature to folder/in, unless it is there, and builds it."""
    return build_from(dataset, write_miniature(dataset, folder / "in"), folder / "out", **options)


def refused(capsys, dataset, source, out, *flags):
    """The one line with which the command line refuses to build."""
    assert main([f"--dataset={dataset}", f"--source={source}", f"--out={out}", "--size=16", *flags]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def positives(card, labels):
    """Names of the labels that are 1."""
    return {name for name, value in zip(card.labels, labels, strict=True) if value}
