"""One task x protocol on the page: the verdict on the first screen, and its figures and tables below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math
import re
from typing import Any

from radnet_jax.evaluation import summaries, verdicts
from radnet_jax.evaluation.comparisons import Comparison, Comparisons, Group
from radnet_jax.evaluation.ledger import Run
from radnet_jax.evaluation.report import details, figures, provenance, words
from radnet_jax.evaluation.report.style import Gallery, Look, label
from radnet_jax.evaluation.summaries import Summary
from radnet_jax.evaluation.verdicts import EQUIVALENT, REASONS, UNDEFINED, TaskVerdict, is_better, points, statement

_MAX_TOLD = 6  # comparisons on a card of the first screen; of more,
_MAX_OF_MANY = 3  # so many of the start with the highest mean
_MAX_MEANS = 6  # starts on it
_MAX_FOREST = 10  # pairs in the forest plot; of more, those of the start with the highest mean


def part(
    index: int,
    verdict: TaskVerdict,
    c: Comparisons,
    runs: Mapping[str, Run],
    look: Mapping[str, Look],
    gallery: Gallery,
    pixels: details.Pixels | None,
) -> dict[str, Any]:
    """What the page says about one task x protocol.

    Args:
      index: its number on the page.
      verdict: of it.
      c: all comparisons.
      runs: all runs, by run id.
      look: of the starts.
      gallery: takes the figures.
      pixels: gives the images of cases; None leaves every patient's pixels out.
    """
    key = (verdict.task, verdict.protocol)
    groups = [g for g in c.groups if (g.task, g.protocol) == key]
    rows = [r for r in c.rows if (r.task, r.protocol) == key]
    groups.sort(key=lambda g: (not g.compared, math.isnan(g.mean), -g.mean))
    compared = [g for g in groups if g.compared]
    name = f"{verdict.task} {verdict.protocol}"
    anchor = _anchor(verdict, rows)
    of_best = [r for r in rows if anchor in (r.a, r.b)]
    told = sorted(rows, key=lambda r: (not is_better(r), -abs(r.delta)))
    if len(told) > _MAX_TOLD:
        # The nearest rivals of the best start first: they decide the headline.
        told = sorted(of_best, key=lambda r: abs(r.delta))[:_MAX_OF_MANY]
    headline = verdict.headline.removesuffix(verdict.clause).rstrip(",; ")
    best = anchor if len(rows) > _MAX_FOREST else ""
    forest = rows
    if best:
        against_one = all(r.b == best for r in rows)  # a baseline stays where it is
        forest = [r if r.a == best or against_one else figures.turned(r) for r in of_best]
        forest.sort(key=lambda r: -r.delta if against_one else r.delta)
    members = details.judged(compared, runs)
    starts = [g.start for g in compared]
    return {
        "id": f"result-{index}",
        "task": verdict.task,
        "protocol": words.protocol(verdict.protocol),
        "metric": words.metric(verdict.metric),
        "headline": words.capital(headline),
        "clause": words.capital(verdict.clause)
        and f"{words.capital(verdict.clause)} only: {_why_only(verdict.clause)}",
        "over": _over(groups, rows),
        "n_cases": groups[0].n_cases,
        "n_patients": groups[0].n_patients,
        "groups": [_group(g) for g in groups],
        "means": [_group(g) for g in compared[:_MAX_MEANS]],
        "more_means": len(compared) - len(compared[:_MAX_MEANS]),
        "has_variants": not all(g.compared for g in groups),
        "pairs": [_pair(r) for r in rows],
        "told": [_told(r) for r in told],
        "more": len(rows) - len(told),
        "detectable": _detectable(rows),
        "cost": provenance.cost_of(groups, runs),
        "starts": gallery.show(f"{name} starts", figures.starts_figure(groups, look)),
        "forest": gallery.show(f"{name} differences", figures.forest_figure(forest, look, of=best)) if forest else None,
        "forest_of": best,
        "bars": gallery.show(f"{name} bars", figures.bars_figure(compared, look)),
        "relative": gallery.show(f"{name} relative", figures.relative_figure(rows, starts)),
        "p": gallery.show(f"{name} p", figures.p_figure(rows, starts, c.alpha)),
        "ranks": [ranks(s, look, gallery) for s in c.summaries if (s.task, s.protocol) == key],
        "classes": _with_labels(details.class_tables(members)),
        "calibration": details.calibration(members, look, gallery, name),
        "roc": details.roc(members, look, gallery, name),
        "other": _with_labels([other])[0] if (other := details.other_metrics(members)) else {},
        "worst": details.worst_cases(members[0], pixels) if members else {},
        "remarks": _remarks(groups, rows),
    }


def _over(groups: Sequence[Group], rows: Sequence[Comparison]) -> str:
    """What the intervals of the differences are over."""
    if not groups[0].n_cases:
        return "seeds"
    joint = [not math.isnan(r.p_joint) for r in rows if r.verdict != UNDEFINED]
    if not any(joint):
        return "patients"
    return "seeds and patients" if all(joint) else "patients, and seeds where they were tested"


def _anchor(verdict: TaskVerdict, rows: Sequence[Comparison]) -> str:
    """The start that many pairs are told from: the one with the highest mean, or the only one compared with."""
    common = set.intersection(*({r.a, r.b} for r in rows)) if rows else set()
    return verdict.leaders[0] if not common or verdict.leaders[0] in common else min(common)


def _with_labels(tables: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for table in tables:
        table["rows"] = [{**_group(row["group"]), "cells": row["cells"]} for row in table["rows"]]
    return tables


def _remarks(groups: Sequence[Group], rows: Sequence[Comparison]) -> list[str]:
    out = []
    why = sorted({REASONS[r.seeds_reason] for r in rows if r.seeds_reason})
    if why:
        out.append(f"Where p over seeds is “–”: {'; '.join(why)}.")
    fixed = sorted({r.fixed for r in rows if r.fixed})
    if fixed:
        out.append(
            f"The seed changes nothing in the result of {verdicts.join(fixed)}: p over seeds is that of the other "
            "start's runs against this one value."
        )
    out += [f"{label(g)}: undefined, {REASONS[g.reason]}." for g in groups if g.reason]
    out += [
        f"{label(g)}: no interval, {REASONS[g.interval_reason]}."
        for g in groups
        if g.interval_reason not in ("", "no_predictions") and not g.reason
    ]
    return out


def _detectable(rows: Sequence[Comparison]) -> str:
    """The range of the smallest detectable differences, in points; empty where there is none."""
    values = [100 * r.smallest_detectable for r in rows if not math.isnan(r.smallest_detectable)]
    if not values:
        return ""
    low, high = (f"{v:.1f}" if v < 100 else "over 100" for v in (min(values), max(values)))
    return f"{low} points" if low == high else f"{low} to {high} points"


def ranks(summary: Summary, look: Mapping[str, Look], gallery: Gallery) -> dict[str, Any]:
    """The critical-difference figure of a summary, or the reason why there is none."""
    r = summary.ranks
    drawable = r is not None and not summary.reason and not math.isnan(r.critical_difference)
    if r is None or not drawable:
        return {"figure": None, "why": summaries.REASONS[summary.reason], "unit": summary.unit}
    figure = figures.ranks_figure(r, summary.starts, look, f"{r.n_tasks} {summary.unit}")
    return {
        "figure": gallery.show(f"{summary.task} {summary.protocol} ranks", figure),
        "why": "",
        "unit": summary.unit,
        "n": r.n_tasks,
        "difference": f"{r.critical_difference:.2f}",
        "p": verdicts.p_value(r.p),
        "level": f"{100 * r.alpha:g}",
    }


def _why_only(clause: str) -> str:
    reasons = []
    if "checkpoints" in clause:
        reasons.append("a start has one pretraining run, so another run of it could differ")
    if "runs" in clause:
        reasons.append("a start has one run, so the spread of its seeds is unknown")
    return "; ".join(reasons) + "."


def _group(g: Group) -> dict[str, Any]:
    return {
        "start": g.start,
        "label": label(g),
        "compared": g.compared,
        "n": g.n,
        "mean": words.number(g.mean),
        "sd": words.number(g.sd, 2),
        "interval": words.interval(g.low, g.high),
        "mean_val": words.number(g.mean_val),
    }


def _pair(r: Comparison) -> dict[str, Any]:
    undefined = r.verdict == UNDEFINED
    relative = "–" if undefined or math.isnan(r.delta_relative) else f"{points(r.delta_relative)} %"
    return {
        "pair": f"{r.a} − {r.b}",
        "delta": "–" if math.isnan(r.delta) else points(r.delta),
        "relative": relative,
        "interval": "–" if undefined else f"{points(r.low)} to {points(r.high)}",
        "level": verdicts.level_text(r.alpha),
        "p_seeds": words.p(r.p_seeds),
        "p_patients": words.p(r.p_patients),
        "p_joint": words.p(r.p_joint),
        "p_corrected": words.p(r.p_corrected),
        "detectable": "> 100" if r.smallest_detectable >= 1 else words.number(r.smallest_detectable),
        "verdict": r.verdict,
    } | _mark(r)


def _mark(r: Comparison) -> dict[str, str]:
    """The mark of a comparison, as in the forest plot."""
    if is_better(r):
        return {"tag": "better", "winner": verdicts.better_of(r)[0]}
    return {"tag": {EQUIVALENT: "equivalent", UNDEFINED: "undefined"}.get(r.verdict, "unknown"), "winner": ""}


def _told(r: Comparison) -> dict[str, str]:
    """A comparison as a statement and the numbers it rests on."""
    what, numbers = statement(r)
    # "p < 0.001" and "98.3 %" stay on one line.
    numbers = re.sub(
        r"(?<=p) ([<=]) |(?<=\d) (?=%|points)", lambda m: f"\u00a0{m[1]}\u00a0" if m[1] else "\u00a0", numbers
    )
    return {"what": words.capital(what), "numbers": numbers} | _mark(r)
