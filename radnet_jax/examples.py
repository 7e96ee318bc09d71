"""Example images of a study's data, as the models see them, for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8
from ml_collections import ConfigDict
import numpy as np

from radnet_jax import rng
from radnet_jax.augment import AUGMENTATIONS
from radnet_jax.augment.views import center, make_views
from radnet_jax.data.card import read_card
from radnet_jax.data.dataset import Split, open_split
from radnet_jax.evaluation.segmentation import cases_of
from radnet_jax.overlays import draw
from radnet_jax.parts import plain
from radnet_jax.preprocessing import UNKNOWN_MASK, Adapter, ModelInput, make_adapter, to_unit

_COLUMNS = 8
_GAP = 2  # pixels between tiles


def write(
    folder: Path, pretraining: Mapping[str, tuple[ConfigDict, ModelInput]], tasks: Mapping[str, tuple[str, ModelInput]]
) -> list[tuple[str, Path]]:
    """Writes one PNG for each pretraining (two views above each other) and task (a column a class).

    Args:
      folder: made if need be.
      pretraining: {name: (config of the run, what its model sees)}.
      tasks: {name: (folder of the dataset, what a network from scratch sees)}.

    Returns:
      (caption, path) pairs.
    """
    folder.mkdir(exist_ok=True)
    shown = []
    for name, (config, model_input) in pretraining.items():
        split = open_split(config.data.dir, config.data.split)
        declared = plain(config.adapter) if config.adapter else None
        adapter = make_adapter(split.card.stored, model_input, declared)
        path = folder / f"pretraining-{name}.png"
        _write(path, _views(split, adapter, config, _spread(len(split), _COLUMNS)))
        shown.append((f"Pretraining on {name}: two views of each image, one above the other", path))
    for name, (dataset, model_input) in tasks.items():
        split = open_split(dataset, "train")
        adapter = make_adapter(split.card.stored, model_input)
        rows = _by_class(split)
        if not rows:
            continue
        by_class = [tiles(center(_images(split, indices), adapter), adapter) for indices in rows.values()]
        path = folder / f"task-{name}.png"
        _write(path, np.concatenate([_row(t) for t in by_class], axis=0))
        shown.append((f"Task {name}, from top to bottom: {', '.join(rows)}", path))
    return shown


def of_cases(
    tasks: Mapping[str, tuple[str, ModelInput]],
    task: str,
    case_ids: Sequence[str],
    predicted: Sequence[tuple[int, UInt8[np.ndarray, "h w"]]] | None = None,
) -> list[bytes]:
    """Judged cases of a task of a study as the model sees them, each as a PNG; the outline of a mask in red.

    With what was predicted, at the stored size: truth outlined in green, the prediction in orange.

    Args:
      tasks: as for `write`.
      task: its name in the study.
      case_ids: in the order wanted; of the test split, or of any split of another site's dataset.
      predicted: of a segmentation, whose cases can be volumes: the slice that is shown, and the mask there.
    """
    dataset, model_input = tasks[task]
    splits = [
        open_split(dataset, name) for name, records in reversed(list(read_card(dataset).splits.items())) if records
    ]
    out: list[bytes] = []
    if predicted is not None:
        volumes = {case: (split, rows) for split in splits for case, rows in cases_of(split).items()}
        for case, (number, predicted_there) in zip(case_ids, predicted, strict=True):
            split, rows = volumes[case]
            record = split[int(rows[number])]
            image = np.asarray(to_unit(record["image"], make_adapter(split.card.stored, model_input)))
            out.append(draw(image, record["segmentation"], predicted_there))
        return out
    places: dict[str, tuple[Split, int]] = {}
    for split in splits:
        places |= {case: (split, i) for i, case in enumerate(split.manifest()["case_id"].to_pylist())}
    for split, index in (places[case] for case in case_ids):
        adapter = make_adapter(split.card.stored, model_input)
        (tile,) = tiles(center(_images(split, [index]), adapter), adapter)
        mask = split[index].get("segmentation")
        out.append(png(tile if mask is None else _outlined(tile, mask)))
    return out


def _outlined(tile: UInt8[np.ndarray, "h w 3"], mask: UInt8[np.ndarray, "i j"]) -> UInt8[np.ndarray, "h w 3"]:
    """The tile with the border of what is neither background nor unknown; both show the whole image."""
    h, w = tile.shape[:2]
    inside = cv2.resize(((mask > 0) & (mask < UNKNOWN_MASK)).astype(np.uint8), (w, h), interpolation=cv2.INTER_NEAREST)
    border = inside - cv2.erode(inside, np.ones((3, 3), np.uint8))
    return np.where(border[:, :, None] > 0, np.array([230, 60, 40], np.uint8), tile)


def png(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Returns an image, red first, as a PNG."""
    return cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))[1].tobytes()


def _views(split: Split, adapter: Adapter, config: ConfigDict, indices: list[int]) -> UInt8[np.ndarray, "h w 3"]:
    section = plain(config.augment)
    recipe = AUGMENTATIONS.build(section.pop("name"), section)
    views = make_views(_images(split, indices), adapter, recipe, rng.stream(config.seed, "augment", 0), 2)
    return np.concatenate([_row(tiles(views[:, v], adapter)) for v in range(2)], axis=0)


def _images(split: Split, indices: list[int]) -> Array:
    return jnp.asarray(np.stack([split[i]["image"] for i in indices]))


def _spread(n: int, count: int) -> list[int]:
    return [int(i) for i in np.linspace(0, n - 1, min(n, count))]


def _by_class(split: Split) -> dict[str, list[int]]:
    """Indices of examples for each class or finding, spread over the split; classes without examples are left out."""
    labels, _ = split.all_labels()
    rows = {}
    for k, name in enumerate(split.card.labels):
        having = np.flatnonzero(labels[:, k] > 0)
        if len(having):
            rows[name] = [int(having[i]) for i in _spread(len(having), _COLUMNS)]
    return rows


def tiles(image: Float[Array, "n h w c"], adapter: Adapter) -> UInt8[np.ndarray, "n h w 3"]:
    """Returns what a model sees with the standardisation undone, so that 0 is black and 1 is white."""
    x = np.asarray(jax.device_get(image), np.float64)
    x = x * np.asarray(adapter.model_input.std) + np.asarray(adapter.model_input.mean)
    if x.shape[-1] != 3:
        x = np.repeat(x[..., :1], 3, axis=-1)
    return (x.clip(0, 1) * 255).round().astype(np.uint8)


def _row(tiles: UInt8[np.ndarray, "n h w 3"]) -> UInt8[np.ndarray, "i j 3"]:
    n, h, w, _ = tiles.shape
    row = np.full((h + _GAP, _COLUMNS * (w + _GAP), 3), 255, np.uint8)
    for i in range(n):
        row[:h, i * (w + _GAP) : i * (w + _GAP) + w] = tiles[i]
    return row


def _write(path: Path, image: UInt8[np.ndarray, "h w 3"]) -> None:
    image = np.repeat(np.repeat(image, 2, axis=0), 2, axis=1)  # small inputs are hard to see at their own size
    if not cv2.imwrite(str(path), image[..., ::-1]):
        raise OSError(f"can't write {path}")
