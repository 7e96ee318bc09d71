"""Metrics of a whole split: pure functions of scores, labels and mask, in float64; undefined is NaN with a reason."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import math
from typing import Any, TypeVar

from jaxtyping import Bool, Num
import numpy as np

from radnet_jax.registry import Registry

METRICS = Registry("metric", "radnet_jax.evaluation.metrics")
"""Names to functions (scores [n k], labels [n k], label_mask [n k] or None) -> Metric, each under `declare`."""

T = TypeVar("T", bound=Callable[..., Any])

REASONS = {
    "no_cases": "no labelled case",
    "one_class": "all labelled cases are of one class",
    "no_positive": "no labelled case has the label",
    "nan_scores": "a score is not a number",
    "not_single_label": "the cases have not exactly one label each",
    "not_probabilities": "a score lies outside 0 to 1",
    "few_classes": "there are no more classes than guesses",
    "both_empty": "truth and prediction are empty",
    "empty_truth": "the truth is empty",
    "empty_prediction": "the prediction is empty",
    "one_empty": "in each case the truth or the prediction is empty",
    "not_measured": "the spacing is not known, or no lesion is large enough to count",
    "region_undefined": "a region is undefined, and the convention's mean needs all of them",
}


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric of a split.

    Attributes:
      value: the metric, or NaN.
      reason: why it is undefined, a key of REASONS; empty where it is defined.
      per_class: its value for each label, where it is a mean over labels; NaN for those left out.
      left_out: indices of the labels that the mean leaves out, because the metric is undefined for them.
      cases: how many cases each label's value rests on, where that is not known from the labels (segmentation).
    """

    value: float
    reason: str = ""
    per_class: tuple[float, ...] = ()
    left_out: tuple[int, ...] = ()
    cases: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if math.isnan(self.value) != bool(self.reason):
            raise ValueError(f"a metric is a number or has a reason, not {self.value} with {self.reason!r}")

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"value": self.value, "reason": self.reason}
        if self.per_class:
            out |= {"per_class": list(self.per_class), "left_out": list(self.left_out)}
        if self.cases:
            out["cases"] = list(self.cases)
        return out


def undefined(reason: str, **more: Any) -> Metric:
    """An undefined metric; `reason` is a key of REASONS."""
    if reason not in REASONS:
        raise ValueError(f"unknown reason {reason!r}")
    return Metric(math.nan, reason, **more)


def declare(
    *, task_kinds: frozenset[str], entering: Callable[..., np.ndarray], higher_is_better: bool = True
) -> Callable[[T], T]:
    """Says of a metric what can't be seen from its values.

    Args:
      task_kinds: the kinds of task that it is defined for: "single_label", "multi_label", "segmentation".
      entering: (labels [n k], label_mask [n k] or None) -> bool [n], the cases that its value rests on.
      higher_is_better: False for an error, which can't be a primary metric: those are maximised.
    """

    def add(function: T) -> T:
        vars(function).update(task_kinds=task_kinds, entering=entering, higher_is_better=higher_is_better)
        return function

    return add


def task_kinds(name: str) -> frozenset[str]:
    """The kinds of task that a metric is for, of "single_label", "multi_label" and "segmentation".

    Raises:
      UserError: an unknown metric.
    """
    kinds: frozenset[str] = _declared(name, "task_kinds")
    return kinds


def higher_is_better(name: str) -> bool:
    """Whether more of a metric is better; not so of an error of calibration.

    Raises:
      UserError: an unknown metric.
    """
    better: bool = _declared(name, "higher_is_better")
    return better


def entering(
    name: str, labels: Num[np.ndarray, "n k"], label_mask: Num[np.ndarray, "n k"] | None = None
) -> Bool[np.ndarray, " n"]:
    """Which cases a metric rests on: labelled, and of a label that its mean does not leave out.

    Raises:
      UserError: an unknown metric.
    """
    cases: np.ndarray = _declared(name, "entering")(labels, label_mask)
    return cases


def _declared(name: str, what: str) -> Any:
    function = METRICS.get(name)
    if not hasattr(function, what):
        raise ValueError(f"metric {name!r} declares no {what}: put it under metrics.declare")
    return getattr(function, what)
