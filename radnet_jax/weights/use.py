"""A backbone in three lines: raw HU or 8-bit images in, features out, the preprocessing contract applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import functools
import json
import os
from pathlib import Path
from typing import Any

import jax
from jaxtyping import Float, Num
import numpy as np

from data_prep.ingest.image import fit
from radnet_jax import starts
from radnet_jax.augment.views import center
from radnet_jax.checkpoint import FOLDER, load_arrays
from radnet_jax.errors import UserError, nearest
from radnet_jax.models import MODELS
from radnet_jax.preprocessing import Adapter, ModelInput, StoredPixels, make_adapter
from radnet_jax.registry import named
from radnet_jax.trees import nested
from radnet_jax.weights import cards
from radnet_jax.weights.folder import ARRAYS_FILE, CARD_FILE, check_sums, of_backbone

ENVIRONMENT = "RADNET_JAX_WEIGHTS"
_BATCHES = (1, 8, 64)  # every call is cut into and padded to these, so that no other size is ever compiled
_HU_OUTSIDE = -1024.0  # what lies beyond a CT image that is not square


class Backbone:
    """A network without a head. Call it with images; `name`, `width` and `model_input` say what it is.

    Attributes:
      name: where it comes from.
      width: dimension of the features.
      section: the backbone section of its config.
      model_input: what it expects to see.
    """

    def __init__(
        self, name: str, section: Mapping[str, Any], model_input: ModelInput, arrays: Mapping[str, np.ndarray]
    ):
        self._module = MODELS.build(*named(section))
        self._variables = jax.device_put(nested(arrays))
        self.name, self.section, self.model_input = name, dict(section), model_input
        self.width: int = self._module.width

    def __call__(
        self,
        images: Any,
        *,
        windows: Sequence[tuple[float, float]] | None = None,
        resize: str = "pad_area",
    ) -> Float[np.ndarray, "n d"]:
        """Returns the features of images, float32, one row each.

        Args:
          images: [h w], [h w c], [n h w] or [n h w c] with 1 or 3 channels; NumPy or JAX. int16 is HU, uint8 is 0 to
            255. They may have any size: they are brought to the model's as a dataset is built.
          windows: (centre, width) in HU, one or one for each channel: how CT is shown to a backbone that was not
            trained on CT. Such a crossing has to be declared.
          resize: "pad_area" (padded to a square) or "stretch_area".

        Raises:
          UserError: another type or shape, a crossing that is not declared or can't be made.
        """
        batch = _as_batch(images)
        size = self.model_input.size
        adapter = self._adapter(batch, windows, resize)
        lowest = _HU_OUTSIDE if batch.dtype == np.int16 else 0
        rows = []
        for first, count, padded in _cuts(len(batch)):
            part = np.stack([fit(image, size, resize, lowest) for image in batch[first : first + count]])
            part = np.concatenate([part, np.repeat(part[:1], padded - count, axis=0)])
            rows.append(np.asarray(self._compiled(adapter)(self._variables, part))[:count])
        return np.concatenate(rows) if rows else np.zeros((0, self.width), np.float32)

    def _adapter(self, batch: np.ndarray, windows: Sequence[tuple[float, float]] | None, resize: str) -> Adapter:
        hu = batch.dtype == np.int16
        modality = "CT" if hu else self.model_input.modality
        value_range = (-32768.0, 32767.0) if hu else (0.0, 255.0)
        stored = StoredPixels(
            modality,
            "HU" if hu else "none",
            value_range,
            self.model_input.size,
            batch.shape[-1],
            resize,
            str(batch.dtype),
        )
        declared = None
        if windows is not None:
            channels = "keep" if len(windows) == self.model_input.channels else "repeat"
            declared = {"windows": tuple(windows), "channels": channels}
        elif hu and modality != self.model_input.modality:
            raise UserError(
                f"{self.name} was trained on {self.model_input.modality} and is shown HU",
                fix="declare the crossing: backbone(images, windows=((40, 400),))",
            )
        return make_adapter(stored, self.model_input, declared)

    @functools.lru_cache(maxsize=8)  # noqa: B019 (a backbone lives as long as what it compiled)
    def _compiled(self, adapter: Adapter) -> Any:
        def run(variables: Any, image: Any) -> Any:
            return self._module.apply(variables, center(image, adapter), train=False)["pooled"]

        return jax.jit(run)


def _as_batch(images: Any) -> Num[np.ndarray, "n h w c"]:
    try:
        batch = np.asarray(images)
    except ValueError as error:
        raise UserError("images of several sizes in one call", fix="call once for each size") from error
    batch = batch.astype(batch.dtype.newbyteorder("="), copy=False)  # DICOM and NIfTI have both orders
    if batch.dtype not in (np.int16, np.uint8):
        raise UserError(
            "images of a type that does not say what the values are",
            got=str(batch.dtype),
            expected="int16 (Hounsfield units) or uint8 (0 to 255)",
            fix="convert them: hu.round().astype('int16')",
        )
    if batch.ndim == 2:
        batch = batch[None, :, :, None]
    elif batch.ndim == 3:
        batch = batch[None] if batch.shape[-1] in (1, 3) else batch[..., None]
    if batch.ndim != 4 or batch.shape[-1] not in (1, 3) or min(batch.shape[1:3]) < 1:
        raise UserError(
            "images of an unknown shape",
            got=np.shape(images),
            expected="[h w], [h w c], [n h w] or [n h w c], c 1 or 3",
        )
    return batch


def _cuts(n: int) -> list[tuple[int, int, int]]:
    """Cuts n images into parts: (first, how many, padded to)."""
    cuts, first = [], 0
    while first < n:
        count = min(n - first, _BATCHES[-1])
        cuts.append((first, count, next(b for b in _BATCHES if b >= count)))
        first += count
    return cuts


def weights_folder() -> Path:
    """Returns the folder of weights that have a name: $RADNET_JAX_WEIGHTS, or ~/.cache/radnet_jax/weights."""
    return Path(os.environ.get(ENVIRONMENT) or Path.home() / ".cache" / "radnet_jax" / "weights")


def find(path_or_name: str) -> Path:
    """Returns the folder of weights: a path, or a name in the folder of weights.

    Raises:
      UserError: neither; the command that imports a known source stands in the message.
    """
    here, cached = Path(path_or_name).expanduser(), weights_folder() / path_or_name
    for folder in (here, cached):
        if (folder / CARD_FILE).is_file() or (folder / FOLDER).is_dir():
            return folder
    if here.is_dir():
        raise UserError(f"{here} holds no weights", expected=f"a folder with {FOLDER}/ or {CARD_FILE}")
    there = sorted(p.name for p in weights_folder().glob("*") if p.is_dir())
    source = path_or_name if path_or_name in cards.known() else None
    command = f"python -m radnet_jax.main --config=configs/import.py --config.source={source or 'SOURCE'}"
    raise UserError(
        f"no weights {path_or_name!r}{'' if source else nearest(path_or_name, [*there, *cards.known()])}",
        got=f"{', '.join(there) or 'nothing'} in {weights_folder()}",
        fix=f"import them: {command} --config.file=FILE --workdir={weights_folder() / (source or 'NAME')}",
    )


def load(path_or_name: str) -> Backbone:
    """Loads a backbone: the workdir of a pretraining, a fine-tuning or an import, an exported folder, or a name.

    Raises:
      UserError: no such weights, or damaged ones.
    """
    folder = find(str(path_or_name))
    if (folder / CARD_FILE).is_file():
        return _load_export(folder)
    start = starts.find_start(str(folder))
    assert start.folder is not None
    arrays, _ = load_arrays(start.folder)
    return Backbone(start.id, start.backbone, start.model_input, of_backbone(arrays, start.kept))


def _load_export(folder: Path) -> Backbone:
    try:
        card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
        section, model_input = card["backbone"], ModelInput.from_json(card["model_input"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / CARD_FILE} can't be read ({error})", fix="copy or export it again") from error
    check_sums(folder, ARRAYS_FILE)
    with np.load(folder / ARRAYS_FILE, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return Backbone(card["id"], section, model_input, arrays)
