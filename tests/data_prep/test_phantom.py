"""Generated data: deterministic, genuine, and not to be solved from raw pixels."""

import json

import numpy as np
import pydicom
import pytest
from sklearn.linear_model import LogisticRegression
import tensorflow_datasets as tfds

from data_prep.build import build
from data_prep.datasets.radnet import BODY_REGIONS, body_region
from data_prep.dead_leaves import dead_leaves
from data_prep.phantom import BODY_PARTS, MASK_VALUES, draw_slice, main, write_ct, write_leaves
from radnet_jax.errors import UserError


def _bytes(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_ct(tmp_path_factory.mktemp("ct") / "ct", patients_per_region=14, slices=6, image_size=64)


def test_the_seed_fixes_every_byte(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_ct(tmp_path / name, patients_per_region=1, slices=2, image_size=32, seed=seed)
        write_leaves(tmp_path / f"l{name}", images=3, image_size=32, seed=seed)
    for prefix in ("", "l"):
        one, two, other = (_bytes(tmp_path / f"{prefix}{name}") for name in "abc")
        assert one == two
        assert one.keys() == other.keys()
        assert all(one[name] != other[name] for name in one)
    assert _bytes(tmp_path / "a_masks") == _bytes(tmp_path / "b_masks")


def test_the_files_are_genuine_ct(corpus):
    files = sorted(corpus.rglob("*.dcm"))
    assert len(files) == 504
    data = pydicom.dcmread(files[0])
    assert data.SOPClassUID.name == "CT Image Storage"
    assert (data.BitsAllocated, data.BitsStored, data.PixelRepresentation) == (16, 12, 0)
    assert data.PatientID == "PHANTOM-0001"
    hu = data.pixel_array * float(data.RescaleSlope) + float(data.RescaleIntercept)
    assert -1024 <= hu.min() < -900
    assert 200 < hu.max() <= 3071
    headers = [pydicom.dcmread(f, stop_before_pixels=True) for f in files]
    assert len({h.SOPInstanceUID for h in headers}) == 504
    assert len({h.SeriesInstanceUID for h in headers}) == 84
    assert all(pydicom.uid.UID(h.SOPInstanceUID).is_valid for h in headers)


def test_each_body_part_has_the_label_of_its_region():
    assert list(BODY_PARTS) == list(BODY_REGIONS)
    for label, parts in enumerate(BODY_PARTS.values()):
        assert {body_region(part) for part in parts} == {label}


def test_masks_mark_what_they_say(corpus):
    seen = set()
    for path in sorted(corpus.rglob("*.dcm")):
        data = pydicom.dcmread(path)
        mask = np.load(corpus.parent / "ct_masks" / f"{data.PatientID}.npy")[int(data.InstanceNumber) - 1]
        hu = data.pixel_array.astype(int) - 1024
        values = set(np.unique(mask)) - {0}
        seen |= values
        for value, low, high in ((MASK_VALUES["lung"], -1000, -400), (MASK_VALUES["liver"], 20, 150)):
            if (mask == value).sum() > 50:
                assert low < np.median(hu[mask == value]) < high
    assert seen == set(MASK_VALUES.values())


def test_raw_pixels_are_weak_and_densities_alone_do_not_solve_it(corpus, tmp_path):
    """Chance is 1/6. Where organs lie must be learned: neither pixels at their place nor a HU histogram tell enough."""
    card = build("radnet", corpus, tmp_path / "out", size=48, splits=("train", "test"), split_fractions=(0.6, 0.4))
    assert card.generated
    builder = tfds.builder_from_directory(tmp_path / "out")
    hu, y = {}, {}
    for split in ("train", "test"):
        rows = list(builder.as_data_source(split))
        hu[split] = np.stack([r["image"].ravel() for r in rows]).astype(np.float32)
        y[split] = np.array([r["label"] for r in rows])

    def score(features, c):
        model = LogisticRegression(C=c, max_iter=500).fit(features(hu["train"]), y["train"])
        return model.score(features(hu["test"]), y["test"])

    edges = [-1100, -950, -700, -400, -150, -60, -20, 20, 70, 160, 400, 4000]
    raw = score(lambda x: np.clip((x + 1000) / 2000, 0, 1) - 0.3, 1e-3)
    histogram = score(lambda x: np.stack([np.histogram(i, edges)[0] for i in x]) / x.shape[1], 100.0)
    assert raw < 0.45
    assert raw + 0.08 < histogram < 0.8


def test_slices_of_a_patient_share_their_anatomy():
    """Neighbours differ by noise and a little anatomy, other patients by everything."""
    one, _ = draw_slice("thorax", 0.5, 64, (0, 1), 0)
    near, _ = draw_slice("thorax", 0.52, 64, (0, 1), 1)
    other, _ = draw_slice("thorax", 0.5, 64, (0, 2), 0)
    correlation = [np.corrcoef(one.ravel(), image.ravel())[0, 1] for image in (near, other)]
    assert correlation[0] > 0.95
    assert correlation[1] < 0.9


def test_leaves_have_the_spectrum_of_natural_images():
    """Power falls as about 1/f^2 (1/f in amplitude), over the middle decade of frequencies."""
    power = np.zeros((96, 96))
    window = np.outer(np.hanning(96), np.hanning(96))
    for k in range(40):
        grey = dead_leaves(96, (0, k)).mean(-1)
        power += np.abs(np.fft.fft2((grey - grey.mean()) * window)) ** 2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(96), np.fft.fftfreq(96)))
    bands = np.arange(3, 44) / 96
    mean = [power[np.abs(frequency - f) < 0.005].mean() for f in bands]
    slope = np.polyfit(np.log(bands), np.log(mean), 1)[0]
    assert -3.0 < slope < -1.7


