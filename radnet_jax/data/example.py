"""Where the values of a serialised `tf.train.Example` lie: a scan of the wire format that copies and decodes nothing.

Records of one dataset differ in their values and seldom in anything else. So the scan of one record is kept, and for
the next of equal length it is enough to see that all bytes outside the values are the same: one comparison for each
value in place of a parse, which is what keeps Python out of the way of the threads that decompress.

The format: https://protobuf.dev/programming-guides/encoding, with the messages Example{features=1}, Features{map
feature=1}, Feature{bytes_list=1 | float_list=2 | int64_list=3}, each list {value=1}.
"""

from __future__ import annotations

import dataclasses

Span = tuple[int, int]  # start and stop
BYTES, FLOAT, INT64 = 1, 2, 3
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_KEPT = 16  # layouts; records of compressed images all differ in length, and keeping those would be of no use


class BadExampleError(ValueError):
    """The bytes are no `tf.train.Example`."""


@dataclasses.dataclass(frozen=True)
class Feature:
    """Kind of a feature's values (BYTES, FLOAT or INT64), and where they lie in the record.

    A span of BYTES is one value; one of FLOAT little-endian float32 values; one of INT64 varints (see `integers`).
    """

    kind: int
    spans: tuple[Span, ...]


@dataclasses.dataclass(frozen=True)
class _Layout:
    features: dict[str, Feature]
    fixed: tuple[tuple[int, int, bytes], ...]  # all that is not a value: start, stop, content


class Scanner:
    """Scans records of one dataset. Threads may share it."""

    def __init__(self) -> None:
        self._layouts: dict[int, _Layout] = {}  # by length of the record

    def __call__(self, record: bytes) -> dict[str, Feature]:
        """Returns the features of a record by name; raises BadExampleError where it is not an Example."""
        layout = self._layouts.get(len(record))
        if layout is not None:
            for start, stop, content in layout.fixed:
                if record[start:stop] != content:
                    break
            else:
                return layout.features
        try:
            features, values = _scan(record)
        except IndexError as error:
            raise BadExampleError("a field runs past the record") from error
        ends = sorted((0, *(end for value in values for end in value), len(record)))
        fixed = tuple((a, b, record[a:b]) for a, b in zip(ends[::2], ends[1::2]) if a < b)
        if len(self._layouts) >= _KEPT:
            self._layouts.clear()
        self._layouts[len(record)] = _Layout(features, fixed)
        return features


def integers(record: bytes, feature: Feature) -> list[int]:
    """Returns the int64 values of a feature."""
    values = []
    for start, stop in feature.spans:
        while start < stop:
            value, start = _varint(record, start, stop)
            values.append(value - 2**64 if value >= 2**63 else value)
    return values


def _scan(record: bytes) -> tuple[dict[str, Feature], list[Span]]:
    """Returns the features, and the spans whose content may change without anything else changing."""
    features: dict[str, Feature] = {}
    values: list[Span] = []
    for top in _messages(record, 0, len(record)):
        for entry in _messages(record, *top):
            name, feature = "", Feature(0, ())
            for number, wire, start, stop in _fields(record, *entry):
                if number == 1 and wire == _LENGTH:
                    name = record[start:stop].decode(errors="replace")
                elif number == 2 and wire == _LENGTH:
                    feature = _feature(record, start, stop, feature, values)
            features[name] = feature  # of a name that stands twice the last counts
    return features, values


def _feature(record: bytes, start: int, stop: int, before: Feature, values: list[Span]) -> Feature:
    kind, spans = before.kind, list(before.spans)
    for number, wire, first, last in _fields(record, start, stop):
        if number not in (BYTES, FLOAT, INT64) or wire != _LENGTH:
            continue
        if number != kind:  # of a oneof the last counts; lists of one kind are joined
            kind, spans = number, []
        for field, form, *span in _fields(record, first, last):
            if field == 1 and (form == _LENGTH or (kind == FLOAT and form == _FIXED32)):
                if kind == FLOAT and (span[1] - span[0]) % 4:
                    raise BadExampleError("floats that are not of four bytes")
                spans.append((span[0], span[1]))
                values.append((span[0], span[1]))
            elif field == 1 and kind == INT64 and form == _VARINT:  # its length is in itself: it may not change
                spans.append((span[0], span[1]))
    return Feature(kind, tuple(spans))


def _messages(record: bytes, start: int, stop: int) -> list[Span]:
    """Returns the messages that are field 1."""
    fields = _fields(record, start, stop)
    return [(start, stop) for number, wire, start, stop in fields if number == 1 and wire == _LENGTH]


def _fields(record: bytes, start: int, end: int) -> list[tuple[int, int, int, int]]:
    """Returns (field number, wire type, start and stop of the content) of each field of a message."""
    fields = []
    while start < end:
        tag, start = record[start], start + 1  # most numbers are of one byte
        if tag >= 0x80:
            tag, start = _varint(record, start - 1, end)
        wire = tag & 7
        if wire == _LENGTH:
            length, start = record[start], start + 1
            if length >= 0x80:
                length, start = _varint(record, start - 1, end)
            stop = start + length
        elif wire == _VARINT:
            _, stop = _varint(record, start, end)
        elif wire in (_FIXED32, _FIXED64):
            stop = start + (4 if wire == _FIXED32 else 8)
        else:
            raise BadExampleError(f"wire type {wire}")
        if stop > end:
            raise BadExampleError("a field runs past its message")
        fields.append((tag >> 3, wire, start, stop))
        start = stop
    return fields


def _varint(record: bytes, start: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while start < end and shift < 70:
        byte = record[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), start
        shift += 7
    raise BadExampleError("a number that does not end")
