"""A dataset whose files do to their reader what their names say; in a module, so that workers can import it."""

import ctypes
from pathlib import Path
import time

import numpy as np

from data_prep.ingest.files import walk
from data_prep.spec import Candidate, DatasetSpec, Row
from radnet_jax.preprocessing import StoredPixels

PATIENT = "Mueller^Hans"


def spec(source, size):
    return DatasetSpec(
        name="hostile",
        version="1.0.0",
        task="none",
        labels=(),
        stored=StoredPixels("photo", "none", (0.0, 255.0), (size, size), 1, "none", "uint8"),
        facts=(),
        candidates=candidates,
        rows=rows,
        encode=encode,
        no_patients=True,
    )


def candidates(source: Path):
    return (Candidate(path) for path in walk(source))


def rows(source, candidate):
    name = Path(candidate.path).name
    if name.startswith("header_"):
        _misbehave(name.removeprefix("header_"))
    return [Row(path=candidate.path, identity=candidate.path, patient=candidate.path)]


def encode(source, path, frame):
    _misbehave(Path(path).name)
    return np.zeros((8, 8, 1), np.uint8)


def _misbehave(name):
    if name.startswith("crash"):
        ctypes.string_at(0)
    if name.startswith("hang"):
        time.sleep(60)
    if name.startswith("bomb"):
        np.empty(1 << 40, np.uint8)
    if name.startswith("creep"):  # memory asked for bit by bit, as a codec does
        held = []
        while True:
            held.append(np.empty(1 << 26, np.uint8))
    if name.startswith("error"):
        raise ZeroDivisionError(PATIENT)
