"""How a start is drawn everywhere, and a matplotlib figure as SVG: inline for the page and as a file of its own."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import html
import io
import re
from typing import Any

from markupsafe import Markup
import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from radnet_jax.evaluation.comparisons import Group, is_reference

# Okabe and Ito's palette, tellable apart with any colour vision; the reference is grey. Each start keeps colour and
# marker through the whole report.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#b8860b", "#3a86c8")
MARKERS = ("o", "s", "^", "D", "v", "P")
REFERENCE = ("#6b7280", "X")
INK, SOFT, RULE, BAND, PAPER = "#010203", "#010204", "#010205", "#010206", "#010207"
# The page's variables, and what a file of its own has instead: the light scheme.
_VARIABLES = {
    INK: ("--ink", "#16181d"),
    SOFT: ("--soft", "#545b66"),
    RULE: ("--rule", "#dfe3e8"),
    BAND: ("--band", "#eceff2"),
    PAPER: ("--paper", "#ffffff"),
}
WIDTH = 4.4  # inches; shown at 320 to 480 px, so that the text stays readable on a phone
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "radnet_jax",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.edgecolor": RULE,
    "axes.labelcolor": SOFT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "axes.grid.axis": "x",
    "axes.axisbelow": True,
}
LINES = STYLE | {"axes.grid.axis": "y", "ytick.color": SOFT}


@dataclasses.dataclass(frozen=True)
class Look:
    """How a start is drawn everywhere."""

    colour: str
    marker: str
    index: str


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure and what it shows in words."""

    figure: Figure
    alt: str


@dataclasses.dataclass(frozen=True)
class Shown:
    """A figure on the page.

    Attributes:
      svg: the inline element.
      href: its file, from the page's folder.
      wide: whether it needs more than the width of a phone, so that it scrolls inside its box there.
    """

    svg: Markup
    href: str
    wide: bool


class Gallery:
    """The figures of one page; `files` are to be written beside it, by their paths from its folder."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}

    def show(self, name: str, drawing: Drawing | None) -> Shown | None:
        """Takes a drawing in; None stays None. `name` is for people: a task, a protocol, what is shown."""
        if drawing is None:
            return None
        number = len(self.files) + 1
        readable = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()[:80]
        path = f"figures/{number:02d}-{readable}.svg"
        inline, alone = _svg(drawing, f"f{number}")
        self.files[path] = alone
        return Shown(Markup(inline), path, drawing.figure.get_figwidth() > 1.3 * WIDTH)


def looks(starts: Sequence[str], also: Sequence[str] = ()) -> dict[str, Look]:
    """A fixed colour and marker for each start, and for pretrainings that no start is named after."""
    references = sorted(s for s in {*starts, *also} if is_reference(s))
    others = sorted(set(starts) - set(references))
    others += sorted(set(also) - set(starts) - set(references))
    out = {s: Look(PALETTE[i % 6], MARKERS[(i + i // 6) % 6], f"s{i % 6}") for i, s in enumerate(others)}
    return out | {s: Look(*REFERENCE, "ref") for s in references}


def label(group: Group) -> str:
    return f"{group.start} · {group.variant}" if group.variant else group.start


def short(name: str, most: int = 24) -> str:
    """A name that leaves room for the figure; its whole stands in the tables."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def plain(text: str) -> str:
    """A name as matplotlib is to draw it: a dollar sign is no formula."""
    return text.replace("$", r"\$")


def styled(lines: bool = False) -> Any:
    return matplotlib.rc_context(LINES if lines else STYLE)


def row_axes(rows: int, height: float, *, width: float = WIDTH) -> tuple[Figure, Axes]:
    """A figure with a line for each of so many rows; its height follows them."""
    figure = Figure(figsize=(width, 0.75 + height * max(rows, 1)), layout="constrained")
    axes = figure.subplots()
    axes.grid(True)
    axes.margins(x=0.06)
    axes.locator_params(axis="x", nbins=6)
    return figure, axes


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [plain(n) for n in names])
    axes.set_ylim(max(len(names), 1) - 0.45, -0.55)


def _svg(drawing: Drawing, name: str) -> tuple[str, str]:
    """The figure for the page (own ids, colours as CSS variables, no prolog) and for a file."""
    buffer = io.StringIO()
    with styled():  # text stays text
        drawing.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|\s*<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL)
    size = re.search(r'viewBox="([^"]+)"', text)
    assert size is not None
    alt = html.escape(drawing.alt)
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'

    alone = re.sub(r"font: ((?:bold |700 )?[\d.]+px) [^;\"]*", r"font: \1 Arial, Helvetica, sans-serif", text)
    for colour, (_, light) in _VARIABLES.items():
        alone = alone.replace(colour, light)
    width, height = (float(x) for x in size[1].split()[2:])
    head = f'<svg {namespaces} viewBox="{size[1]}" width="{width:g}pt" height="{height:g}pt">\n<title>{alt}</title>\n'
    head += '<rect width="100%" height="100%" fill="#ffffff"/>'
    alone = '<?xml version="1.0" encoding="utf-8"?>\n' + re.sub(r"<svg[^>]*>", lambda _: head, alone, count=1)

    inline = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", text)  # several figures share one page
    for colour, (variable, _) in _VARIABLES.items():
        inline = inline.replace(colour, f"var({variable})")
    for colour, variable in _start_variables().items():
        inline = inline.replace(colour, f"var({variable})")
    inline = re.sub(r"font: ((?:bold |700 )?[\d.]+px) [^;\"]*", r"font: \1 var(--sans)", inline)
    opening = f'<svg viewBox="{size[1]}" role="img" aria-label="{alt}" class="figure" {namespaces}>'
    return re.sub(r"<svg[^>]*>", lambda _: opening, inline, count=1), alone


def _start_variables() -> dict[str, str]:
    return {colour: f"--s{i}" for i, colour in enumerate(PALETTE)} | {REFERENCE[0]: "--ref"}
