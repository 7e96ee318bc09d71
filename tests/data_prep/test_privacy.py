"""Nothing that identifies anyone is in what is meant to be shared: the bytes of the dataset and what the build says.

Every identifying value of a source is searched in every file (array records and tables decoded), in several spellings
and as hashes that anybody could compute. The private folder of rejected files is left out: it is not to be shared.
"""

import base64
import contextlib
import csv
import hashlib
import io
import json
import re
import shutil
from unittest import mock

from array_record.python import array_record_module
import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
import tensorflow_datasets as tfds

from data_prep import build as build_module
from data_prep.build import build
from data_prep.hashing import PUBLIC_SALT, pseudonym
from data_prep.ingest.dicom import rows as rows_module
from data_prep.manifest import REJECTED_FOLDER
from data_prep.miniatures import MINIATURES, write_miniature
from data_prep.spec import DATASETS, GENERATED_MARKER
from radnet_jax.data.card import read_card
from tests.data_prep.planted import BURNED_IN, Planted, ct_source, image_source, table_source

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR", "ignore:The value length")
SHORTEST = 6  # of a value that is searched within others; shorter ones are compared with whole values


def _strings(value):
    """All texts in a value of a table or a record."""
    if isinstance(value, dict):
        return {text for v in value.values() for text in _strings(v)}
    if isinstance(value, list | tuple):
        return {text for v in value for text in _strings(v)}
    if isinstance(value, bytes):
        return {value.decode("utf-8", "replace")}
    return {value} if isinstance(value, str) else set()


