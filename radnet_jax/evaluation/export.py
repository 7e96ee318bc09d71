"""Comparisons as tables for other programs: CSV with a row for each pair, and LaTeX for a paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import csv
import json
import math
from pathlib import Path
from typing import Any

from radnet_jax.evaluation.canonical import jsonable
from radnet_jax.evaluation.comparisons import Comparison, Comparisons
from radnet_jax.evaluation.verdicts import EQUIVALENT, NOT_ENOUGH, UNDEFINED, better_of, level_text, p_value

# fmt: off
COLUMNS = (
    "experiment", "task", "variant", "metric", "a", "b", "n_a", "n_b", "mean_a", "mean_b", "delta", "delta_relative",
    "t", "df", "p", "p_corrected", "low", "high", "effect_size", "smallest_detectable", "verdict",
    "role", "level", "p_one_sided", "p_seeds", "p_patients", "clause", "reason",
)
# fmt: on
_LATEX = {c: "\\" + c for c in "&%$#_{}"} | {
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def write_csv(path: str | Path, by_role: Mapping[str, Sequence[Comparison]]) -> Path:
    """Writes a row for each experiment x task x variant x metric x pair; an undefined number is an empty cell.

    Args:
      path: the file.
      by_role: comparisons by what they are for: "primary", "exploratory", "published".
    """
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for role, rows in by_role.items():
            writer.writerows(_cells(row, role) for row in rows)
    return Path(path)


def _cells(row: Comparison, role: str) -> dict[str, Any]:
    one_sided = math.nan if math.isnan(row.t) else row.p_seeds / 2 if row.t > 0 else 1 - row.p_seeds / 2
    more = {"experiment": row.protocol, "role": role, "level": 1 - row.alpha, "p_one_sided": one_sided}
    values = {c: more[c] if c in more else getattr(row, c) for c in COLUMNS}
    values["reason"] = row.reason or row.seeds_reason
    return {c: _text(v) if isinstance(v, float) else v for c, v in values.items()}


def _text(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.12g}"


def write_json(path: str | Path, comparisons: Comparisons, **more: Sequence[Comparison]) -> Path:
    """Writes comparisons.json with further lists of comparisons that no verdict rests on, by role."""
    document = comparisons.to_json() | {role: jsonable(rows) for role, rows in more.items()}
    Path(path).write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    return Path(path)


def write_latex(path: str | Path, comparisons: Comparisons) -> Path:
    """Writes the judged comparisons as a table for LaTeX, no wider than the line; differences in points of 0.01."""
    lines = [
        "% needs \\usepackage{booktabs,graphicx}",
        "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%",
        "\\begin{tabular}{lllrrrll}",
        "\\toprule",
        "Task & Metric & Pair & Means $\\times$ 100 & Difference & Interval & $p$, corrected & Verdict \\\\",
        "\\midrule",
    ]
    previous = None
    for r in comparisons.rows:
        task = " ".join(filter(None, (r.protocol, r.task, r.variant)))
        if previous not in (None, task):
            lines.append("\\addlinespace")
        named = (task, r.metric) if previous != task else ("", "")
        previous = task
        cells = [*map(latex, named), f"{latex(r.a)} $-$ {latex(r.b)}", *_numbers(r), latex(_verdict(r))]
        lines.append(" & ".join(cells) + " \\\\")
    lines += ["\\bottomrule", "\\end{tabular}}"]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Path(path)


def _numbers(r: Comparison) -> list[str]:
    means = " / ".join("--" if math.isnan(m) else f"{100 * m:.1f}" for m in (r.mean_a, r.mean_b))
    if r.verdict == UNDEFINED:
        return [means, "--", "--", "--"]
    interval = f"${100 * r.low:+.1f}$ to ${100 * r.high:+.1f}$ ({level_text(r.alpha)})".replace("%", "\\%")
    p = p_value(r.p_corrected).removeprefix("p ").removeprefix("= ").replace("<", "$<$")
    return [means, f"${100 * r.delta:+.1f}$", interval, p]


def _verdict(r: Comparison) -> str:
    return r.verdict if r.verdict in (EQUIVALENT, NOT_ENOUGH, UNDEFINED) else f"{better_of(r)[0]} is better"


def latex(text: str) -> str:
    """Any text as LaTeX shows it."""
    return "".join(_LATEX.get(c, c) for c in text)
