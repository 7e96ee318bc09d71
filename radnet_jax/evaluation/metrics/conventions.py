"""Named ways to make one number of many segmented cases; they differ in what is pooled and in what empty masks count.

Each is a function (cases, metric) -> Metric: the mean over regions, with each region's value in `per_class`, how many
cases it rests on in `cases`, and the regions that have none in `left_out`.
"""

from __future__ import annotations

from collections.abc import Callable
import math

from jaxtyping import Float
import numpy as np

from radnet_jax.errors import UserError, nearest
from radnet_jax.evaluation.metrics import Metric, undefined
from radnet_jax.evaluation.metrics.overlap import LESIONS, OVERLAPS, SURFACES, Cases, per_case, ratio, terms
from radnet_jax.registry import Registry

CONVENTIONS = Registry("convention", "radnet_jax.evaluation.metrics")
"""Names to functions (cases, metric) -> Metric; a case is what the convention says."""

BRATS_2020_DIAGONAL = math.sqrt(240**2 + 240**2 + 155**2)
"""373.13 mm: the diagonal of a BraTS image, its HD95 where one mask is empty."""

BRATS_2023_PENALTY = 374.0
"""mm: HD95 of a lesion that was missed, or found where there is none."""


@CONVENTIONS.register("per_volume")
def per_volume(cases: Cases, metric: str = "dice") -> Metric:
    """Mean over volumes; the default. A case is a volume, as Maier-Hein et al., Nature Methods 21, 2024, recommend.

    Any metric of `per_case`. Both empty: undefined, the volume is left out. Truth empty, something predicted: Dice,
    IoU, precision and surface Dice are 0, recall is undefined. Prediction empty, something to find: Dice, IoU, recall
    and surface Dice are 0, precision is undefined. HD95 is undefined where either is empty: read it beside the number
    of volumes that it rests on.
    """
    _known_metric(per_volume, metric, OVERLAPS + SURFACES + LESIONS)
    return _mean(cases, per_case(cases, metric))


@CONVENTIONS.register("positives_only")
def positives_only(cases: Cases, metric: str = "dice") -> Metric:
    """Mean over the cases that have something to find: the same cases for every model.

    Any metric of `per_case`. Truth empty (whatever was predicted): left out, so false findings in healthy cases go
    unseen. Prediction empty: as in `per_volume`.
    """
    _known_metric(positives_only, metric, OVERLAPS + SURFACES + LESIONS)
    return _mean(cases, np.where(cases.truth > 0, per_case(cases, metric), np.nan))


@CONVENTIONS.register("per_slice")
def per_slice(cases: Cases, metric: str = "dice") -> Metric:
    """Mean over slices: `per_volume` with slices as cases, as `measure_slices` gives them.

    Dice, IoU, precision, recall, HD95 and surface Dice. Empty masks as in `per_volume`: slices without the region in
    truth and prediction are left out. Small ends of an organ count as much as its middle, so values are lower than per
    volume and can't be compared with them.
    """
    _known_metric(per_slice, metric, OVERLAPS + SURFACES)
    return _mean(cases, per_case(cases, metric))


@CONVENTIONS.register("pooled")
def pooled(cases: Cases, metric: str = "dice") -> Metric:
    """All voxels of all cases as one case: sum of |P and T|, |P| and |T| over cases first, then the ratio.

    Dice, IoU, precision, recall, and lesion_f1 from the sums of found, false and missed lesions. An empty case adds
    nothing where both are empty, and its voxels count where one is. Empty everywhere: undefined. Large cases dominate.
    With images as cases, the first of the two Dice values that Hosseinzadeh Taher et al. (DART 2021) print.
    """
    _known_metric(pooled, metric, (*OVERLAPS, "lesion_f1"))
    if metric == "lesion_f1":
        per_case(cases, metric)  # refuses cases whose lesions were not measured
        rows = cases.lesions or ()
        counts = np.asarray([[found.detected for found in row] for row in rows], np.float64)
        counts = np.where(cases.all_known[..., None], counts.reshape(*cases.overlap.shape, 3), 0).sum(axis=0)
        found, false, missed = counts.T
        # F1 is the Dice of found lesions: 2 found / (all findings + all lesions).
        return _of_regions(cases, ratio("dice", found, found + false, found + missed))
    return _of_regions(cases, ratio(metric, *_sums(cases)))


@CONVENTIONS.register("lits_per_case")
def lits_per_case(cases: Cases, metric: str = "dice") -> Metric:
    """The "Dice per case" of LiTS: mean over volumes; regions `LITS`, where the liver includes its tumours.

    Dice only. Both empty: 1 (no tumour and none found). One of them empty: 0. Bilic et al., Med. Image Anal. 84, 2023,
    and the challenge's scoring (github.com/PatrickChrist/lits-challenge-scoring), which has the rule for empty masks.
    """
    _known_metric(lits_per_case, metric, ("dice",))
    return _mean(cases, _with_empty(cases, metric, both=1.0))


