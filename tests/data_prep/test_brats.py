"""BraTS 2020: sequences as channels, scaled by their volume; labels 1, 2, 4 as 1, 2, 3."""

import nibabel
import numpy as np
import pytest

from data_prep.build import build
from data_prep.datasets import brats
from data_prep.miniatures import write_miniature
from data_prep.miniatures.brats import AGES, CASES, GRADES, SLICES, picture
from radnet_jax.errors import UserError
from tests.data_prep.miniature_builds import build_miniature
from tests.data_prep.test_dicom import reason_of

PADDING = ((0, 0), (2, 2))  # 44 rows of 40 columns


def _planted(case, sequences):
    """Records of a case, written from the rule: 0 stays 0, percentile 99.5 of the brain is 255."""
    images, labels = picture(0, case)
    channels = []
    for name in sequences:
        volume = images[name].astype(np.float64)
        white = np.percentile(volume[volume > 0], 99.5)
        channels.append(np.pad(np.rint(np.minimum(volume / white, 1) * 255), ((0, 0), *PADDING)).astype(np.uint8))
    masks = np.select([labels == 1, labels == 2, labels == 4], [1, 2, 3]).astype(np.uint8)
    return np.stack(channels, axis=-1), np.pad(masks, ((0, 0), *PADDING))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return build_miniature("brats", tmp_path_factory.mktemp("brats"), size=44)


def _by_case(records, sequences):
    """{case: its records in order}; a series is known by its fullest slice."""
    series = {}
    for record in records:
        series.setdefault(record["series"], []).append(record)
    planted = {case: _planted(case, sequences) for case in CASES}
    names = {planted[case][0][2].tobytes(): case for case in CASES}
    cases = {}
    for stack in series.values():
        (case,) = (
            {names[r["image"].tobytes()] for r in stack}
            if len(stack) == 1
            else {names[r["image"].tobytes()] for r in stack if r["image"].tobytes() in names}
        )
        cases[case] = stack
    return cases, planted


def test_pixels_masks_and_slices(found):
    cases, planted = _by_case(found.merged(), ("t1", "t1ce", "flair"))
    assert sorted(cases) == sorted(CASES)
    for case, stack in cases.items():
        images, masks = planted[case]
        assert [record["slice"] for record in stack] == list(range(SLICES))
        assert [record["position"] for record in stack] == [1.0 * k for k in range(SLICES)]
        for k, record in enumerate(stack):
            np.testing.assert_array_equal(record["image"], images[k])
            np.testing.assert_array_equal(record["segmentation"], masks[k])
        assert len({record["patient"] for record in stack}) == 1
    tumour = np.mean([record["segmentation"] > 0 for record in found.merged()], axis=0)
    assert tumour[:, 22:].sum() > 0.99 * tumour.sum()  # drawn on the patient's left, which is on the right
    assert tumour[:22].sum() > tumour[22:].sum()  # and towards the face
    assert found.card.segmentation == ("NCR/NET", "oedema", "enhancing")
    assert (found.card.stored.modality, found.card.stored.channels) == ("MR", 3)
    assert found.report["rejected"] == {"missing_mask": 1}  # the case of the validation data


def test_facts_come_from_the_tables(found):
    cases, _ = _by_case(found.merged(), ("t1", "t1ce", "flair"))
    bands = {1: "60-69", 2: "50-59", 355: "90+"}
    assert set(bands) == set(AGES)
    for number, grade in GRADES.items():
        for record in cases[f"BraTS20_Training_{number:03d}"]:
            assert (record["grade"], record["age_band"]) == (grade, bands.get(number))


def test_one_sequence_and_only_slices_with_tumour(tmp_path):
    found = build_miniature("brats", tmp_path, size=44, sequences="flair", slices="tumour")
    cases, planted = _by_case(found.merged(), ("flair",))
    assert sorted(cases) == sorted(CASES)
    assert found.report["not_asked"] == {"files": 0, "images": (SLICES - 2) * len(CASES)}
    for case, stack in cases.items():
        np.testing.assert_array_equal([r["image"] for r in stack], planted[case][0][[2, 3]])
        np.testing.assert_array_equal([r["segmentation"] for r in stack], planted[case][1][[2, 3]])


def _candidate(source, case):
    tables = brats._tables(source)
    return next(c for c in brats._candidates(source, first="t1", tables=tables) if case in c.path)


def _rows(source, case="BraTS20_Training_001"):
    return brats._rows(source, _candidate(source, case), sequences=("t1", "t1ce", "flair"), tumour_only=False)


def test_cases_that_do_not_fit(tmp_path):
    source = write_miniature("brats", tmp_path / "in")
    folder = source / "MICCAI_BraTS2020_TrainingData"

    def replace(case, name, **changes):
        path = folder / case / f"{case}_{name}.nii"
        image = nibabel.load(path)
        data = changes.get("data", np.asarray(image.dataobj).copy())
        path.unlink()
        nibabel.save(nibabel.Nifti1Image(data, changes.get("affine", image.affine)), path)

    replace("BraTS20_Training_001", "flair", affine=np.eye(4))
    assert reason_of(_rows, source) == "sequence_mismatch"
    (folder / "BraTS20_Training_001" / "BraTS20_Training_001_t1.nii").unlink()
    assert reason_of(_rows, source) == "missing_sequence"
    replace("BraTS20_Training_002", "seg", data=np.full((40, 44, 6), 3, np.uint8))
    (row, *_) = _rows(source, "BraTS20_Training_002")
    read = [brats._encode_mask, source, row.path, row.mask, row.frame]
    assert reason_of(lambda: read[0](*read[1:], size=44)) == "mask_value"
    replace("BraTS20_Training_002", "t1ce", data=np.zeros((40, 44, 6), np.int16))
    assert (
        reason_of(lambda: brats._encode(source, row.path, 2, sequences=("t1", "t1ce", "flair"), size=44))
        == "empty_volume"
    )


def test_options_and_tables_are_checked_at_the_start(tmp_path):
    source = write_miniature("brats", tmp_path / "in")
    for options, message in [
        ({"sequences": "t1,t2"}, "one or three"),
        ({"sequences": "t1,t1,t1"}, "one or three"),
        ({"sequences": "dwi"}, "one or three"),
        ({"slices": "some"}, "all or tumour"),
    ]:
        with pytest.raises(UserError, match=message):
            build("brats", source, tmp_path / "out", **options)
    table = source / "MICCAI_BraTS2020_TrainingData" / "name_mapping.csv"
    table.write_text(table.read_text().replace("Grade", "grade"))
    with pytest.raises(UserError, match=r"name_mapping.csv lacks the column\(s\) Grade"):
        build("brats", source, tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.nii").write_bytes(b"")
    with pytest.raises(UserError, match=r"BraTS20_Training_001_flair\.nii"):
        build("brats", tmp_path / "other", tmp_path / "out")
