"""Macroscopic properties of an image, each a number that follows from its pixels or its place in the scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float, Int, Num
import numpy as np
import pyarrow as pa

from radnet_jax.data.dataset import Split

_BODY = -500.0  # HU above which a pixel is of the body, not of the air around or inside it
_SHARES = {  # of all pixels, by HU
    "air_share": (-np.inf, -800.0),
    "soft_tissue_share": (-100.0, 130.0),
    "enhanced_share": (130.0, 300.0),  # vessels filled with contrast agent, a proxy of its phase; and spongy bone
    "bone_share": (300.0, np.inf),
}


def of_image(image: Num[np.ndarray, "h w c"], *, unit: str) -> dict[str, float]:
    """Returns the properties of one stored image; channels are averaged.

    Of all images:
      mean: of the pixels, as stored; of CT that of the body in HU (NaN where there is none).
      spread: their standard deviation, likewise.
      sharpness: log10 of the mean squared Laplacian by the variance of the pixels; of CT it follows the reconstruction
        kernel, and noise.
      high_frequencies: share of the spectral power (without the mean) above half of the highest frequency.
      edges_along: how much stronger edges along the rows are than those along the columns, in [-1, 1].
      oriented: how far all edges run in one direction, in [0, 1]: the coherence of the mean structure tensor.
    Of CT also the shares of pixels that are air, soft tissue, enhanced, or bone, and `body_share`.

    Args:
      image: at least 4 x 4 pixels.
      unit: of `StoredPixels`: "HU" or "none".
    """
    x = np.asarray(image, np.float64).mean(axis=2)
    out: dict[str, float] = {}
    seen = x[x > _BODY] if unit == "HU" else x.ravel()
    out["mean"] = float(seen.mean()) if seen.size else float("nan")
    out["spread"] = float(seen.std()) if seen.size else float("nan")
    if unit == "HU":
        out |= {name: float(np.mean((low <= x) & (x < high))) for name, (low, high) in _SHARES.items()}
        out["body_share"] = float(np.mean(x > _BODY))
    return out | _texture(x)


def of_split(split: Split, rows: Int[np.ndarray, " m"]) -> dict[str, Float[np.ndarray, " m"]]:
    """Returns the properties of some records, and their `position` in the scan and labels where the dataset has them.

    `position` is 0 for the first slice of a series in the dataset and 1 for its last. Labels are 0 or 1, "label NAME";
    NaN where unknown. Of two classes, which say the same, the second.
    """
    found = [of_image(split[int(row)]["image"], unit=split.card.stored.unit) for row in rows]
    out = {name: np.array([f[name] for f in found]) for name in found[0]}
    position = _positions(split.manifest())
    if position is not None:
        out["position"] = position[rows]
    labels, mask = (values[rows] for values in split.all_labels())
    two_classes = split.card.task == "single_label" and len(split.card.labels) == 2
    for k, name in list(enumerate(split.card.labels))[1 if two_classes else 0 :]:
        out[f"label {name}"] = np.where(mask[:, k] > 0, labels[:, k], np.nan)
    return out


def usable(properties: Mapping[str, Float[np.ndarray, " m"]], *, least: int) -> dict[str, Float[np.ndarray, " m"]]:
    """Returns those properties that are known of at least so many images and not the same for all."""
    return {k: v for k, v in properties.items() if np.isfinite(v).sum() >= least and np.ptp(v[np.isfinite(v)]) > 0}


def _texture(x: Float[np.ndarray, "h w"]) -> dict[str, float]:
    variance = float(x.var())
    if not variance > 0:
        return dict.fromkeys(("sharpness", "high_frequencies", "edges_along", "oriented"), float("nan"))
    laplacian = 4 * x[1:-1, 1:-1] - x[:-2, 1:-1] - x[2:, 1:-1] - x[1:-1, :-2] - x[1:-1, 2:]
    rough = float(np.mean(laplacian**2)) / variance
    power = np.abs(np.fft.fft2(x - x.mean())) ** 2
    frequency = np.maximum(*np.meshgrid(*(np.abs(np.fft.fftfreq(n)) for n in x.shape), indexing="ij"))
    down, across = np.gradient(x)
    xx, yy, xy = (float(np.mean(a * b)) for a, b in ((across, across), (down, down), (across, down)))
    total = xx + yy
    return {
        "sharpness": float(np.log10(rough)) if rough > 0 else float("nan"),
        "high_frequencies": float(power[frequency >= 0.25].sum() / power.sum()),
        "edges_along": (yy - xx) / total if total else float("nan"),
        "oriented": float(np.hypot(xx - yy, 2 * xy) / total) if total else float("nan"),
    }


def _positions(manifest: pa.Table) -> Float[np.ndarray, " n"] | None:
    if not {"series", "slice"} <= set(manifest.column_names):
        return None
    series, number = (manifest[name].to_pylist() for name in ("series", "slice"))
    slices: dict[Any, list[Any]] = {}
    for name, value in zip(series, number):
        slices.setdefault(name, []).append(value)
    return np.array([_place(slices[name], value) for name, value in zip(series, number)])


def _place(numbers: Sequence[Any], value: Any) -> float:
    if value is None or len(set(numbers)) < 2 or None in numbers:
        return float("nan")
    ordered = sorted(set(numbers))
    return ordered.index(value) / (len(ordered) - 1)