@CONVENTIONS.register("lits_global")
def lits_global(cases: Cases, metric: str = "dice") -> Metric:
    """The "Dice global" of LiTS: 2 sum |P and T| / sum (|P| + |T|) over volumes; regions `LITS`.

    Dice only. Empty masks as in `pooled`, which it equals: a volume where both are empty adds nothing, and where one is
    its voxels count. Empty everywhere: undefined. Source: as for `lits_per_case`.
    """
    _known_metric(lits_global, metric, ("dice",))
    return pooled(cases, metric)


@CONVENTIONS.register("brats_2020")
def brats_2020(cases: Cases, metric: str = "dice") -> Metric:
    """BraTS up to 2020: mean over volumes of each of the regions `BRATS` (ET, TC, WT).

    Dice and HD95. Both empty: Dice 1, HD95 0. One of them empty, as where enhancing tumour is found that is not there:
    Dice 0, HD95 373.13 mm, the diagonal of the image. These are the rules of the challenge's platform as Isensee et
    al., BrainLes 2020 (arXiv 2011.00848), re-implemented them; they took the percentile of both directions together
    (MedPy), here it is that of `surface.hausdorff`. The mean over regions is ours.
    """
    _known_metric(brats_2020, metric, ("dice", "hd95"))
    if metric == "dice":
        return _mean(cases, _with_empty(cases, metric, both=1.0))
    return _mean(cases, _with_empty(cases, metric, both=0.0, one=BRATS_2020_DIAGONAL))


@CONVENTIONS.register("brats_2023_lesionwise")
def brats_2023_lesionwise(cases: Cases, metric: str = "lesion_dice") -> Metric:
    """Lesion-wise scores of BraTS 2023: for each volume over its lesions, then the mean over volumes; regions `BRATS`.

    lesion_dice: sum of the true lesions' Dice / (true lesions + false findings), a missed lesion counts 0. lesion_hd95:
    the same mean of HD95, where missed lesions and false findings count 374 mm. True lesions up to the rule's volume
    are not counted, nor what was found there. Both empty, or only lesions that are not counted and no false finding:
    Dice 1, HD95 0. Truth empty, something predicted: Dice 0, HD95 374. Prediction empty, lesions that count: the same.
    HD95 of a volume whose spacing is not known, where lesions were found: left out.
    Measure the cases with `lesion_rule=lesions.BRATS_2023` (adult glioma) or another task's rule.

    Source: github.com/rachitsaluja/BraTS-2023-Metrics. One departure: its HD95 weighs surface elements by their area,
    here border voxels stand for area (see `surface`); Dice is the same.
    """
    _known_metric(brats_2023_lesionwise, metric, ("lesion_dice", "lesion_hd95"))
    values = per_case(cases, "lesion_dice")
    nothing = np.isnan(values)
    if metric == "lesion_hd95":
        each = [[found.mean_hd95(BRATS_2023_PENALTY) for found in row] for row in cases.lesions or ()]
        values = np.asarray(each, np.float64).reshape(values.shape)
    values = np.where(nothing, 1.0 if metric == "lesion_dice" else 0.0, values)
    return _mean(cases, np.where(cases.all_known, values, np.nan))


@CONVENTIONS.register("nnunet")
def nnunet(cases: Cases, metric: str = "dice") -> Metric:
    """nnU-Net's summary: mean over volumes of each region, then the plain mean over regions ("foreground mean").

    Dice and IoU. Both empty: undefined, the volume is left out of its region's mean. One of them empty: 0. A region
    without a volume makes the mean over regions undefined ("region_undefined"), where `per_volume` leaves it out.
    Isensee et al., Nature Methods 18, 2021; the rules stand in nnunetv2/evaluation/evaluate_predictions.py.
    """
    _known_metric(nnunet, metric, ("dice", "iou"))
    found = _mean(cases, per_case(cases, metric))
    if found.left_out and not found.reason:
        return undefined("region_undefined", per_class=found.per_class, left_out=found.left_out, cases=found.cases)
    return found


@CONVENTIONS.register("btl_per_image")
def btl_per_image(cases: Cases, metric: str = "dice") -> Metric:
    """The "Mean Dice" of BenchmarkTransferLearning: mean over images at a threshold of 0.5.

    Dice only. Both empty: 1, so that a model that finds nothing scores the share of healthy images. One of them empty:
    0. Hosseinzadeh Taher et al., DART 2021; the paper does not say whether its figures are this one or `pooled`, the
    other that its code prints. `positives_only` is the third that belongs beside them.
    """
    _known_metric(btl_per_image, metric, ("dice",))
    return _mean(cases, _with_empty(cases, metric, both=1.0))


