"""Figures with a row for each start or pair, and matrices over pairs of starts. Heights follow the number of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
import numpy as np

from radnet_jax.evaluation.comparisons import Comparison, Group
from radnet_jax.evaluation.report import words
from radnet_jax.evaluation.report.style import (
    BAND,
    INK,
    PALETTE,
    PAPER,
    SOFT,
    WIDTH,
    Drawing,
    Look,
    label,
    name_rows,
    plain,
    row_axes,
    short,
    styled,
)
from radnet_jax.evaluation.statistics.across_tasks import MeanRanks
from radnet_jax.evaluation.verdicts import EQUIVALENT, UNDEFINED, is_better

_SHORT = 14  # characters of a start's name in a matrix


def starts_figure(groups: Sequence[Group], look: Mapping[str, Look]) -> Drawing:
    """Each run as a dot; the mean with its interval over patients below them. Values x 100."""
    drawn = [g for g in groups if not math.isnan(g.mean)]
    with styled():
        figure, axes = row_axes(len(drawn), 0.56 if len(drawn) <= 8 else 0.4)
        for y, g in enumerate(drawn):
            style = look[g.start]
            fade = 1.0 if g.compared else 0.45
            n = len(g.values)  # none where a table has means only
            up = y - 0.16 + np.linspace(-0.07, 0.07, n) if n > 1 else [y - 0.16] * n
            axes.plot(100 * np.array(g.values), up, style.marker, color=style.colour, ms=4.5, alpha=0.7 * fade, mew=0)
            if not math.isnan(g.low):
                axes.plot([100 * g.low, 100 * g.high], [y + 0.14] * 2, color=style.colour, lw=2.4, alpha=fade)
            axes.plot(100 * g.mean, y + 0.14, style.marker, color=style.colour, ms=9, mec=PAPER, mew=1.2, alpha=fade)
        name_rows(axes, [short(label(g)).replace(" · ", "\n") + ("" if g.compared else " *") for g in drawn])
        axes.set_xlabel(f"{words.metric(drawn[0].metric)} × 100 on test" if drawn else "")
        known = any(not math.isnan(g.low) for g in drawn)
        alt = "; ".join(
            f"{label(g)} {words.number(g.mean)}{f' ({words.interval(g.low, g.high)})' if known else ''}" for g in drawn
        )
        return Drawing(figure, f"Mean{' and 95 % interval over patients' if known else ''} of each start: {alt}")


def forest_figure(rows: Sequence[Comparison], look: Mapping[str, Look], *, of: str = "") -> Drawing:
    """Differences between starts, in points: 95 % interval thick, interval at the corrected level thin.

    Args:
      rows: the pairs, in the order drawn.
      look: of the starts.
      of: the start that is on the same side of all of them: then the rows are named by the other one.
    """
    drawn = [r for r in rows if r.verdict != UNDEFINED]
    with styled():
        figure, axes = row_axes(len(drawn), 0.5 if len(drawn) <= 8 else 0.36)
        if drawn:
            margin = 100 * drawn[0].margin
            axes.axvspan(-margin, margin, color=BAND, lw=0, zorder=0)
            axes.axvline(0, color=INK, lw=1)
        for y, r in enumerate(drawn):
            better = is_better(r)
            colour = look[r.a if r.delta > 0 else r.b].colour if better else INK
            axes.plot([100 * r.low, 100 * r.high], [y, y], color=colour, lw=1)
            for end in (r.low, r.high):
                axes.plot([100 * end] * 2, [y - 0.1, y + 0.1], color=colour, lw=1)
            axes.plot([100 * r.low_95, 100 * r.high_95], [y, y], color=colour, lw=3.6)
            shape = "s" if r.verdict == EQUIVALENT else "o"
            axes.plot(
                100 * r.delta,
                y,
                shape,
                ms=8.5,
                mfc=colour if better else PAPER,
                mec=PAPER if better else colour,
                mew=1.4,
            )
        name_rows(axes, [short(r.b if r.a == of else r.a) if of else _pair_name(r) for r in drawn])
        sides = (short(of), "the start") if drawn and drawn[0].a == of else ("start", short(of))
        axes.set_xlabel(plain(" minus ".join(sides)) + ", points" if of else "difference, points")
        alt = "; ".join(
            f"{r.a} minus {r.b} {100 * r.delta:+.1f} ({100 * r.low:.1f} to {100 * r.high:.1f}), {r.verdict}"
            for r in drawn
        )
        return Drawing(figure, f"Differences between starts with intervals at the corrected level: {alt}")


def turned(r: Comparison) -> Comparison:
    """The comparison seen from the other side, as far as the forest plot draws it."""
    return dataclasses.replace(
        r, a=r.b, b=r.a, delta=-r.delta, low=-r.high, high=-r.low, low_95=-r.high_95, high_95=-r.low_95
    )


def _pair_name(r: Comparison) -> str:
    name = f"{short(r.a)} − {short(r.b)}"
    return name if len(name) <= 26 else name.replace(" − ", "\n− ")


def bars_figure(groups: Sequence[Group], look: Mapping[str, Look]) -> Drawing:
    """Means as bars from 0 with the SD over seeds, as the published studies drew them. Values x 100."""
    drawn = [g for g in groups if not math.isnan(g.mean)]
    with styled():
        figure, axes = row_axes(len(drawn), 0.34)
        for y, g in enumerate(drawn):
            axes.barh(y, 100 * g.mean, height=0.62, color=look[g.start].colour, alpha=0.75)
            if not math.isnan(g.sd):
                axes.errorbar(100 * g.mean, y, xerr=100 * g.sd, color=INK, lw=1.2, capsize=3)
        name_rows(axes, [short(label(g)).replace(" · ", "\n") for g in drawn])
        axes.set_xlim(left=0)
        axes.set_xlabel(f"{words.metric(drawn[0].metric)} × 100 on test" if drawn else "")
        alt = "; ".join(f"{label(g)} {words.number(g.mean)} ± {words.number(g.sd, 2)}" for g in drawn)
        return Drawing(figure, f"Mean and SD over seeds of each start: {alt}")


def relative_figure(rows: Sequence[Comparison], starts: Sequence[str]) -> Drawing | None:
    """The relative difference of each pair in per cent, the start of the row against that of the column."""
    cells: dict[tuple[str, str], float] = {}
    for r in rows:
        if r.verdict != UNDEFINED and r.mean_a and r.mean_b:
            cells[r.a, r.b] = 100 * r.delta / r.mean_b
            cells[r.b, r.a] = -100 * r.delta / r.mean_a
    if not cells:
        return None
    most = max(abs(v) for v in cells.values()) or 1.0

    def colour(value: float) -> tuple[str, float]:
        return PALETTE[0] if value > 0 else PALETTE[1], 0.62 * abs(value) / most

    figure = _matrix(cells, starts, colour, lambda v: f"{v:+.1f}".replace("-", "−"))
    ends = sorted(cells.items(), key=lambda item: -item[1])[0]
    alt = f"Largest: {ends[0][0]} against {ends[0][1]}, {ends[1]:+.1f} %"
    return Drawing(figure, f"Relative difference in per cent of each start (row) against each other (column). {alt}")


def p_figure(rows: Sequence[Comparison], starts: Sequence[str], alpha: float) -> Drawing | None:
    """The corrected p of each pair; filled below the family-wise level."""
    defined = [r for r in rows if not math.isnan(r.p_corrected)]
    cells = {pair: r.p_corrected for r in defined for pair in ((r.a, r.b), (r.b, r.a))}
    if not cells:
        return None

    def colour(value: float) -> tuple[str, float]:
        return (PALETTE[2], 0.5) if value < alpha else (SOFT, 0.28 * max(0.0, 1 - value / 0.5))

    def text(value: float) -> str:
        return "<.001" if value < 0.001 else f"{value:.3f}"[1:] if value < 0.9995 else "1"

    figure = _matrix(cells, starts, colour, text)
    below = sum(r.p_corrected < alpha for r in defined)
    return Drawing(figure, f"Corrected p of each pair: {below} of {len(defined)} are below {alpha:g}")


def _matrix(
    cells: Mapping[tuple[str, str], float],
    starts: Sequence[str],
    colour: Callable[[float], tuple[str, float]],
    text: Callable[[float], str],
) -> Figure:
    """A cell for each pair, with its number; `colour` gives the fill and its opacity."""
    k = len(starts)
    with styled():
        cell = min(0.62, max(0.4, (WIDTH - 1.2) / k))
        figure = Figure(figsize=(max(WIDTH, 1.3 + cell * k), 1.2 + cell * 0.78 * k), layout="constrained")
        axes = figure.subplots()
        for (a, b), value in cells.items():
            if a not in starts or b not in starts:
                continue
            y, x = starts.index(a), starts.index(b)
            fill, alpha = colour(value)
            axes.add_patch(Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, color=fill, alpha=alpha, lw=0, clip_on=False))
            axes.text(x, y, text(value), ha="center", va="center", fontsize=8.5 if k <= 8 else 7.5)
        names = [plain(short(s, _SHORT)) for s in starts]
        axes.set_xticks(range(k), names, rotation=0 if k <= 3 else 45, ha="center" if k <= 3 else "left")
        axes.set_yticks(range(k), names)
        axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, labelcolor=INK)
        axes.set_xlim(-0.5, k - 0.5)
        axes.set_ylim(k - 0.5, -0.5)
        axes.spines[:].set_visible(False)
        axes.grid(False)
        return figure


def ranks_figure(ranks: MeanRanks, starts: Sequence[str], look: Mapping[str, Look], unit: str) -> Drawing:
    """Mean ranks with twice their standard error; a bar at the side joins starts within the critical difference."""
    order = sorted(range(len(starts)), key=lambda i: ranks.ranks[i])
    with styled():
        figure, axes = row_axes(len(order), 0.36)
        for y, i in enumerate(order):
            style = look[starts[i]]
            error = 2 * ranks.standard_error[i]
            ends = np.clip([ranks.ranks[i] - error, ranks.ranks[i] + error], 1, len(order))  # there are no other ranks
            axes.plot(ends, [y, y], color=style.colour, lw=2)
            axes.plot(ranks.ranks[i], y, style.marker, color=style.colour, ms=8.5, mec=PAPER, mew=1.2)
        name_rows(axes, [short(starts[i]) for i in order])
        _cliques(axes, [ranks.ranks[i] for i in order], ranks.critical_difference)
        axes.set_xlabel(f"mean rank over {unit}; 1 is the best")
        alt = "; ".join(f"{starts[i]} {ranks.ranks[i]:.2f}" for i in order)
        return Drawing(figure, f"Mean ranks over {unit}, critical difference {ranks.critical_difference:.2f}: {alt}")


def _cliques(axes: Axes, ordered: Sequence[float], critical: float) -> None:
    """Bars that join the rows of starts whose mean ranks do not differ (Demsar 2006, figure 1)."""
    found: list[tuple[int, int]] = []
    for first in range(len(ordered)):
        last = max(i for i in range(len(ordered)) if ordered[i] - ordered[first] <= critical)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    transform = axes.get_yaxis_transform()
    for i, (first, last) in enumerate(found):
        x = 1.02 + 0.03 * i
        axes.plot([x, x], [first - 0.2, last + 0.2], color=INK, lw=2.4, transform=transform, clip_on=False)


def convergence_figure(reached: Mapping[str, Sequence[float]], look: Mapping[str, Look], what: str) -> Drawing:
    """The step at which each run reached the level of its end; NaN runs are not drawn."""
    with styled():
        figure, axes = row_axes(len(reached), 0.34)
        for y, (start, steps) in enumerate(reached.items()):
            known = [s for s in steps if not math.isnan(s)]
            axes.plot(known, [y] * len(known), look[start].marker, color=look[start].colour, ms=6, alpha=0.75, mew=0)
        name_rows(axes, [short(s) for s in reached])
        axes.set_xlim(left=0)
        axes.set_xlabel("step")
        means = (f"{s} {np.nanmean(v):.0f}" for s, v in reached.items() if not np.isnan(v).all())
        return Drawing(figure, f"{what}, step of convergence: {'; '.join(means)}")
