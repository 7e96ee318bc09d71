"""The report of a build: says what build.json says, works offline, shows a few images of each class."""

import base64
import html
import json
import re

import cv2
import numpy as np
import pytest

from data_prep.build import build
from data_prep.examples import Examples, choose
from data_prep.page import number, percent
from data_prep.picture import OUTLINES, picture
from data_prep.plan import Plan
from data_prep.report import _histogram
from data_prep.shards import PLAN_FILE
from radnet_jax.data.card import read_card
from radnet_jax.preprocessing import StoredPixels
from tests.data_prep.dicom_files import source_of_patients
from tests.data_prep.test_table import _png, _table

XR = StoredPixels("XR", "none", (0.0, 255.0), (16, 16), 1, "pad_area", "uint8")


def _page(out):
    return (out / "report.html").read_text(), json.loads((out / "build.json").read_text())


def _text(page):
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)))


def _noise(seed, size=(16, 16)):
    return np.random.default_rng(seed).integers(0, 255, size).astype(np.uint8)


def _decoded(source):
    return cv2.imdecode(np.frombuffer(base64.b64decode(source.partition(",")[2]), np.uint8), cv2.IMREAD_COLOR)


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    source = source_of_patients(
        tmp_path_factory.mktemp("ct") / "in", patients=24, slices=3, PixelSpacing=["0.5", "0.75"], SliceThickness="2",
        PatientSex="F", PatientAge="058Y", Manufacturer="SIEMENS",
    )  # fmt: skip
    (source / "notes.txt").write_text("no image")
    out = source.parent / "out"
    build("radnet", source, out, size=16, log=lambda line: None)
    return out


def test_one_file_that_asks_nobody_for_anything(ct):
    page, _ = _page(ct)
    assert "http" not in page
    assert "<script" not in page
    assert set(re.findall(r'(?:src|href)="([a-z]*)', page)) <= {"data", ""}
    assert "@import" not in page
    assert "url(" not in page


def test_it_says_what_build_json_says(ct):
    page, report = _page(ct)
    text = _text(page)
    for split, of in report["summary"].items():
        assert f"{split} {of['records']} {of['patients']} {of['series']}" in text
    assert "siemens" in text
    assert "50-59" in text
    assert "058Y" not in page
    assert "0.5 × 0.75" in text
    assert "16 × 16" in text
    assert "not dicom 1 1.4 %" in text  # of 73 files
    assert report["salt"]["fingerprint"] in text
    assert read_card(ct).fingerprint in text
    for name in read_card(ct).labels:
        assert name in text
    assert page.count("<img") == 6 * 6
    assert "patients' pixels" in text


def test_kinds_of_datasets(tmp_path):
    """Findings that are not all known, masks, colour; no labels; more classes than a table takes."""
    for k in range(12):
        _png(tmp_path / "in" / f"{k}.png", np.dstack([_noise(k)] * 3))
        mask = np.zeros((16, 16), np.uint8)
        mask[4:12, 4 : 4 + k % 3] = 1
        _png(tmp_path / "in" / f"m{k}.png", mask)
    labels = ["edema=1", "edema=0|mass=1", "mass=0", "edema=1|mass=1"] * 3
    table = _table(
        tmp_path / "in" / "t.csv",
        [(f"{k}.png", f"m{k}.png", labels[k]) for k in range(12)],
        ("image", "mask", "labels"),
    )
    build("table", table, tmp_path / "a", size=16, modality="photo", channels=3, splits=("train",), mask_labels="disc")
    text = _text(_page(tmp_path / "a")[0])
    assert "2 findings; an image may have several" in text
    assert "edema 6 66.7 % 9" in text  # of 9 images where it is known
    assert "mass 6 66.7 % 9" in text
    assert "disc 8 66.7 %" in text
    assert "red green blue" in text
    assert "Structures are outlined" in text

    for k in range(6):
        _png(tmp_path / "plain" / f"{k}.png", _noise(k))
    build("image_folder", tmp_path / "plain", tmp_path / "b", size=16, modality="XR", channels=1, splits=("train",))
    page, _ = _page(tmp_path / "b")
    assert 'id="labels"' not in page
    assert page.count("<img") == 6
    assert "No patient id for 6 of 6 patients" in _text(page)

    for k in range(70):
        _png(tmp_path / "many" / f"class_{k:02d}" / "a.png", _noise(k))
    build("image_folder", tmp_path / "many", tmp_path / "c", size=16, splits=("train",))
    page, _ = _page(tmp_path / "c")
    assert "70 classes of 1 image each" in _text(page)
    assert "The other 40, by frequency" in _text(page)
    assert "The 60 commonest of 70 classes" in _text(page)
    assert page.count("<img") == 60
    assert all(page.count(f'<th scope="row" class="wrap">class_{k:02d}</th>') == 1 for k in range(70))


