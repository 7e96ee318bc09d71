"""Masks over whole splits: windows or whole images, slices put together to volumes, and what is judged of each case."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int, PyTree, UInt8
import numpy as np

from radnet_jax import sharding
from radnet_jax.augment.views import center
from radnet_jax.data.card import DatasetCard
from radnet_jax.data.dataset import Split
from radnet_jax.data.pipeline import Ordered, eval_batches
from radnet_jax.errors import UserError, nearest
from radnet_jax.evaluation.evaluators import NO_FACT, Predict
from radnet_jax.evaluation.ledger import Predictions
from radnet_jax.evaluation.masks import Masks, encode, join
from radnet_jax.evaluation.metrics.lesions import (
    ANY_OVERLAP,
    BRATS_2023,
    BRATS_2023_MENINGIOMA,
    BRATS_2023_METASTASES,
    Lesions,
)
from radnet_jax.evaluation.metrics.overlap import (
    BRATS,
    LITS,
    LITS_LIVER_WITHOUT_TUMOUR,
    Regions,
    measure,
    measure_slices,
    per_case,
)
from radnet_jax.evaluation.windows import WEIGHTINGS, in_windows
from radnet_jax.preprocessing import UNKNOWN_MASK, Adapter, standardise, to_unit

REGIONS: dict[str, Regions] = {"lits": LITS, "lits_without_tumour": LITS_LIVER_WITHOUT_TUMOUR, "brats": BRATS}
LESION_RULES = {
    "any_overlap": ANY_OVERLAP,
    "brats_2023": BRATS_2023,
    "brats_2023_meningioma": BRATS_2023_MENINGIOMA,
    "brats_2023_metastases": BRATS_2023_METASTASES,
}
INFERENCES = ("resize", "windows")
TASK = "segmentation"


@dataclasses.dataclass(frozen=True)
class Rules:
    """How masks are predicted and what is measured of them; the section `masks` of a config.

    Attributes:
      regions: "classes" (each class of the dataset is one), or a name in REGIONS.
      tolerance: of the surface Dice, in mm; 0 measures none.
      lesions: a name in LESION_RULES; "" measures none.
      inference: "resize" shows the network the whole image at its input's size, and enlarges the logits to the
        stored size; "windows" shows it windows of its input's size at the stored scale.
      overlap: of neighbouring windows, as a fraction of their side.
      weighting: of a window's logits where windows overlap: "gaussian" trusts the middle more (sigma an eighth of the
        side, Isensee et al. 2021), or "uniform".
    """

    regions: str = "classes"
    tolerance: float = 0.0
    lesions: str = ""
    inference: str = "resize"
    overlap: float = 0.5
    weighting: str = "gaussian"

    def __post_init__(self) -> None:
        choices = {
            "regions": ("classes", *REGIONS),
            "lesions": ("", *LESION_RULES),
            "inference": INFERENCES,
            "weighting": WEIGHTINGS,
        }
        for name, valid in choices.items():
            got = getattr(self, name)
            if got not in valid:
                hint = nearest(str(got), valid)
                raise UserError(f"config.masks.{name}{hint}", got=repr(got), expected=f"one of {', '.join(valid)}")
        if not 0 <= self.overlap < 1:
            raise UserError("config.masks.overlap", got=self.overlap, expected="a fraction, 0 or more and below 1")
        if not self.tolerance >= 0:
            raise UserError("config.masks.tolerance", got=self.tolerance, expected="mm, 0 for no surface Dice")

    def of(self, card: DatasetCard) -> Regions:
        """The regions for a dataset.

        Raises:
          UserError: regions of other classes than the dataset has.
        """
        if self.regions == "classes":
            return {name: (i,) for i, name in enumerate(card.segmentation, start=1)}
        regions = REGIONS[self.regions]
        classes = set(range(1, len(card.segmentation) + 1))
        used = set().union(*regions.values())
        if not classes <= used or not any(set(r) & classes for r in regions.values()):
            raise UserError(
                f"config.masks.regions {self.regions!r} is not of dataset {card.name}",
                got=f"classes {', '.join(card.segmentation)}",
                fix="set config.masks.regions=classes",
            )
        return regions


def check_spacing(rules: Rules, split: Split) -> None:
    """Refuses volumes without a spacing where lesions are left out by their volume in mm³.

    Raises:
      UserError: says how many of the split's cases have none.
    """
    if not rules.lesions or not LESION_RULES[rules.lesions].min_volume:
        return
    columns = split.manifest().to_pydict()
    cases = _cases(columns)
    without = sum(_spacing(columns, rows, split) is None for rows in cases.values())
    if without:
        raise UserError(
            f"config.masks.lesions {rules.lesions!r} leaves out lesions by their volume in mm³",
            got=f"{without} of {len(cases)} cases of split {split.name!r} without a known spacing",
            fix="set config.masks.lesions=any_overlap, which counts them all",
        )


@dataclasses.dataclass(frozen=True)
class Reading:
    """How the masks of a dataset that the network was not trained on are read as those that it was.

    Attributes:
      card: of what the network was trained on.
      values: of each value 0 to 255 of their masks, ours.
      regions: of ours that can be judged there; of the others nothing is known.
    """

    card: DatasetCard
    values: tuple[int, ...]
    regions: tuple[str, ...]


def predict_masks(
    predict: Predict,
    params: PyTree,
    model_state: PyTree,
    split: Split,
    *,
    rules: Rules,
    adapter: Adapter,
    batch_size: int,
    mesh: Mesh,
    reading: Reading | None = None,
) -> Predictions:
    """Runs `predict` over a split and judges each of its cases, volumes as a whole.

    A case is a volume (a series of the manifest), of all the slices that the split has of it, or an image of no series.
    It is judged at the stored size. Only one case is held at a time.

    Args:
      predict: gives "logits" [b h w k], one for each value of the mask; hashable.
      params: of the network.
      model_state: of the network.
      split: the records.
      rules: how, and what is measured.
      adapter: the preprocessing contract.
      batch_size: global, in slices.
      mesh: where to compute.
      reading: of the split's masks, where they are of another site.

    Raises:
      UserError: as `check_spacing`.
    """
    check_spacing(rules, split)
    regions = rules.of(reading.card if reading else split.card)
    values = np.asarray(reading.values, np.uint8) if reading else None
    judged = np.asarray([reading is None or name in reading.regions for name in regions])
    columns = split.manifest().to_pydict()
    cases = _cases(columns)
    order = np.concatenate(list(cases.values()))
    parts: list[Masks] = []
    slices = _predicted(predict, params, model_state, split, order, rules, adapter, batch_size, mesh)
    for rows in cases.values():
        predicted, truth = map(np.stack, zip(*(next(slices) for _ in rows)))
        truth = truth if values is None else values[truth]
        parts.append(_judge(predicted, truth, _spacing(columns, rows, split), regions, rules, judged))
    slices.close()
    masks = join(parts)
    firsts = [int(rows[0]) for rows in cases.values()]
    known = masks.cases.all_known

    def first(name: str) -> list[Any]:
        return [columns[name][i] for i in firsts]

    return Predictions(
        split=first("split"),
        case_id=list(cases),
        patient=first("patient"),
        scores=per_case(masks.cases, "dice"),
        labels=((masks.cases.truth > 0) & known).astype(np.float32),
        label_mask=known.astype(np.float32),
        facts={name: first(name) for name in columns if name not in NO_FACT},
        masks=masks,
    )


def cases_of(split: Split) -> dict[str, Int[np.ndarray, " s"]]:
    """Returns the records of each case by its id, in the order of their slices."""
    return _cases(split.manifest().to_pydict())


def _cases(columns: Mapping[str, Sequence[Any]]) -> dict[str, Int[np.ndarray, " s"]]:
    rows: dict[str, list[int]] = {}
    for i, (series, case_id) in enumerate(zip(columns["series"], columns["case_id"])):
        rows.setdefault(series or case_id, []).append(i)
    number = columns["slice"]
    return {case: np.asarray(sorted(members, key=lambda i: number[i])) for case, members in rows.items()}


def _spacing(
    columns: Mapping[str, Sequence[Any]], rows: Int[np.ndarray, " s"], split: Split
) -> tuple[float, ...] | None:
    """Returns mm from slice to slice, row to row and column to column of the stored pixels; None where not all known.

    An image of no series has one slice, of a thickness that counts nowhere.
    """
    first = int(rows[0])
    sides = [columns[name][first] for name in ("rows", "columns", "row_spacing", "column_spacing")]
    if any(value is None for value in sides):
        return None
    height, width, of_rows, of_columns = (float(value) for value in sides)
    stored = split.card.stored
    shrink = {
        "pad_area": (max(height / stored.size[0], width / stored.size[1]),) * 2,
        "stretch_area": (height / stored.size[0], width / stored.size[1]),
        "none": (1.0, 1.0),
    }[stored.resize]
    plane = (of_rows * shrink[0], of_columns * shrink[1])
    if len(rows) == 1:
        return (1.0, *plane)
    positions = [columns["position"][i] for i in rows]
    if any(p is None for p in positions):
        return None
    step = float(np.median(np.abs(np.diff(positions))))
    return (step, *plane) if step > 0 else None


def _judge(
    predicted: UInt8[np.ndarray, "s h w"],
    truth: UInt8[np.ndarray, "s h w"],
    spacing: tuple[float, ...] | None,
    regions: Regions,
    rules: Rules,
    judged: Bool[np.ndarray, " k"],
) -> Masks:
    flat = len(truth) == 1  # an image: its surface is a line
    shape, runs = predicted.shape[flat:], encode(predicted)
    known = truth != UNKNOWN_MASK
    if not known.all():
        predicted, truth = np.where(known, predicted, 0), np.where(known, truth, 0)
    seen, true = (predicted[0], truth[0]) if flat else (predicted, truth)
    # Which lesions there are can be told without a spacing; in mm nothing can.
    size = (1.0,) * (3 - flat) if spacing is None else spacing[flat:]
    rule = LESION_RULES[rules.lesions] if rules.lesions else None
    measured = spacing is not None or rule is not None
    tolerance = rules.tolerance if rules.tolerance and spacing is not None else None
    cases = measure(seen, true, regions, spacing=size if measured else None, tolerance=tolerance, lesion_rule=rule)
    if spacing is None:
        cases = dataclasses.replace(cases, hd95=None, lesions=_without_mm(cases.lesions))
    cases = dataclasses.replace(cases, known=judged[None] & known.any())
    of_slices = measure_slices(predicted, truth, regions)
    counts = np.stack([of_slices.overlap, of_slices.predicted, of_slices.truth], axis=-1)
    return Masks(cases, (counts,), (runs,), (shape,))


def _without_mm(rows: tuple[tuple[Lesions, ...], ...] | None) -> tuple[tuple[Lesions, ...], ...] | None:
    def one(found: Lesions) -> Lesions:
        nothing = (math.nan,) * len(found.dice)
        return dataclasses.replace(found, volume=nothing, hd95=nothing)

    return None if rows is None else tuple(tuple(map(one, row)) for row in rows)


def _predicted(
    predict: Predict,
    params: PyTree,
    model_state: PyTree,
    split: Split,
    order: Int[np.ndarray, " n"],
    rules: Rules,
    adapter: Adapter,
    batch_size: int,
    mesh: Mesh,
) -> Generator[tuple[UInt8[np.ndarray, "h w"], UInt8[np.ndarray, "h w"]]]:
    """Yields (prediction, truth) of each slice in this order; the device is one batch ahead."""
    compiled = _compiled(predict, adapter, rules, mesh)
    processes = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    left = len(order)
    waiting: tuple[Array, Array] | None = None

    def fetched(pair: tuple[Array, Array], count: int) -> Iterator[Any]:
        yield from zip(*(np.asarray(x)[:count] for x in pair))

    for batch in eval_batches(Ordered(split, order), batch_size=batch_size, **processes):
        placed = sharding.put_batch({k: batch[k] for k in ("image", "segmentation")}, mesh)
        dispatched = compiled(params, model_state, placed["image"], placed["segmentation"])
        if waiting is not None:
            yield from fetched(waiting, batch_size)
            left -= batch_size
        waiting = dispatched
    if waiting is not None:
        yield from fetched(waiting, left)


def predict_slices(
    predict: Predict,
    params: PyTree,
    model_state: PyTree,
    source: Any,
    *,
    rules: Rules,
    adapter: Adapter,
    batch_size: int,
    mesh: Mesh,
) -> Iterator[UInt8[np.ndarray, "h w"]]:
    """Yields the predicted mask of each image in turn, of the stored size, without judging it.

    Args:
      source: a split, or what gives batches as one does, with any `segmentation`.
      predict, params, model_state, rules, adapter, batch_size, mesh: as for `predict_masks`.
    """
    order = np.arange(len(source))
    slices = _predicted(predict, params, model_state, source, order, rules, adapter, batch_size, mesh)
    yield from (mask for mask, _ in slices)


@functools.lru_cache(maxsize=32)
def _compiled(predict: Predict, adapter: Adapter, rules: Rules, mesh: Mesh) -> Callable[..., tuple[Array, Array]]:
    def run(params: PyTree, model_state: PyTree, image: Array, truth: Array) -> tuple[Array, Array]:
        logits_of = lambda x: predict(params, model_state, {"image": x})["logits"]  # noqa: E731
        if rules.inference == "windows":
            x = standardise(to_unit(image, adapter), adapter)
            logits = in_windows(logits_of, x, adapter.model_input.size, rules.overlap, rules.weighting)
        else:
            logits = logits_of(center(image, adapter))
            shape = (*image.shape[:3], logits.shape[-1])
            if logits.shape != shape:
                logits = jax.image.resize(logits, shape, "bilinear", antialias=False)
        return jnp.argmax(logits, axis=-1).astype(jnp.uint8), truth

    # Replicated, truth too: every process judges the whole split.
    return jax.jit(run, out_shardings=sharding.replicated(mesh))
