"""Figures with a line for each start or run: loss, label efficiency, calibration, ROC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
import numpy as np

from radnet_jax.evaluation.comparisons import Group
from radnet_jax.evaluation.report import words
from radnet_jax.evaluation.report.style import PAPER, SOFT, WIDTH, Drawing, Look, plain, short, styled
from radnet_jax.evaluation.statistics.diagrams import GRID, Reliability, RocCurve

_MAX_TOGETHER = 8  # starts in one figure of losses
_POINTS = 250  # of a curve: what a line of this width can show


def loss_figure(
    lines: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], look: Mapping[str, Look], *, what: str
) -> Drawing:
    """Training loss by step, a line a run, in the colour of its start; the start's name stands at the lines' end.

    More starts than lines in one figure can tell apart have a small panel each, with a scale of its own.
    """
    curves: dict[str, list[np.ndarray]] = {}
    for start, curve in lines:
        xy = np.array([(p["step"], p["loss"]) for p in curve if p.get("loss") is not None], float).reshape(-1, 2)
        xy = xy[np.isfinite(xy).all(axis=1)]
        if len(xy):
            curves.setdefault(start, []).append(xy[:: max(1, len(xy) // _POINTS)])
    alt = f"{what}: training loss by step of {', '.join(curves) or 'no run'}"
    with styled(lines=True):
        if len(curves) > _MAX_TOGETHER:
            return Drawing(_loss_panels(curves, look), alt)
        figure, axes = _axes(2.7)
        for start, members in curves.items():
            for xy in members:
                axes.plot(*xy.T, color=look[start].colour, lw=1.4, alpha=0.75)
        _name_ends(axes, {s: [(float(xy[-1, 0]), float(xy[-1, 1])) for xy in m] for s, m in curves.items()}, look)
        axes.set_xlabel("step")
        axes.set_ylabel("training loss")
        return Drawing(figure, alt)


def _loss_panels(curves: Mapping[str, Sequence[np.ndarray]], look: Mapping[str, Look]) -> Figure:
    rows = math.ceil(len(curves) / 3)
    figure = Figure(figsize=(WIDTH, 1.05 * rows), layout="constrained")
    panels = figure.subplots(rows, 3, squeeze=False).flat
    for (start, members), panel in zip(curves.items(), panels):  # in this order no panel is lost
        for xy in members:
            panel.plot(*xy.T, color=look[start].colour, lw=1.1, alpha=0.8)
        panel.set_title(plain(short(start, 22)), fontsize=7.5, pad=2, loc="left")
        panel.tick_params(labelsize=7)
        panel.locator_params(nbins=3)
        panel.grid(True)
    for panel in panels:  # those that are left over
        panel.set_visible(False)
    return figure


def efficiency_figure(groups: Sequence[Group], look: Mapping[str, Look]) -> Drawing:
    """The metric by share of the training labels, a line a start, with its interval over patients. Values x 100."""
    with styled(lines=True):
        starts = list(dict.fromkeys(g.start for g in groups))
        figure, axes = _axes(max(3.0, 0.9 + 0.2 * len(starts)))
        ends = {}
        shares = sorted({g.fraction for g in groups})
        for i, start in enumerate(starts):
            own = sorted((g for g in groups if g.start == start and not math.isnan(g.mean)), key=lambda g: g.fraction)
            if not own:
                continue
            style = look[start]
            # Moved aside a little, so that the intervals of several starts do not hide each other.
            x = np.array([g.fraction for g in own]) * 1.035 ** (i - (len(starts) - 1) / 2)
            mean, low, high = (100 * np.array([getattr(g, k) for g in own]) for k in ("mean", "low", "high"))
            axes.plot(x, mean, style.marker + "-", color=style.colour, lw=1.6, ms=6.5, mec=PAPER, mew=1)
            axes.vlines(x, low, high, color=style.colour, lw=1.6)
            ends[start] = [(float(x[-1]), float(mean[-1]))]
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(shares))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(shares, [f"{100 * s:.3g} %" for s in shares])
        _name_ends(axes, ends, look)
        axes.set_xlabel("share of the training labels")
        axes.set_ylabel(f"{words.metric(groups[0].metric)} × 100 on test")
        alt = "; ".join(
            f"{g.start} at {100 * g.fraction:.3g} %: {words.number(g.mean)} ({words.interval(g.low, g.high)})"
            for g in groups
        )
        return Drawing(figure, f"{words.capital(words.metric(groups[0].metric))} by share of the labels: {alt}")


def reliability_figure(diagrams: Mapping[str, Reliability], look: Mapping[str, Look]) -> Drawing:
    """Share that happened by probability that was said; on the diagonal they agree."""
    with styled(lines=True):
        figure, axes = _square()
        for start, r in diagrams.items():
            style = look[start]
            axes.vlines(r.said, r.low, r.high, color=style.colour, lw=1.4, alpha=0.7)
            axes.plot(r.said, r.happened, style.marker + "-", color=style.colour, lw=1.2, ms=5.5, mec=PAPER, mew=0.8)
        axes.set_xlabel("probability said")
        axes.set_ylabel("share that happened")
        parts = []
        for start, r in diagrams.items():
            points = (f"{s:.2f}: {h:.2f}" for s, h in zip(r.said, r.happened) if not math.isnan(s))
            parts.append(f"{start} {', '.join(points)}")
        return Drawing(figure, f"Reliability, said: happened. {'; '.join(parts)}")


def roc_figure(curves: Mapping[str, RocCurve], look: Mapping[str, Look]) -> Drawing:
    """Sensitivity by 1 - specificity with its band over patients."""
    with styled(lines=True):
        figure, axes = _square()
        for start, roc in curves.items():
            colour = look[start].colour
            axes.fill_between(GRID, roc.low, roc.high, color=colour, alpha=0.16, lw=0)
            axes.plot(GRID, roc.sensitivity, color=colour, lw=1.8)
        axes.set_xlabel("1 − specificity")
        axes.set_ylabel("sensitivity")
        at = int(np.searchsorted(GRID, 0.1))
        alt = "; ".join(f"{s} {words.number(r.sensitivity[at])} %" for s, r in curves.items())
        return Drawing(figure, f"ROC curves; sensitivity at a specificity of 90 %: {alt}")


def _axes(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(True)
    return figure, axes


def _square() -> tuple[Figure, Axes]:
    figure, axes = _axes(4.0)
    axes.plot([0, 1], [0, 1], color=SOFT, lw=0.8, ls=(0, (4, 3)))
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_yticks(np.linspace(0, 1, 6))
    return figure, axes


def _name_ends(axes: Axes, ends: Mapping[str, Sequence[tuple[float, float]]], look: Mapping[str, Look]) -> None:
    """Each start's name right of its lines' end, as near their height as the other names let it."""
    if not ends:
        return
    low, high = axes.get_ylim()
    height = axes.get_figure().get_figheight() - 0.9  # type: ignore[union-attr]
    gap = (high - low) * 0.17 / max(height, 0.5)
    wanted = {s: float(np.mean([p[1] for p in points])) for s, points in ends.items()}
    x = max(p[0] for points in ends.values() for p in points)
    for start, y in spread(wanted, gap, low, high).items():
        axes.annotate(
            plain(short(start, 16)),
            (x, y),
            xytext=(6, 0),
            textcoords="offset points",
            color=look[start].colour,
            va="center",
            weight="bold",
            fontsize=9.5 if len(ends) <= 8 else 8,
            annotation_clip=False,
        )
    axes.set_ylim(low, high)


def spread(heights: Mapping[str, float], gap: float, low: float, high: float) -> dict[str, float]:
    """Heights of labels, in their order, moved apart to at least `gap`, and down again where they left the figure."""
    out: dict[str, float] = {}
    last = -math.inf
    for name, height in sorted(heights.items(), key=lambda item: item[1]):
        last = max(height, last + gap, low)
        out[name] = last
    bound = high
    for name in reversed(out):
        out[name] = min(out[name], bound)
        bound = out[name] - gap
    return out