@CONVENTIONS.register("radnet_published")
def radnet_published(cases: Cases, metric: str = "dice", *, batch_size: int = 128) -> Metric:
    """The RadNet study's scores: voxels are pooled in each batch of slices, then batches are averaged by their size.

    Cases are slices in the order in which they were batched, so the value depends on that order and on the batch size:
    it reproduces the published figures and compares with no others. Dice, IoU, precision, recall, each with 1e-6 in the
    denominator. A slice that is empty in both adds nothing. Undefined, and the batch left out: Dice and IoU where truth
    and prediction of the whole batch are empty, precision where the prediction is, recall where the truth is. Truth
    empty, something predicted: 0. Regions: `LITS_LIVER_WITHOUT_TUMOUR`, or `BRATS`, of which the study's figures swap
    the names TC and WT. Jonske et al., Comput. Methods Programs Biomed. 261, 2025, as its released code computes them.

    Raises:
      UserError: a metric that it has not, or a batch size below 1.
    """
    _known_metric(radnet_published, metric, OVERLAPS)
    if batch_size < 1:
        raise UserError("batch_size is at least 1", got=batch_size)
    counts = [np.where(cases.all_known, x, 0) for x in (cases.overlap, cases.predicted, cases.truth)]
    starts = np.arange(0, len(cases), batch_size)
    if len(starts) == 0:
        return _of_regions(cases, np.full(len(cases.regions), np.nan))
    over, under = terms(metric, *(np.add.reduceat(x, starts) for x in counts))
    sizes = np.add.reduceat(cases.all_known.astype(np.float64), starts)
    weight = np.where(under > 0, sizes, 0)
    total = weight.sum(axis=0)
    summed = (over / (under + 1e-6) * weight).sum(axis=0)
    value = np.divide(summed, total, out=np.full(len(total), np.nan), where=total > 0)
    return _of_regions(cases, value, total.astype(int))


def _known_metric(convention: Callable[..., Metric], metric: str, valid: tuple[str, ...]) -> None:
    if metric not in valid:
        name = convention.__name__
        raise UserError(f"convention {name!r} has no {metric!r}{nearest(metric, valid)}", expected=", ".join(valid))


def _with_empty(cases: Cases, metric: str, *, both: float, one: float | None = None) -> Float[np.ndarray, "n k"]:
    """Per-case values with a convention's values for empty masks; `one` None: as the metric itself has it."""
    values = per_case(cases, metric)
    no_truth, no_prediction = cases.truth == 0, cases.predicted == 0
    values = np.where(no_truth & no_prediction, both, values)
    if one is not None:
        values = np.where(no_truth != no_prediction, one, values)
    return np.where(cases.all_known, values, np.nan)


def _mean(cases: Cases, values: Float[np.ndarray, "n k"]) -> Metric:
    """The mean over the cases that have a value, then over the regions that have one."""
    defined = ~np.isnan(values)
    n = defined.sum(axis=0)
    total = np.where(defined, values, 0).sum(axis=0)
    mean = np.divide(total, n, out=np.full(len(n), np.nan), where=n > 0)
    return _of_regions(cases, mean, n)


def _of_regions(cases: Cases, values: Float[np.ndarray, " k"], n: np.ndarray | None = None) -> Metric:
    n = cases.all_known.sum(axis=0) if n is None else n
    missing = np.isnan(values)
    facts = {
        "per_class": tuple(values.tolist()),
        "left_out": tuple(np.flatnonzero(missing).tolist()),
        "cases": tuple(n.tolist()),
    }
    if missing.all():
        return undefined(_why(cases), **facts)
    return Metric(float(values[~missing].mean()), "", **facts)


def _sums(cases: Cases) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    overlap, predicted, truth = (
        np.where(cases.all_known, x, 0).sum(axis=0) for x in (cases.overlap, cases.predicted, cases.truth)
    )
    return overlap, predicted, truth


def _why(cases: Cases) -> str:
    """Why no region has a value."""
    if not cases.all_known.any():
        return "no_cases"
    if (cases.all_known & (cases.predicted > 0) & (cases.truth > 0)).any():
        return "not_measured"
    predicted, truth = (x[cases.all_known].any() for x in (cases.predicted, cases.truth))
    if not predicted and not truth:
        return "both_empty"
    if not truth:
        return "empty_truth"
    return "one_empty" if predicted else "empty_prediction"
