"""Every metric of a run on one split, from its predictions: what run.json holds, and what is looked at beside it."""

from __future__ import annotations

from radnet_jax.evaluation import metrics
from radnet_jax.evaluation.ledger import Predictions, Run
from radnet_jax.evaluation.masks import metrics_of
from radnet_jax.evaluation.metrics import METRICS, Metric


def of_labels(p: Predictions) -> dict[str, Metric]:
    """Every metric of labels; those that are for another kind of task say so by their reason."""
    return _named(p, [name for name in METRICS.names() if "segmentation" not in metrics.task_kinds(name)])


def of_masks(p: Predictions, regions: str) -> dict[str, Metric]:
    """Every metric of masks; `regions` as for `masks.metrics_of`."""
    by_convention = {} if p.masks is None else metrics_of(p.masks, regions)
    return by_convention | _named(p, [name for name in METRICS.names() if "segmentation" in metrics.task_kinds(name)])


def of_task(p: Predictions, task_kind: str, regions: str = "classes") -> dict[str, Metric]:
    """Every metric that is for a kind of task."""
    if task_kind == "segmentation":
        return of_masks(p, regions)
    return _named(p, [name for name in METRICS.names() if task_kind in metrics.task_kinds(name)])


def regions_of(run: Run) -> str:
    """What the masks of a run were judged by; of a run without masks it means nothing."""
    regions: str = run.config.get("masks", {}).get("regions", "classes")
    return regions


def higher_is_better(name: str) -> bool:
    """Whether more of a metric is better, one in METRICS or metric_convention; distances and errors are not so."""
    return "hd95" not in name and (name not in METRICS.names() or metrics.higher_is_better(name))


def _named(p: Predictions, names: list[str]) -> dict[str, Metric]:
    return {name: METRICS.get(name)(p.scores, p.labels, p.label_mask) for name in names}
