"""Names and numbers as a reader of the report sees them."""

from __future__ import annotations

import math

from radnet_jax.evaluation import verdicts

METRICS = {
    "accuracy": "accuracy",
    "auprc": "AUPRC",
    "auroc": "AUROC",
    "balanced_accuracy": "balanced accuracy",
    "brier": "Brier score",
    "dice": "Dice",
    "dice_empty_is_one": "Dice, empty masks count 1",
    "dice_nnunet": "Dice as nnU-Net counts it",
    "dice_per_volume": "Dice by volume",
    "dice_positives_only": "Dice where there is something to find",
    "ece": "calibration error (ECE)",
    "f1": "F1",
    "iou": "IoU",
    "label_brier": "Brier score by label",
    "label_ece": "calibration error (ECE) by label",
    "label_f1": "F1 by label",
    "sensitivity_at_95_specificity": "sensitivity at 95 % specificity",
    "top_5": "top-5 accuracy",
}
OF_MASKS = {
    "lesion_dice": "Dice of lesions",
    "lesion_f1": "F1 of lesions",
    "lesion_hd95": "HD95 of lesions",
    "precision": "precision",
    "recall": "recall",
    "hd95": "HD95",
    "dice": "Dice",
    "iou": "IoU",
    "nsd": "surface Dice",
}
CONVENTIONS = {
    "per_volume": "by volume",
    "per_slice": "by slice",
    "pooled": "pooled",
    "lits_per_case": "as LiTS has it, per case",
    "lits_global": "as LiTS has it, global",
    "brats_2020": "as BraTS 2020 has it",
    "brats_2023_lesionwise": "as BraTS 2023 has it",
    "btl_per_image": "by image, empty masks count 1",
    "radnet_published": "as the RadNet study counts it",
}
PROTOCOLS = {"fine_tune": "fine-tuning", "linear_probe": "linear probe", "knn": "nearest neighbours"}
KINDS = {
    "pretrain": "pretraining",
    "finetune": "fine-tuning",
    "linear_probe": "linear probe",
    "knn": "nearest neighbours",
    "foreign": "another program's",
}


def metric(name: str) -> str:
    """A metric's name; of masks that is metric_convention, as "hd95_per_volume"."""
    if name in METRICS:
        return METRICS[name]
    measured, how = next(((m, c) for m in OF_MASKS for c in CONVENTIONS if name == f"{m}_{c}"), ("", ""))
    return f"{OF_MASKS[measured]} {CONVENTIONS[how]}" if measured else name.replace("_", " ")


def protocol(name: str) -> str:
    """ "fine_tune, 10 % of labels" as "fine-tuning, 10 % of labels"."""
    first, comma, rest = name.partition(",")
    return PROTOCOLS.get(first, first.replace("_", " ")) + comma + rest


def count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def number(value: float, digits: int = 1, *, factor: float = 100) -> str:
    """A metric x 100; a dash where it is undefined."""
    return "–" if math.isnan(value) else f"{factor * value:.{digits}f}"


def interval(low: float, high: float, digits: int = 1) -> str:
    return "–" if math.isnan(low) or math.isnan(high) else f"{number(low, digits)} to {number(high, digits)}"


def p(value: float) -> str:
    return "–" if math.isnan(value) else verdicts.p_value(value).removeprefix("p = ").removeprefix("p ")


def capital(text: str) -> str:
    # Only where the sentence begins with a word of ours: a start's name stays as the user wrote it.
    return text[:1].upper() + text[1:] if text.startswith(("for ", "not ", "only ", "the ")) else text


def hours(seconds: float) -> str:
    """Device-seconds as device-hours, with as many digits as say something: "0.034", "12.5", "1,240"."""
    h = seconds / 3600
    if h == 0:
        return "0"
    return f"{h:,.0f}" if h >= 100 else f"{h:.1f}" if h >= 10 else f"{h:.2g}" if h >= 0.001 else f"{h:.1g}"


def seconds(value: float) -> str:
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