def test_names_of_classes_are_text(tmp_path):
    for name in ("<b>bold</b>", 'a"b'):
        for k in range(2):
            _png(tmp_path / "in" / name.replace("/", "∕") / f"{k}.png", _noise(k))
    build("image_folder", tmp_path / "in", tmp_path / "out", size=16, splits=("train",))
    page, _ = _page(tmp_path / "out")
    assert "<b>" not in page
    assert 'alt="a&#34;b"' in page


def _card(stored):
    class Card:
        pass

    Card.stored = stored
    return Card


def test_the_histogram_is_drawn_to_scale():
    counts = [0] * 256
    counts[0], counts[100], counts[255] = 300, 75, 25
    svg = _histogram(_card(XR), [("train", "c-s0", counts)])
    heights = [float(y) for y in re.findall(r"V([\d.]+)", re.search(r'd="([^"]*)"', svg)[1])]
    floor = max(heights)
    assert len(heights) == 256
    ratios = [(floor - heights[k]) / floor for k in (0, 100, 255, 50)]
    assert ratios == pytest.approx([1, np.sqrt(0.25), np.sqrt(1 / 12), 0], abs=2e-3)
    assert re.findall(r">(-?[\d.]+)</text>", svg) == ["0", "50", "100", "150", "200", "250"]
    hu = StoredPixels("CT", "HU", (-1024.0, 3071.0), (16, 16), 1, "pad_area", "int16")
    svg = _histogram(_card(hu), [("train", "c-s0", counts)])
    ticks = {
        float(v): float(x) for x, v in re.findall(r'<text x="([\d.]+)" y="204" text-anchor="middle">(-?\d+)<', svg)
    }
    assert ticks[0] == pytest.approx(44 + (720 - 44) * 1024 / 4096, abs=0.1)


def test_pictures():
    image = _noise(0)[..., None]
    np.testing.assert_array_equal(_decoded(picture(image, XR))[..., 0], image[..., 0])
    mask = np.zeros((16, 16), np.uint8)
    mask[4:8, 4:8], mask[10:14, 10:14], mask[0] = 1, 2, 255
    shown = _decoded(picture(image, XR, mask))
    assert shown[4, 4].tolist() == list(OUTLINES[0][::-1])
    assert shown[13, 13].tolist() == list(OUTLINES[1][::-1])
    assert shown[0, 0].tolist() == [image[0, 0, 0]] * 3  # 255: nobody has labelled it
    large = StoredPixels("XR", "none", (0.0, 255.0), (300, 200), 1, "none", "uint8")
    assert _decoded(picture(_noise(0, (300, 200))[..., None], large)).shape[:2] == (128, 85)
    rgb = StoredPixels("photo", "none", (0.0, 255.0), (16, 16), 3, "none", "uint8")
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 250
    assert _decoded(picture(red, rgb))[8, 8].tolist() == pytest.approx([0, 0, 250], abs=4)


def test_examples_are_of_different_patients_and_no_end_slices(tmp_path, monkeypatch):
    from data_prep.datasets.radnet import radnet

    source = source_of_patients(tmp_path / "in", patients=24, slices=5)
    kept = {}
    monkeypatch.setattr("data_prep.build.shutil.rmtree", lambda *a, **k: None)  # the plan stays
    build("radnet", source, tmp_path / "out", size=16, splits=("train",), log=lambda line: None)
    spec = radnet(source, 16)
    with Plan(tmp_path / "out" / ".build" / PLAN_FILE) as plan:
        examples = choose(plan, spec, "train", 120)
        rows = {row.order: row for row in plan.rows("train")}
    for name, places in examples.places.items():
        chosen = [rows[place] for place in places]
        assert {spec.labels[row.label] for row in chosen} == {name}
        assert len({row.person for row in chosen}) == 4  # all that the class has
        assert len(chosen) == 6
        kept[name] = chosen
    assert sum(row.slice == 2 for chosen in kept.values() for row in chosen) >= 24
    assert examples.shown == 6


def test_examples_with_the_most_mask_are_shown_and_missing_ones_are_not():
    class Result:
        pictures = ((0, 5, "a"), (1, 50, "b"), (2, 0, "c"), (7, 9, "d"))

    examples = Examples("train", {"x": (0, 1, 2, 3), "y": (4, 5)}, 2)
    assert examples.pictures([Result]) == {"x": ["b", "a"]}
    assert examples.all_places() == {0, 1, 2, 3, 4, 5}


def test_numbers():
    assert [number(n) for n in (1234567, 0.8417968, 5.0, None)] == ["1,234,567", "0.842", "5", "–"]
    assert [percent(*n) for n in ((1, 3), (1, 2), (1, 100000), (0, 5), (0, 0))] == [
        "33.3 %",
        "50 %",
        "< 0.1 %",
        "0 %",
        "–",
    ]
