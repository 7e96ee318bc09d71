"""Values as JSON, the same text for the same value: for run.json, comparisons.json and the hash of a config."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import json
import math
import os
from typing import Any

import numpy as np


def canonical_json(value: Any) -> str:
    """`value` as JSON that is equal for equal values: sorted keys, no spaces, non-finite numbers as null + reason."""
    return json.dumps(jsonable(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def jsonable(value: Any) -> Any:
    """`value` made of JSON's own types.

    A number that is not finite becomes null, and the mapping that holds it says why: `reason` beside `value` (unless
    a reason stands there), else `<key>_reason`. Dataclasses, values with `to_json` or `to_dict` (ConfigDict), NumPy
    scalars and arrays, paths and tuples are taken too.
    """
    if hasattr(value, "to_dict"):  # first: a ConfigDict has a to_json too, which gives text
        return jsonable(value.to_dict())
    if hasattr(value, "to_json"):
        return jsonable(value.to_json())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return jsonable({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        out: dict[str, Any] = {}
        for key, item in value.items():
            out[str(key)] = jsonable(item)
        for key, item in value.items():
            why = _not_finite(item)
            if why:
                reason = "reason" if key == "value" else f"{key}_reason"
                out[reason] = out.get(reason) or why
        return out
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, np.generic):
        return jsonable(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, set | frozenset):
        return sorted(jsonable(v) for v in value)
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, str | bool | int):
        return value
    raise TypeError(f"{type(value).__name__} can't be written as JSON: {value!r}")


def _not_finite(item: Any) -> str:
    values = np.ravel(item).tolist() if isinstance(item, np.ndarray | list | tuple | np.generic) else [item]
    for v in values:
        if isinstance(v, float) and not math.isfinite(v):
            return "nan" if math.isnan(v) else ("inf" if v > 0 else "-inf")
    return ""
