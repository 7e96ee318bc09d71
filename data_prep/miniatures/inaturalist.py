"""iNaturalist 2021 as unpacked: folders of train, train_mini and val, and their COCO annotations."""

from __future__ import annotations

import json
from pathlib import Path
import uuid

from data_prep.miniatures import MINIATURES
from data_prep.miniatures.parts import photograph, write_bytes, write_image

SPECIES = (
    ("Animalia", "Annelida", "Clitellata", "Haplotaxida", "Lumbricidae", "Lumbricus", "terrestris", "Common Earthworm"),
    ("Animalia", "Chordata", "Aves", "Passeriformes", "Turdidae", "Turdus", "merula", "Eurasian Blackbird"),
    ("Fungi", "Basidiomycota", "Agaricomycetes", "Agaricales", "Amanitaceae", "Amanita", "muscaria", "Fly Agaric"),
    ("Plantae", "Tracheophyta", "Magnoliopsida", "Fagales", "Fagaceae", "Quercus", "robur", "English Oak"),
)
IMAGES = {"train": 5, "train_mini": 2, "val": 4}  # of each species; the mini set is a part of the whole


@MINIATURES.register("inaturalist")
def write(folder: Path, seed: int = 0) -> None:
    """train/, train_mini/ and val/ with a folder for each species, and train.json, train_mini.json, val.json."""
    categories = [_category(index) for index in range(len(SPECIES))]
    for part, count in IMAGES.items():
        images: list[dict[str, object]] = []
        annotations: list[dict[str, object]] = []
        for index, category in enumerate(categories):
            for k in range(count):
                numbers = (seed, index, k, int(part == "val"))
                number = len(images)
                name = f"{part}/{category['image_dir_name']}/{_name(*numbers)}.jpg"
                image = photograph(numbers)
                write_image(folder / name, image)
                images.append(_image(number, name, *image.shape[:2]))
                annotations.append({"id": number, "image_id": number, "category_id": index})
        data = {"info": {"year": 2021}, "images": images, "categories": categories, "annotations": annotations}
        write_bytes(folder / f"{part}.json", json.dumps(data | {"licenses": []}).encode())


def _category(index: int) -> dict[str, object]:
    *ranks, common = SPECIES[index]
    names = dict(zip(("kingdom", "phylum", "class", "order", "family", "genus", "specific_epithet"), ranks))
    return {
        "id": index,
        "name": " ".join(ranks[-2:]),
        "common_name": common,
        "supercategory": "Animalia",
        **names,
        "image_dir_name": f"{index:05d}_{'_'.join(ranks)}",
    }


def _image(number: int, name: str, height: int, width: int) -> dict[str, object]:
    return {
        "id": number,
        "width": width,
        "height": height,
        "file_name": name,
        "license": 0,
        "rights_holder": "nobody",
        "date": "2015-07-05 00:00:00+00:00",
        "latitude": None,
        "longitude": None,
        "location_uncertainty": None,
    }


def _name(*numbers: object) -> uuid.UUID:
    return uuid.uuid5(uuid.NAMESPACE_OID, repr(numbers))
