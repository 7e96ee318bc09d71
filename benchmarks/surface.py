"""Time of the surface metrics of one volume, against MONAI and surface-distance where they are installed.

    python benchmarks/surface.py

Prints one JSON object a line for each scene (a liver with a good and with a poor outline, scattered false findings):
median seconds from the two masks of one volume to HD95 and the normalised surface Dice, of this library and of the
others, how many times longer they take, and how far the values are apart (surface-distance's surfaces are triangles, so
its values differ). Each repeat runs all of them in turn, so that a busy machine disturbs all alike.
"""

from __future__ import annotations

from collections.abc import Callable
import importlib
import json
import statistics
import time
from typing import Any
import warnings

from absl import app, flags
import numpy as np

from radnet_jax.evaluation.metrics.overlap import measure

_SHAPE = flags.DEFINE_list("shape", ["512", "512", "200"], "Voxels along each axis.")
_SPACING = flags.DEFINE_list("spacing", ["0.8", "0.8", "1.5"], "Size of a voxel along each axis, in mm.")
_TOLERANCE = flags.DEFINE_float("tolerance", 2.0, "Of the surface Dice, in mm.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Of each timing.")

Measured = tuple[float, float]  # HD95, surface Dice


def _liver(shape: tuple[int, ...], shift: float, ripple: float) -> np.ndarray:
    """An ellipsoid with a rippled surface, of a fifth to a quarter of the volume's width."""
    x, y, z = np.ogrid[tuple(slice(0, n) for n in shape)]
    a, b, c = shape
    radius = ((x - 0.49 * a - shift) / (0.22 * a)) ** 2 + ((y - 0.45 * b) / (0.18 * b)) ** 2
    radius = radius + ((z - 0.5 * c - shift / 4) / (0.35 * c)) ** 2
    inside: np.ndarray = radius + ripple * np.sin(x / 9) * np.cos(y / 7) * np.sin(z / 5) < 1
    return inside.astype(np.uint8)


def _scenes(shape: tuple[int, ...]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    truth = _liver(shape, 0, 0.05)
    scattered = _liver(shape, 2, 0.05)
    rng = np.random.default_rng(0)
    for corner in rng.integers(0, np.asarray(shape) - 6, (200, 3)):
        scattered[tuple(slice(c, c + 5) for c in corner)] = 1
    return {
        "good outline": (_liver(shape, 2, 0.06), truth),
        "poor outline": (_liver(shape, 25, 0.3), truth),
        "scattered false findings": (scattered, truth),
    }


def _ours(spacing: list[float], tolerance: float) -> Callable[[np.ndarray, np.ndarray], Measured]:
    def run(prediction: np.ndarray, truth: np.ndarray) -> Measured:
        cases = measure(prediction, truth, {"liver": (1,)}, spacing=spacing, tolerance=tolerance)
        assert cases.hd95 is not None
        assert cases.nsd is not None
        return float(cases.hd95[0, 0]), float(cases.nsd[0, 0])

    return run


def _monai(spacing: list[float], tolerance: float) -> Callable[[np.ndarray, np.ndarray], Measured]:
    metrics, torch = importlib.import_module("monai.metrics"), importlib.import_module("torch")

    def run(prediction: np.ndarray, truth: np.ndarray) -> Measured:
        p, t = (torch.from_numpy(m)[None, None] for m in (prediction, truth))
        both: dict[str, Any] = {"include_background": True, "spacing": spacing}
        far = metrics.compute_hausdorff_distance(p, t, percentile=95, **both)
        return float(far), float(metrics.compute_surface_dice(p, t, [tolerance], **both))

    return run


def _surface_distance(spacing: list[float], tolerance: float) -> Callable[[np.ndarray, np.ndarray], Measured]:
    package = importlib.import_module("surface_distance")

    def run(prediction: np.ndarray, truth: np.ndarray) -> Measured:
        found = package.compute_surface_distances(truth.astype(bool), prediction.astype(bool), spacing)
        far = package.compute_robust_hausdorff(found, 95)
        return float(far), float(package.compute_surface_dice_at_tolerance(found, tolerance))

    return run


def main(argv: list[str]) -> None:
    del argv
    warnings.simplefilter("ignore")
    shape = tuple(int(n) for n in _SHAPE.value)
    spacing = [float(s) for s in _SPACING.value]
    runs = {"radnet_jax": _ours(spacing, _TOLERANCE.value)}
    for name, make in {"monai": _monai, "surface_distance": _surface_distance}.items():
        try:
            runs[name] = make(spacing, _TOLERANCE.value)
        except ImportError:
            continue
    for scene, masks in _scenes(shape).items():
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        values: dict[str, Measured] = {}
        for _ in range(_REPEATS.value):
            for name, run in runs.items():
                began = time.perf_counter()
                values[name] = run(*masks)
                seconds[name].append(time.perf_counter() - began)
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        row: dict[str, Any] = {"benchmark": "surface", "scene": scene, "shape": list(shape), "repeats": _REPEATS.value}
        hd95, nsd = values["radnet_jax"]
        row |= {"seconds": round(medians["radnet_jax"], 3), "hd95_mm": round(hd95, 4), "nsd": round(nsd, 6)}
        for name in runs:
            if name != "radnet_jax":
                row |= {
                    f"seconds_{name}": round(medians[name], 3),
                    f"{name}_takes_times": round(medians[name] / medians["radnet_jax"], 2),
                    f"hd95_apart_{name}": round(abs(values[name][0] - hd95), 6),
                    f"nsd_apart_{name}": round(abs(values[name][1] - nsd), 6),
                }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    app.run(main)
