"""Figures of the report as inline SVG: text stays text, colours follow the page's light, dark or print scheme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import html
import io
import math
import re
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from radnet_jax.evaluation.compare import LAST_STARTS, Comparison, Group
from radnet_jax.evaluation.verdicts import EQUIVALENT, UNDEFINED, is_better

# Okabe and Ito's palette, tellable apart with any colour vision; the reference is grey. Each start keeps colour and
# marker through the whole report.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#b8860b", "#3a86c8")
MARKERS = ("o", "s", "^", "D", "v", "P")
REFERENCE = ("#6b7280", "X")
_INK, _SOFT, _RULE, _BAND, _PAPER = "#010203", "#010204", "#010205", "#010206", "#010207"
_VARIABLES = {_INK: "--ink", _SOFT: "--soft", _RULE: "--rule", _BAND: "--band", _PAPER: "--paper"}
_WIDTH = 4.4  # inches; shown at 320 to 480 px, so that the text stays readable on a phone
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "radnet_jax",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _SOFT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "text.color": _INK,
    "xtick.color": _SOFT,
    "ytick.color": _INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "axes.grid.axis": "x",
    "axes.axisbelow": True,
}


@dataclasses.dataclass(frozen=True)
class Look:
    """How a start is drawn everywhere."""

    colour: str
    marker: str
    index: str


def looks(starts: Sequence[str]) -> dict[str, Look]:
    """A fixed colour and marker for each start."""
    others = sorted(set(starts) - set(LAST_STARTS))
    out = {s: Look(PALETTE[i % 6], MARKERS[(i + i // 6) % 6], f"s{i % 6}") for i, s in enumerate(others)}
    return out | {s: Look(*REFERENCE, "ref") for s in LAST_STARTS if s in starts}


def label(group: Group) -> str:
    return f"{group.start} · {group.variant}" if group.variant else group.start


def starts_figure(groups: Sequence[Group], look: Mapping[str, Look], *, name: str) -> str:
    """Each run as a dot; the mean with its interval over patients below them. Values x 100."""
    drawn = [g for g in groups if not math.isnan(g.mean)]
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(len(drawn), 0.56)
        for y, g in enumerate(drawn):
            style = look[g.start]
            fade = 1.0 if g.compared else 0.45
            up = y - 0.16 + np.linspace(-0.07, 0.07, g.n) if g.n > 1 else [y - 0.16]
            axes.plot(100 * np.array(g.values), up, style.marker, color=style.colour, ms=4.5, alpha=0.7 * fade, mew=0)
            if not math.isnan(g.low):
                axes.plot([100 * g.low, 100 * g.high], [y + 0.14] * 2, color=style.colour, lw=2.4, alpha=fade)
            axes.plot(100 * g.mean, y + 0.14, style.marker, color=style.colour, ms=9, mec=_PAPER, mew=1.2, alpha=fade)
        _rows(axes, [label(g).replace(" · ", "\n") + ("" if g.compared else " *") for g in drawn])
        axes.set_xlabel(f"{drawn[0].metric} × 100 on test" if drawn else "")
        alt = "; ".join(f"{label(g)} {100 * g.mean:.1f} ({100 * g.low:.1f} to {100 * g.high:.1f})" for g in drawn)
        return _svg(figure, name, f"Mean and 95 % interval over patients of each start: {alt}")


def forest_figure(rows: Sequence[Comparison], look: Mapping[str, Look], *, name: str) -> str:
    """Differences between starts, in points: 95 % interval thick, interval at the corrected level thin."""
    drawn = [r for r in rows if r.verdict != UNDEFINED]
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(len(drawn), 0.5)
        if drawn:
            margin = 100 * drawn[0].margin
            axes.axvspan(-margin, margin, color=_BAND, lw=0, zorder=0)
            axes.axvline(0, color=_INK, lw=1)
        for y, r in enumerate(drawn):
            better = is_better(r)
            colour = look[r.a if r.delta > 0 else r.b].colour if better else _INK
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
                mfc=colour if better else _PAPER,
                mec=_PAPER if better else colour,
                mew=1.4,
            )
        _rows(axes, [f"{r.a} − {r.b}" for r in drawn])
        axes.set_xlabel("difference, points")
        alt = "; ".join(
            f"{r.a} minus {r.b} {100 * r.delta:+.1f} ({100 * r.low:.1f} to {100 * r.high:.1f}), {r.verdict}"
            for r in drawn
        )
        return _svg(figure, name, f"Differences between starts with intervals at the corrected level: {alt}")


def curves_figure(
    lines: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], look: Mapping[str, Look], *, name: str, what: str
) -> str:
    """Training loss by step, a line a run, in the colour of its start; the start's name stands at the lines' end."""
    with matplotlib.rc_context(_STYLE | {"axes.grid.axis": "y", "ytick.color": _SOFT}):
        figure = Figure(figsize=(_WIDTH, 2.7), layout="constrained")
        axes = figure.subplots()
        axes.grid(True)
        ends: dict[str, list[tuple[float, float]]] = {}
        for start, curve in lines:
            xy = np.array([(p["step"], p["loss"]) for p in curve if p.get("loss") is not None], float)
            if not len(xy):
                continue
            xy = xy[:: max(1, len(xy) // 250)]
            axes.plot(*xy.T, color=look[start].colour, lw=1.4, alpha=0.75)
            ends.setdefault(start, []).append(tuple(xy[-1]))
        if ends:
            x = max(p[0] for points in ends.values() for p in points)
            low, high = axes.get_ylim()
            heights = _spread(
                {s: float(np.mean([p[1] for p in points])) for s, points in ends.items()}, (high - low) / 14
            )
            for start, y in heights.items():
                axes.annotate(
                    start,
                    (x, y),
                    xytext=(5, 0),
                    textcoords="offset points",
                    color=look[start].colour,
                    va="center",
                    weight="bold",
                    annotation_clip=False,
                )
            axes.set_ylim(low, high)
        axes.set_xlabel("step")
        axes.set_ylabel("training loss")
        return _svg(figure, name, f"{what}: training loss by step of {', '.join(ends) or 'no run'}")


def _axes(rows: int, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, 0.75 + height * max(rows, 1)), layout="constrained")
    axes = figure.subplots()
    axes.grid(True)
    axes.margins(x=0.06)
    axes.locator_params(axis="x", nbins=6)
    return figure, axes


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(max(len(names), 1) - 0.45, -0.55)


def _spread(heights: Mapping[str, float], gap: float) -> dict[str, float]:
    """Heights of labels moved up where two would overlap."""
    out: dict[str, float] = {}
    last = -math.inf
    for name, height in sorted(heights.items(), key=lambda item: item[1]):
        last = max(height, last + gap)
        out[name] = last
    return out


def _svg(figure: Figure, name: str, alt: str) -> str:
    """The figure as an SVG element for the page: own ids, colours as CSS variables, no prolog and no metadata."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", text)  # several figures share one page
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    for colour, variable in _start_variables().items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r"font: ((?:bold |700 )?[\d.]+px) [^;\"]*", r"font: \1 var(--sans)", text)
    size = re.search(r'viewBox="([^"]+)"', text)
    assert size is not None
    opening = f'<svg viewBox="{size[1]}" role="img" aria-label="{html.escape(alt)}" class="figure"'
    opening += ' xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    return re.sub(r"<svg[^>]*>", lambda _: opening, text, count=1)


def _start_variables() -> dict[str, str]:
    return {colour: f"--s{i}" for i, colour in enumerate(PALETTE)} | {REFERENCE[0]: "--ref"}
