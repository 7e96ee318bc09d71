"""The drawings of an analysis: layer by layer maps, and curves over layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math

from jaxtyping import Float, PyTree
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
import numpy as np

from radnet_jax.evaluation.report.style import (
    INK,
    MARKERS,
    PALETTE,
    PAPER,
    REFERENCE,
    WIDTH,
    Drawing,
    name_rows,
    plain,
    row_axes,
    short,
    styled,
)

_NUMBERED = 12  # layers of a side up to which the cells have numbers


def map_figure(values: Sequence[Sequence[float | None]], rows: Sequence[str], columns: Sequence[str],
               names: tuple[str, str]) -> Drawing:  # fmt: skip
    """CKA of each layer of one network (rows) with each of another (columns): the darker, the more alike."""
    cells = np.array([[math.nan if v is None else v for v in row] for row in values])
    with styled():
        cell = min(0.42, 5.2 / max(len(rows), len(columns)))
        size = (max(WIDTH, 1.6 + cell * len(columns)), 1.3 + cell * len(rows))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        for (y, x), value in np.ndenumerate(cells):
            shade = 0.0 if math.isnan(value) else float(np.clip(value, 0, 1))
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, color=PALETTE[0], alpha=0.85 * shade, lw=0))
            if max(cells.shape) <= _NUMBERED:
                text = "–" if math.isnan(value) else f"{value:.2f}".replace("-", "−")
                axes.text(x, y, text, ha="center", va="center", fontsize=7.5, color=PAPER if shade > 0.6 else INK)
        axes.set_xticks(range(len(columns)), [plain(c) for c in columns], rotation=90)
        axes.set_yticks(range(len(rows)), [plain(r) for r in rows])
        axes.tick_params(labelcolor=INK, labelsize=7.5)
        axes.set_xlabel(plain(short(names[1])))
        axes.set_ylabel(plain(short(names[0])))
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.spines[:].set_visible(False)
        axes.grid(False)
        return Drawing(figure, f"CKA of {len(rows)} by {len(columns)} layers, from {_range(cells)}")


Series = Mapping[str, Sequence[Mapping[str, tuple[float, float, float]]]]
"""By name, the pairs or networks of that kind; of each, by layer, a value with its interval."""


def layers_figure(series: Series, what: str) -> Drawing:
    """A row for each layer, and in it a line for each kind: a mark for each value, the first one's interval.

    NaN is not drawn. What numbers are to be held against (its name has "random" in it) is grey.
    """
    layers = list(next(iter(series.values()))[0])
    with styled():
        figure, axes = row_axes(len(layers), 0.2 + 0.09 * len(series))
        for i, (name, found) in enumerate(series.items()):
            colour, marker = REFERENCE if "random" in name else (PALETTE[i % 6], MARKERS[i % 6])
            up = 0.5 * ((i + 0.5) / len(series) - 0.5)
            for y, layer in enumerate(layers):
                _, low, high = found[0][layer]
                if not math.isnan(low):
                    axes.plot([low, high], [y + up] * 2, color=colour, lw=2)
                values = [one[layer][0] for one in found if not math.isnan(one[layer][0])]
                label = plain(name) if y == 0 else None
                axes.plot(values, [y + up] * len(values), marker, color=colour, ms=5.5, mec=PAPER, mew=0.8, label=label)
        name_rows(axes, layers)
        axes.set_xlabel(what)
        if len(series) > 1:
            axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, labelcolor=INK)
        alt = "; ".join(f"{n}: {_range(np.array([v[0] for v in s[0].values()]))}" for n, s in series.items())
        return Drawing(figure, f"{what} of {len(layers)} layers. {alt}")


def pca_figure(points: np.ndarray, groups: Sequence[str], share: tuple[float, float]) -> Drawing:
    """Images on the two directions of largest variance, coloured by what they are; at most six colours.

    Args:
      points: [m 2].
      groups: what each image is; "" for what has no name.
      share: of the variance that the two directions hold.
    """
    names = sorted({g for g in groups if g})
    with styled():
        figure = Figure(figsize=(WIDTH, WIDTH), layout="constrained")
        axes = figure.subplots()
        axes.grid(False)
        for i, name in enumerate([*names, ""]):
            chosen = points[[g == name for g in groups]]
            colour = PALETTE[i % 6] if name else REFERENCE[0]
            marker = MARKERS[(i + i // 6) % 6] if name else REFERENCE[1]
            if len(chosen):
                label = plain(short(name)) if name else "not known"
                axes.plot(*chosen.T, marker, color=colour, ms=3.6, mew=0, alpha=0.7, label=label)
        axes.set_xlabel(f"first direction, {100 * share[0]:.0f} % of the variance")
        axes.set_ylabel(f"second direction, {100 * share[1]:.0f} %")
        axes.set_yticks([])
        axes.set_xticks([])
        if names:
            axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, labelcolor=INK)
        said = ", ".join(names) or "without labels"
        return Drawing(figure, f"{len(points)} images on two directions that hold {100 * sum(share):.0f} %: {said}")


def spectrum_figure(spectra: Mapping[str, Sequence[float]]) -> Drawing:
    """The share of the variance by direction, both logarithmic: the flatter, the more directions are used."""
    with styled(lines=True):
        figure = Figure(figsize=(WIDTH, 0.8 * WIDTH), layout="constrained")
        axes = figure.subplots()
        least = 1e-6
        for i, (name, shares) in enumerate(spectra.items()):
            kept = np.array([v for v in shares if v > least])
            colour = REFERENCE[0] if "random" in name else PALETTE[i % 6]
            axes.plot(np.arange(1, len(kept) + 1), kept, color=colour, lw=2, label=plain(name),
                      ls="--" if "random" in name else ("-", "-.")[i % 2])  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("direction, by its variance")
        axes.set_ylabel("share of the variance")
        axes.legend(frameon=False, loc="lower left", labelcolor=INK)
        told = "; ".join(f"{n}: the first holds {100 * s[0]:.0f} %" for n, s in spectra.items() if len(s))
        return Drawing(figure, f"Share of the variance by direction. {told}")


def first_layer(params: PyTree) -> Float[np.ndarray, "h w 3 o"] | None:
    """Returns the filters of the first layer, where it is a convolution of images of 1 or 3 channels."""
    for layer in ("stem_conv", "patch_embed"):
        if layer in params and (kernel := np.asarray(params[layer]["kernel"])).shape[2] in (1, 3):
            return np.repeat(kernel, 3 // kernel.shape[2], axis=2)
    return None


def filters_figure(kernels: np.ndarray) -> Drawing:
    """The first layer's filters [h w 3 o], each scaled to its own range around 0 (mid-grey); at most 64."""
    kernels = kernels[..., :64]
    count = kernels.shape[-1]
    columns = min(8, count)
    rows = -(-count // columns)
    with styled():
        figure = Figure(figsize=(WIDTH, WIDTH * rows / columns + 0.1), layout="constrained")
        for i, axes in enumerate(np.ravel(figure.subplots(rows, columns, squeeze=False))):
            axes.axis("off")
            if i < count:
                kernel = kernels[..., i]
                axes.imshow(0.5 + 0.5 * kernel / max(float(np.abs(kernel).max()), 1e-12), interpolation="nearest")
        return Drawing(figure, f"{count} filters of the first layer, {kernels.shape[0]} x {kernels.shape[1]} pixels")


def _range(values: np.ndarray) -> str:
    if np.isnan(values).all():
        return "no value"
    return f"{np.nanmin(values):.2f} to {np.nanmax(values):.2f}"