def test_a_finished_corpus_is_left_alone_and_nothing_else_is_touched(tmp_path):
    out = write_leaves(tmp_path / "out", images=2, image_size=32)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    assert write_leaves(tmp_path / "out", images=2, image_size=32) == out
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    with pytest.raises(UserError, match="holds something else"):
        write_leaves(out, images=3, image_size=32)
    for bad in ({"images": 0}, {"image_size": 8}):
        with pytest.raises(UserError):
            write_leaves(tmp_path / "other", **bad)


def test_an_interrupted_corpus_is_finished(tmp_path):
    whole = write_ct(tmp_path / "whole", patients_per_region=1, slices=1, image_size=32)
    broken = write_ct(tmp_path / "broken", patients_per_region=1, slices=1, image_size=32)
    options = json.loads((broken / ".generated").read_text())["options"]
    (broken / ".generated.unfinished").write_text(json.dumps(options, sort_keys=True))  # what an interruption leaves
    (broken / ".generated").unlink()
    next(broken.rglob("*.dcm")).write_bytes(b"half")
    write_ct(broken, patients_per_region=1, slices=1, image_size=32)
    assert _bytes(whole) == _bytes(broken)


def test_command_line(tmp_path, capsys):
    flags = ["--kind=ct", f"--out={tmp_path / 'ct'}", "--patients_per_region=1", "--slices=1", "--image_size=32"]
    assert main(flags) == 0
    assert len(list((tmp_path / "ct").rglob("*.dcm"))) == 6
    assert main([*flags, "--seed=1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--kind=ct"], "required: --out"),
        (["--kind=mri", "--out=x"], "invalid choice: 'mri'"),
        (["--kind=ct", "--out=x", "--slices=two"], "'two'"),
        (["--kind=ct", "--out=x", "--colour=red"], "--colour=red"),
        (["--kind=ct", "--out=x", "--seed=-1"], "seed; got -1"),
        (["--kind=leaves", "--out=x", "--images=0"], "images; got 0"),
    ],
)
def test_a_bad_flag_is_one_line(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    assert main(flags) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
