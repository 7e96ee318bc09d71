"""What the audit finds, what it raises by mistake, and how long the search for near hashes takes.

    python -m benchmarks.audit --data=../shared/data

Prints one JSON object a line. For each kind of image first the false alarms over all pairs of different patients
(`near`: hashes within the default distance; `alarms`: confirmed by their pixels too), then for each way to make a copy
the share of copies that is near, and the share that is found. X-rays are those of `chestxray14_mini`, CT slices of
`ct_dicom` and `ct_nifti` (three patients), phantoms are drawn, photographs are of `imagenet_mini`. Last the search:
processor seconds for a test set against corpora of several sizes, of hashes drawn from a Gaussian that has the mean and
covariance of the X-rays' DCT coefficients, so that they crowd as those do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import csv
import json
from pathlib import Path
import time
from typing import NamedTuple

from absl import app, flags
import cv2
import numpy as np

from data_prep.anatomy import REGIONS
from data_prep.audit import DISTANCE, LIKENESS
from data_prep.audit.likeness import likeness, side_of, views
from data_prep.audit.near import near_pairs
from data_prep.ingest import dicom, nifti
from data_prep.ingest.image import fit, read_image
from data_prep.phantom import draw_slice
from data_prep.phash import content, phash, reduced, tone
from data_prep.spec import Reject
from radnet_jax.preprocessing import StoredPixels

_DATA = flags.DEFINE_string("data", "../shared/data", "Folder of real images.")
_SIZE = flags.DEFINE_integer("size", 224, "Pixels a side of stored images.")
_DISTANCE = flags.DEFINE_integer("distance", DISTANCE, "Bits by which near hashes may differ.")
_COPIES = flags.DEFINE_integer("copies", 200, "Images of each kind that are copied.")
_SEARCH = flags.DEFINE_list("search", ["250000", "1000000"], "Sizes of the corpora that are searched.")
_TEST = flags.DEFINE_integer("test", 25000, "Size of the test set that is searched for.")

HU = (-1024.0, 3071.0)
Copy = Callable[[np.ndarray], np.ndarray]


class Image(NamedTuple):
    """A raw image [h, w] (int16 HU or uint8) and its patient."""

    pixels: np.ndarray
    patient: str


def xrays(folder: Path) -> Iterator[Image]:
    with (folder / "Data_Entry_2017_v2020.csv").open() as file:
        patients = {row["Image Index"]: row["Patient ID"] for row in csv.DictReader(file)}
    for path in sorted(folder.rglob("*.png")):
        yield Image(read_image(path, 1)[..., 0], patients[path.name])


def ct(folder: Path) -> Iterator[Image]:
    for path in sorted(p for p in (folder / "ct_dicom").rglob("*") if p.is_file()):
        try:
            yield Image(dicom.read_hu(path, HU), path.relative_to(folder / "ct_dicom").parts[0])
        except Reject:
            continue
    volume = folder / "ct_nifti" / "torso_ct.nii.gz"
    for k in range(nifti.read_header(volume).slices):
        yield Image(nifti.read_hu(volume, k, HU), "torso")


def phantoms(patients: int = 150, slices: int = 4) -> Iterator[Image]:
    for patient in range(patients):
        for k in range(slices):
            hu, _ = draw_slice(list(REGIONS)[patient % 6], (k + 0.5) / slices, 224, (0, patient), k)
            yield Image(hu, str(patient))


def photographs(folder: Path) -> Iterator[Image]:
    for number, path in enumerate(sorted(folder.rglob("*.JPEG")) + sorted(folder.rglob("*.jpg"))):
        yield Image(read_image(path, 1)[..., 0], str(number))


def stored_as(pixels: np.ndarray, size: int) -> StoredPixels:
    if pixels.dtype == np.int16:
        return StoredPixels("CT", "HU", HU, (size, size), 1, "pad_area", "int16")
    return StoredPixels("XR", "none", (0.0, 255.0), (size, size), 1, "pad_area", "uint8")


class Stored(NamedTuple):
    """An image as a record, with its hash."""

    image: np.ndarray
    stored: StoredPixels
    raw: tuple[int, int]
    hash: int | None


def store(pixels: np.ndarray, size: int) -> Stored:
    stored = stored_as(pixels, size)
    low = HU[0] if stored.unit == "HU" else 0
    raw = (pixels.shape[0], pixels.shape[1])
    image = fit(pixels[..., None], stored.size, "pad_area", low)
    return Stored(image, stored, raw, phash(image, stored, raw))


def alike(one: Stored, other: Stored) -> float:
    side = side_of(one.stored, other.stored)
    a, b = (
        views(x.image, x.stored, x.raw, side, windows=x.stored.unit == "HU" and y.stored.unit != "HU")
        for x, y in ((one, other), (other, one))
    )
    return likeness(a, b)


def window(centre: float, width: float) -> Copy:
    return lambda hu: np.rint(255 * np.clip((hu - centre + width / 2) / width, 0, 1)).astype(np.uint8)


def jpeg(quality: int) -> Copy:
    def copy(image: np.ndarray) -> np.ndarray:
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)

    return copy


def gamma(power: float) -> Copy:
    return lambda image: np.rint(255 * (image / 255.0) ** power).astype(np.uint8)


def crop(share: float) -> Copy:
    def copy(image: np.ndarray) -> np.ndarray:
        rows, columns = (round(n * share) for n in image.shape)
        return image[rows : image.shape[0] - rows, columns : image.shape[1] - columns]

    return copy


def resized(factor: float) -> Copy:
    return lambda image: cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


GREY_COPIES: dict[str, Copy] = {
    "half size": resized(0.5), "quarter size": resized(0.25), "JPEG 75": jpeg(75), "JPEG 30": jpeg(30),
    "contrast x 0.6 + 40": lambda image: np.rint(image * 0.6 + 40).astype(np.uint8),
    "contrast x 1.4, clipped": lambda image: np.clip((image.astype(float) - 128) * 1.4 + 128, 0, 255).astype(np.uint8),
    "gamma 0.7": gamma(0.7), "gamma 1.5": gamma(1.5),
    "local histogram (CLAHE)": lambda image: cv2.createCLAHE(2.0, (8, 8)).apply(image),
    "histogram equalised": cv2.equalizeHist, "4 bits": lambda image: image & 0xF0,
    "cropped by 1 % a side": crop(0.01), "cropped by 2 % a side": crop(0.02), "cropped by 5 % a side": crop(0.05),
}  # fmt: skip
CT_COPIES: dict[str, Copy] = {
    "half size": resized(0.5), "cropped by 2 % a side": crop(0.02), "PNG, whole range": window(1023.5, 4095),
    "PNG, wide (0, 2000)": window(0, 2000), "PNG, soft tissue (40, 400)": window(40, 400),
    "PNG, liver (0, 400)": window(0, 400), "PNG, lung (-600, 1500)": window(-600, 1500),
    "PNG, bone (400, 1800)": window(400, 1800), "PNG, brain (40, 80)": window(40, 80),
    "JPEG 75, soft tissue": lambda hu: jpeg(75)(window(40, 400)(hu)),
}  # fmt: skip


def false_alarms(name: str, images: list[Image], records: list[Stored]) -> None:
    kept = [k for k, record in enumerate(records) if record.hash is not None]
    hashes = np.array([records[k].hash for k in kept], np.uint64)
    patients = np.array([images[k].patient for k in kept])
    pairs = sum(int((patients[k + 1 :] != patient).sum()) for k, patient in enumerate(patients))
    near = alarms = 0
    highest = 0.0
    for found in near_pairs(hashes, hashes, _DISTANCE.value):
        for a, b in zip(found.first.tolist(), found.second.tolist()):
            if a < b and patients[a] != patients[b]:
                value = alike(records[kept[a]], records[kept[b]])
                near, alarms, highest = near + 1, alarms + (value >= LIKENESS), max(highest, value)
    numbers = {
        "pairs": pairs,
        "near": near,
        "near_share": near / pairs,
        "alarms": alarms,
        "likeness": round(highest, 3),
    }
    print(json.dumps({"images": name, "n": len(images), "plain": len(records) - len(kept)} | numbers), flush=True)


def recall(name: str, images: list[Image], records: list[Stored]) -> None:
    chosen = np.linspace(0, len(images) - 1, min(_COPIES.value, len(images))).astype(int)
    for copy_name, copy in (CT_COPIES if images[0].pixels.dtype == np.int16 else GREY_COPIES).items():
        near = found = 0
        for k in chosen:
            other = store(copy(images[k].pixels), _SIZE.value)
            if records[k].hash is None or other.hash is None:
                continue
            if (records[k].hash ^ other.hash).bit_count() <= _DISTANCE.value:
                near += 1
                found += alike(records[k], other) >= LIKENESS
        shares = {"near": round(near / len(chosen), 3), "found": round(found / len(chosen), 3)}
        print(json.dumps({"images": name, "copy": copy_name, "n": len(chosen)} | shares), flush=True)


def search(records: list[Stored]) -> None:
    grey = [tone(reduced(r.image, content(r.raw, r.stored)), r.stored) for r in records]
    blocks = [cv2.dct(cv2.resize(g, (32, 32), interpolation=cv2.INTER_AREA))[1:9, 1:9].ravel() for g in grey]
    coefficients = np.stack(blocks)
    factor = np.linalg.cholesky(np.cov(coefficients.T) + 1e-6 * np.diag(coefficients.var(axis=0)))

    def draw(n: int, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        parts = [rng.standard_normal((min(n - i, 1 << 16), 64)) @ factor.T for i in range(0, n, 1 << 16)]
        bits = [np.packbits(part + coefficients.mean(axis=0) > 0, axis=1) for part in parts]
        return np.concatenate(bits).view(">u8")[:, 0].astype(np.uint64)

    test = draw(_TEST.value, 1)
    for size in map(int, _SEARCH.value):
        corpus = draw(size, 2)
        start = time.process_time()
        near = sum(len(pairs.first) for pairs in near_pairs(test, corpus, _DISTANCE.value))
        seconds = time.process_time() - start
        found = {"search": size, "test": len(test), "near": near, "cpu_seconds": round(seconds, 2)}
        print(json.dumps(found), flush=True)


def main(_: list[str]) -> None:
    data = Path(_DATA.value)
    kinds = {
        "X-rays": xrays(data / "chestxray14_mini"),
        "CT": ct(data),
        "phantoms": phantoms(),
        "photographs": photographs(data / "natural" / "imagenet_mini"),
    }
    crowd: list[Stored] = []
    for name, source in kinds.items():
        images = list(source)
        records = [store(image.pixels, _SIZE.value) for image in images]
        crowd = crowd or records
        false_alarms(name, images, records)
        recall(name, images, records)
    search(crowd)


if __name__ == "__main__":
    app.run(main)
