import numpy as np
import pytest
from tensorflow_datasets.proto import tf_example_pb2

from radnet_jax.data.example import BYTES, FLOAT, INT64, BadExampleError, Scanner, integers

NAMES = ["image", "label", "labels", "case_id", "ä/β", ""]


def parsed(record):
    """What the reference parser of protobuf makes of a record."""
    out = {}
    for name, feature in tf_example_pb2.Example.FromString(record).features.feature.items():
        kind = feature.WhichOneof("kind")
        values = list(getattr(feature, kind).value) if kind else []
        out[name] = (kind, [np.float32(v).tobytes() for v in values] if kind == "float_list" else values)
    return out


def scanned(record, scan):
    out = {}
    for name, feature in scan(record).items():
        content = [record[start:stop] for start, stop in feature.spans]
        if feature.kind == BYTES:
            out[name] = ("bytes_list", content)
        elif feature.kind == FLOAT:
            joined = b"".join(content)
            out[name] = ("float_list", [joined[i : i + 4] for i in range(0, len(joined), 4)])
        elif feature.kind == INT64:
            out[name] = ("int64_list", integers(record, feature))
        else:
            out[name] = (None, [])
    return out


def random_example(rng):
    example = tf_example_pb2.Example()
    for name in rng.permutation(NAMES)[: rng.integers(0, len(NAMES) + 1)]:
        feature = example.features.feature[name]
        count = int(rng.integers(0, 4))
        match rng.integers(0, 4):
            case 0:
                feature.bytes_list.value.extend(
                    rng.bytes(int(rng.choice([0, 1, 127, 128, 20_000]))) for _ in range(count)
                )
            case 1:
                feature.float_list.value.extend(rng.standard_normal(count))
            case 2:
                ends = [0, 1, 127, 128, -1, 2**63 - 1, -(2**63)]
                feature.int64_list.value.extend(int(v) for v in rng.choice(np.array(ends), count))
    return example.SerializeToString(deterministic=bool(rng.integers(2)))


def test_agrees_with_the_reference_parser_on_random_examples():
    rng, scan = np.random.default_rng(0), Scanner()
    for _ in range(2000):
        record = random_example(rng)
        assert scanned(record, scan) == parsed(record)


def test_a_kept_layout_is_used_for_equal_structure_only():
    """Records of one length: values differ, then names, then kinds; a scanner that has seen others must tell."""
    rng, scan = np.random.default_rng(1), Scanner()
    records = []
    for _ in range(300):
        example = tf_example_pb2.Example()
        a, b = rng.permutation(["aa", "bb", "cc"])[:2]
        example.features.feature[a].bytes_list.value.append(rng.bytes(8))
        if rng.integers(2):
            example.features.feature[b].bytes_list.value.append(rng.bytes(4))
        else:
            example.features.feature[b].float_list.value.append(rng.standard_normal())
        records.append(example.SerializeToString(deterministic=True))
    assert len({len(r) for r in records}) == 1
    for record in records:
        assert scanned(record, scan) == parsed(record)


def entry(key, feature):
    body = b"\x0a" + bytes([len(key)]) + key + b"\x12" + bytes([len(feature)]) + feature
    return b"\x0a" + bytes([len(body)]) + body


def example(*entries):
    body = b"".join(entries)
    return b"\x0a" + bytes([len(body)]) + body


@pytest.mark.parametrize(
    "record",
    [
        example(entry(b"k", b"\x1a\x04\x08\x05\x08\x07")),  # int64 values that are not packed
        example(entry(b"k", b"\x12\x0a\x0d\x00\x00\x80\x3f\x0d\x00\x00\x00\x40")),  # floats that are not packed
        example(entry(b"k", b"\x1a\x03\x0a\x01\x05\x1a\x03\x0a\x01\x07")),  # one list in two pieces
        example(entry(b"k", b"\x0a\x03\x0a\x01x\x1a\x03\x0a\x01\x07")),  # a oneof set twice
        example(entry(b"k", b"\x1a\x03\x0a\x01\x05"), entry(b"k", b"\x0a\x03\x0a\x01y")),  # a name that stands twice
        example(entry(b"k", b"\x1a\x03\x0a\x01\x05")) + example(entry(b"j", b"\x0a\x03\x0a\x01y")),  # two messages
        example(entry(b"k", b"\x1a\x03\x0a\x01\x05")) + b"\x18\x07\x21abcdefgh",  # fields that nobody knows
        b"",
    ],
)
def test_agrees_on_what_the_format_allows_and_nobody_writes(record):
    assert scanned(record, Scanner()) == parsed(record)


def test_unpacked_numbers_of_one_length_are_told_apart():
    scan = Scanner()
    for feature in (b"\x1a\x04\x08\x05\x08\x07", b"\x1a\x04\x08\x85\x01\x10", b"\x1a\x04\x08\x06\x08\x00"):
        record = example(entry(b"k", feature[:5] + feature[5:]))
        try:
            want = parsed(record)
        except Exception:
            with pytest.raises(BadExampleError):
                scanned(record, scan)
        else:
            assert scanned(record, scan) == want


def test_truncated_records_are_refused_or_mean_the_same():
    rng = np.random.default_rng(2)
    for _ in range(200):
        record = random_example(rng)
        cut = record[: rng.integers(0, len(record) + 1)]
        try:
            want = parsed(cut)
        except Exception:
            with pytest.raises(BadExampleError):
                scanned(cut, Scanner())
        else:
            assert scanned(cut, Scanner()) == want