def shared(out):
    """What one who gets the dataset sees: {place: bytes}, compressed things decoded, and {place: its texts}."""
    contents, texts = {}, {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if name.startswith(REJECTED_FOLDER):
            continue
        contents[f"name of {name}"] = name.encode()
        if path.is_dir():
            continue
        contents[name] = path.read_bytes()
        if ".array_record" in name:
            reader = array_record_module.ArrayRecordReader(str(path))
            contents[f"records of {name}"] = b"".join(reader.read_all())
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            contents[f"rows of {name}"] = repr(table.to_pylist()).encode() + repr(table.schema.metadata).encode()
            texts[name] = _strings(table.to_pylist())
    for split in read_card(out).splits:
        records = tfds.builder_from_directory(out).as_data_source(split)
        plain = [{k: v for k, v in r.items() if not isinstance(v, np.ndarray)} for r in records]
        texts[f"records of {split}"] = _strings(plain)
    return contents, texts


def _hashes(value):
    """What whoever does not know the salt could write in place of a value; 20 hexadecimal digits are enough of each."""
    names = (value, f"id {value}", f"study {value}", f"series {value}", f"file {value}")
    found = {getattr(hashlib, name)(value.encode()).hexdigest()[:20] for name in ("sha256", "sha1", "md5")}
    kinds = ("case", "patient", "series", "source")
    return found | {pseudonym(salt, k, n) for salt in (PUBLIC_SALT.value, b"") for k in kinds for n in names}


def _spellings(value):
    low = value.lower()
    plain = {low, low[::-1], low.encode().hex(), value.encode().hex()}
    return [text.encode() for text in plain] + [low.encode("utf-16-le"), low.encode("utf-16-be")]


def _decoded(content):
    """Content with what is base64 in it decoded, in lower case; and all runs of 20 hexadecimal digits."""
    runs = re.findall(rb"[A-Za-z0-9+/]{8,}", content)
    plain = [base64.b64decode(run[: len(run) - (len(run) % 4 == 1)] + b"==") for run in runs]
    text = b"\0".join([content, *plain]).lower()
    runs = re.findall(rb"[0-9a-f]{20,}", b"\0".join([text, *(p.hex().encode() for p in plain)]))
    return text, {run[i : i + 20].decode() for run in runs for i in range(len(run) - 19)}


def leaks(values, contents, texts, said=()):
    """(place, value) of each value that can be found; short ones only where they stand by themselves."""
    contents = contents | {"what the build says": "\n".join(said).encode()}
    places = {place: _decoded(content) for place, content in contents.items()}
    found = []
    for value in sorted(set(values)):
        found += [(place, value) for place, seen in texts.items() if value in seen]
        if len(value) >= SHORTEST and len(set(value)) > 1:
            spellings, hashes = _spellings(value), _hashes(value)
            for place, (text, digits) in places.items():
                if any(s in text for s in spellings) or not digits.isdisjoint(hashes):
                    found.append((place, value))
    return found


@contextlib.contextmanager
def _in_process(workers, limits):
    yield map


def _built(dataset, source, out, **options):
    """Builds in this process; returns what is shared, the lines of the log and what was printed."""
    said, printed = [], io.StringIO()
    with (
        mock.patch.object(build_module, "ordered_map", _in_process),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        build(dataset, source, out, **{"size": 16, "log": said.append} | options)
    assert not (out / ".build").exists()
    return (*shared(out), [*said, printed.getvalue()])


def _paths(source):
    """Names of the files and folders of a source, with and without suffixes, and where it lies."""
    names = {str(source)}
    for path in source.rglob("*"):
        names |= {path.name, path.name.split(".")[0], str(path.relative_to(source))}
    return names


SOURCES = {
    "radnet": (ct_source, "radnet", {}),
    "radnet, burned in": (ct_source, "radnet", {"burned_in": "keep"}),
    "images": (image_source, "image_folder", {"modality": "fundus"}),
    "table of CT": (table_source, "table", {"modality": "CT"}),
    "table of X-rays": (table_source, "table", {"modality": "XR", "value_range": "0,4095"}),
}


@pytest.fixture(scope="module", params=SOURCES)
def dataset(request, tmp_path_factory):
    """A dataset built from a source full of planted values, and these."""
    write, name, options = SOURCES[request.param]
    folder, planted = tmp_path_factory.mktemp("private"), Planted()
    root = folder / planted.text()
    source = write(root, planted) or root
    contents, texts, said = _built(name, source, folder / "out", **options)
    return folder / "out", [*planted.values, *_paths(root), "067Y"], contents, texts, said


def test_no_value_of_a_source_is_in_what_is_shared(dataset):
    out, values, contents, texts, said = dataset
    values = [v for v in values if not v.startswith("class ")]  # the labels of class folders
    assert len(values) > 50
    assert sum(read_card(out).splits.values()) >= 7
    assert leaks(values, contents, texts, said) == []
    rejected = (out / REJECTED_FOLDER / "rejected.jsonl").read_text()
    assert any(value in rejected for value in values)  # the private list tells the owner which files they were


def test_columns_of_numbers_are_of_a_known_kind(dataset):
    """A number can be an id too: whoever adds a column of numbers has to think of that."""
    known = {
        "index", "slice", "position", "phash", "rows", "columns", "row_spacing", "column_spacing", "thickness", "label",
        "labels", "label_mask", "patient_known", "fraction", "shot",
    }  # fmt: skip
    for path in dataset[0].glob("*.parquet"):
        assert {field.name for field in pq.read_schema(path) if field.type != "string"} <= known


def test_burned_in_names_are_in_the_pixels_only_where_they_were_asked_for(dataset, request):
    pixels = np.full(100, BURNED_IN - 1024, np.int16).tobytes()
    found = any(pixels in content for content in dataset[2].values())
    assert found == ("burned in" in request.node.name)


def test_a_planted_leak_is_found(dataset, tmp_path):
    out, values, *_ = dataset
    value = next(v for v in values if re.fullmatch(r"Zq\d+Xw", v))
    plain = value.encode()
    for leak in (
        plain, value.lower().encode(), value.encode("utf-16-le"), plain.hex().encode(),
        hashlib.sha256(plain).hexdigest().encode(), pseudonym(PUBLIC_SALT.value, "patient", f"id {value}").encode(),
        *(base64.b64encode(b"x" * k + plain + b"y") for k in range(5)),
    ):  # fmt: skip
        assert leaks([value], {"a": b"some " + leak + b" bytes"}, {}), leak
    assert leaks([value], {}, {}, [f"built {value}"])
    assert leaks(["417"], {}, {"a": {"417"}})
    assert leaks(["417"], {"a": b"1417"}, {"a": {"1417"}}) == []
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    table = pq.read_table(copy / "manifest.parquet")
    pq.write_table(table.append_column("who", [[value] * len(table)]), copy / "manifest.parquet", compression="zstd")
    shard = next(copy.glob("*.array_record*"))
    records = array_record_module.ArrayRecordReader(str(out / shard.name)).read_all()
    writer = array_record_module.ArrayRecordWriter(str(shard), "group_size:1")
    for record in records:  # one field of each is a hash of 20 digits
        case = re.search(rb"[0-9a-f]{20}", record)[0]
        writer.write(record.replace(case, plain.ljust(20)))
    writer.close()
    places = {place for place, _ in leaks([value], *shared(copy))}
    assert {"rows of manifest.parquet", f"records of {shard.name}"} <= places


def test_a_fact_that_is_passed_on_as_it_stands_is_found(tmp_path):
    planted = Planted()
    ct_source(tmp_path / "in", planted)
    with mock.patch.object(rows_module, "scanner", lambda manufacturer: str(manufacturer)):
        contents, texts, said = _built("radnet", tmp_path / "in", tmp_path / "out")
    assert "rows of manifest.parquet" in {place for place, _ in leaks(planted.values, contents, texts, said)}


IDENTIFYING = re.compile(
    r"patient|subject|study|series|sop|uid|dicom|image|path|file|index|name|date|age$|^id$|_id$", re.I
)


def _identifying(source):
    """What a raw layout says of its patients: names of files, ids and dates in tables, elements of DICOM files."""
    values = _paths(source)
    for path in source.rglob("*"):
        if path.suffix in (".csv", ".tsv"):
            with path.open(newline="", encoding="utf-8-sig") as file:
                for row in csv.DictReader(file):
                    values |= {v for k, v in row.items() if k and v and IDENTIFYING.search(k)}
        elif path.suffix == ".json":
            values |= _strings(json.loads(path.read_text()))
        elif path.is_file():
            with contextlib.suppress(pydicom.errors.InvalidDicomError):
                header = pydicom.dcmread(path, stop_before_pixels=True)
                values |= {str(e.value) for e in header.iterall() if e.VR in ("UI", "PN", "DA", "TM", "DT")}
                values |= {str(header.get(name, "")) for name in ("PatientID", "AccessionNumber", "StudyID")}
    return {value for value in values if re.search(r"\d", value)}  # the others are words of the layout, "images"


def _public(dataset, out):
    """Texts that a dataset holds whatever its source: names of labels, of the dataset and of its files."""
    card = read_card(out)
    return {dataset, *card.labels, *card.segmentation, *(p.name for p in out.iterdir()), "train", "val", "test"}


@pytest.mark.parametrize("miniature", MINIATURES.names())
def test_no_value_of_a_published_layout_is_in_what_is_shared(miniature, tmp_path):
    dataset = max((name for name in DATASETS.names() if miniature.startswith(name)), key=len)
    source, out = write_miniature(miniature, tmp_path / "in"), tmp_path / "out"
    (source / GENERATED_MARKER).unlink()  # as if the images were of patients
    contents, texts, said = _built(dataset, source, out)
    values = _identifying(source)
    assert len(values) > 10
    public = "\n".join(_public(dataset, out))
    found = leaks({v for v in values if v not in public}, contents, texts, said)
    assert found == []
