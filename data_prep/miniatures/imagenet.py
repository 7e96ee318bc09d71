"""ImageNet-1k as Kaggle unpacks it, with its first 20 synsets, and the odd files that the real one has."""

from __future__ import annotations

import base64
from pathlib import Path
import struct

import cv2
import numpy as np

from data_prep.miniatures import MINIATURES
from data_prep.miniatures.parts import photograph, write_bytes, write_csv, write_image

SYNSETS = {
    "n01440764": "tench, Tinca tinca",
    "n01443537": "goldfish, Carassius auratus",
    "n01484850": "great white shark, white shark, man-eater, man-eating shark, Carcharodon carcharias",
    "n01491361": "tiger shark, Galeocerdo cuvieri",
    "n01494475": "hammerhead, hammerhead shark",
    "n01496331": "electric ray, crampfish, numbfish, torpedo",
    "n01498041": "stingray",
    "n01514668": "cock",
    "n01514859": "hen",
    "n01518878": "ostrich, Struthio camelus",
    "n01530575": "brambling, Fringilla montifringilla",
    "n01531178": "goldfinch, Carduelis carduelis",
    "n01532829": "house finch, linnet, Carpodacus mexicanus",
    "n01534433": "junco, snowbird",
    "n01537544": "indigo bunting, indigo finch, indigo bird, Passerina cyanea",
    "n01558993": "robin, American robin, Turdus migratorius",
    "n01560419": "bulbul",
    "n01580077": "jay",
    "n01582220": "magpie",
    "n01592084": "chickadee",
}
TRAIN, VAL = 2, 2  # images of each synset
# An orange JPEG of 16 x 16 pixels in CMYK, as 22 of the training images are. OpenCV does not write these.
_CMYK = base64.b64decode(
    "/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwANCQoLCggNCwoLDg4NDxMgFRMSEhMnHB4XIC4pMTAuKS0sMzpKPjM2RjcsLUBXQUZMTlJTUjI+WmFaUGBK"
    "UVJP/8AAFAgAEAAQBEMRAE0RAFkRAEsRAP/EAB8AAAEFAQEBAQEBAAAAAAAAAAABAgMEBQYHCAkKC//EALUQAAIBAwMCBAMFBQQEAAABfQECAwAE"
    "EQUSITFBBhNRYQcicRQygZGhCCNCscEVUtHwJDNicoIJChYXGBkaJSYnKCkqNDU2Nzg5OkNERUZHSElKU1RVVldYWVpjZGVmZ2hpanN0dXZ3eHl6"
    "g4SFhoeIiYqSk5SVlpeYmZqio6Slpqeoqaqys7S1tre4ubrCw8TFxsfIycrS09TV1tfY2drh4uPk5ebn6Onq8fLz9PX29/j5+v/aAA4EQwBNAFkA"
    "SwAAPwD06krzCvTqKKKKKKKKKKKK/9k="
)


@MINIATURES.register("imagenet")
def write(folder: Path, seed: int = 0) -> None:
    """ILSVRC/Data/CLS-LOC/train/SYNSET/*.JPEG, .../val/*.JPEG, LOC_synset_mapping.txt, LOC_val_solution.csv."""
    data = folder / "ILSVRC/Data/CLS-LOC"
    (folder / "LOC_synset_mapping.txt").write_text("".join(f"{s} {words}\n" for s, words in SYNSETS.items()))
    solution = []
    for number, synset in enumerate(SYNSETS):
        for k in range(TRAIN):
            image = photograph((seed, number, k), *((60, 40) if k else (48, 64)))
            write_image(data / "train" / synset / f"{synset}_{10 * number + k}.JPEG", image)
        for k in range(VAL):
            index = 1 + (k * len(SYNSETS) + 7 * number) % (VAL * len(SYNSETS))
            name = f"ILSVRC2012_val_{index:08d}"
            write_image(data / "val" / f"{name}.JPEG", photograph((seed, number, TRAIN + k)))
            solution.append({"ImageId": name, "PredictionString": f"{synset} 8 5 60 40 "})
    write_csv(folder / "LOC_val_solution.csv", sorted(solution, key=lambda row: str(row["ImageId"])))
    _write_odd_files(data / "train" / "n01440764", seed)


def _write_odd_files(folder: Path, seed: int) -> None:
    image = photograph((seed, 1000))
    ok, png = cv2.imencode(".png", image[..., ::-1])
    assert ok
    write_bytes(folder / "n01440764_2933.JPEG", png.tobytes())
    write_bytes(folder / "n01440764_1309.JPEG", _CMYK)
    write_image(folder / "n01440764_39.JPEG", image[..., 1])
    turned = folder / "n01440764_700.JPEG"
    write_image(turned, np.rot90(image))  # upright again by its EXIF orientation
    write_bytes(turned, with_orientation(turned.read_bytes(), 6))


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """A JPEG file with an EXIF segment that says how to turn it (6: by 90 degrees clockwise)."""
    tiff = b"II*\0" + struct.pack("<IH", 8, 1) + struct.pack("<HHII", 0x0112, 3, 1, orientation) + bytes(4)
    body = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]
