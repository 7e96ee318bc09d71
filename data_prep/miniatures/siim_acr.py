"""SIIM-ACR pneumothorax of stage 1, and the table of stage 2."""

from __future__ import annotations

from pathlib import Path

from jaxtyping import UInt8
import numpy as np

from data_prep.miniatures import MINIATURES
from data_prep.miniatures.parts import radiograph, write_bytes, write_dicom

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
ROWS, COLUMNS = 64, 64
# image: (folder, regions that were drawn, sex, age); a region is (lung, upper edge, lower edge) in parts of the height
IMAGES: dict[int, tuple[str, tuple[tuple[str, float, float], ...], str, str]] = {
    0: ("train", (("left lung", 0.2, 0.4),), "M", "028"),
    1: ("train", (("right lung", 0.2, 0.35), ("left lung", 0.25, 0.45)), "F", "91"),
    2: ("train", (), "F", "55"),
    3: ("train", (), "M", "61"),
    4: ("train", (("right lung", 0.3, 0.5),), "M", "47"),
    5: ("train", (), "F", "33"),
    6: ("test", (("left lung", 0.2, 0.3),), "F", "70"),
    7: ("test", (), "M", "18"),
}


def uid(number: int, kind: str = "image") -> str:
    """A UID as the release writes them."""
    root = {"study": 2, "series": 3, "image": 4}[kind]
    return f"1.2.276.0.7230010.3.1.{root}.8323329.{300 + number}.1517875{number:03d}.{number}"


def image_and_masks(seed: int, number: int) -> tuple[UInt8[np.ndarray, "h w"], list[UInt8[np.ndarray, "h w"]]]:
    """The image and one 0/1 mask for each region that was drawn."""
    image, parts = radiograph((seed, number), ROWS, COLUMNS)
    masks = []
    for lung, top, bottom in IMAGES[number][1]:
        mask = parts[lung].copy()
        mask[: int(top * ROWS)] = mask[int(bottom * ROWS) :] = 0
        masks.append(mask)
    return image, masks


def encode_runs(mask: UInt8[np.ndarray, "h w"]) -> str:
    """Runs down the columns, each start counted from the end of the run before it."""
    words: list[str] = []
    last = 0
    padded = np.concatenate([[0], mask.T.ravel(), [0]]).astype(np.int8)
    starts, ends = np.flatnonzero(np.diff(padded) == 1), np.flatnonzero(np.diff(padded) == -1)
    for start, end in zip(starts.tolist(), ends.tolist()):
        words += [str(start - last), str(end - start)]
        last = end
    return " ".join(words)


@MINIATURES.register("siim_acr")
def write(folder: Path, seed: int = 0) -> None:
    """dicom-images-train/STUDY/SERIES/IMAGE.dcm, dicom-images-test likewise, train-rle.csv (its header has a blank
    after the comma) and stage_2_train.csv, which labels both folders. Image 1 has two rows.
    """
    tables = {"train": "ImageId, EncodedPixels\n", "both": "ImageId,EncodedPixels\n"}
    for number, (part, _, sex, age) in IMAGES.items():
        image, masks = image_and_masks(seed, number)
        write_dicom(
            folder / f"dicom-images-{part}" / uid(number, "study") / uid(number, "series") / f"{uid(number)}.dcm",
            image,
            SECONDARY_CAPTURE,
            uid(number),
            Modality="CR",
            ConversionType="WSD",
            BodyPartExamined="CHEST",
            ViewPosition="PA",
            PatientID=f"17d405a3-a0d2-4901-b33a-{number:012d}",
            PatientName=f"17d405a3-a0d2-4901-b33a-{number:012d}",
            PatientSex=sex,
            PatientAge=age,
            StudyInstanceUID=uid(number, "study"),
            SeriesInstanceUID=uid(number, "series"),
            InstanceNumber="1",
            PixelSpacing=["0.168", "0.168"],
        )
        for cell in [encode_runs(mask) for mask in masks] or ["-1"]:
            tables["both"] += f"{uid(number)},{cell}\n"
            if part == "train":
                tables["train"] += f"{uid(number)}, {cell}\n"
    write_bytes(folder / "train-rle.csv", tables["train"].encode())
    write_bytes(folder / "stage_2_train.csv", tables["both"].encode())
