"""The report of a study: one HTML file that works offline, and comparisons.json beside it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
import importlib.resources
import math
import os
from pathlib import Path
import re
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

import radnet_jax
from radnet_jax.errors import UserError
from radnet_jax.evaluation import figures, verdicts
from radnet_jax.evaluation.compare import Comparison, Comparisons, Group
from radnet_jax.evaluation.ledger import RUN_FILE, Run
from radnet_jax.evaluation.verdicts import EQUIVALENT, REASONS, UNDEFINED, TaskVerdict, evidence, is_better, points

REPORT_FILE = "index.html"
COMPARISONS_FILE = "comparisons.json"
_PROTOCOLS = {"fine_tune": "fine-tuning", "linear_probe": "linear probe", "knn": "nearest neighbours"}
_KINDS = {
    "pretrain": "pretraining",
    "finetune": "fine-tuning",
    "linear_probe": "linear probe",
    "knn": "nearest neighbours",
    "foreign": "another program's",
}
_MAX_TOLD = 6  # comparisons on a card of the first screen; of more, those of the start with the highest mean
_METRICS = {"accuracy": "accuracy", "auroc": "AUROC"}


def write_report(
    out_dir: str | Path,
    *,
    title: str,
    comparisons: Comparisons,
    runs: Sequence[Run],
    examples: Sequence[tuple[str, str | Path]] = (),
    warnings: Sequence[str] = (),
) -> Path:
    """Writes index.html and comparisons.json into `out_dir`.

    Args:
      out_dir: made if need be.
      title: name of the study.
      comparisons: what `compare` returned for these runs.
      runs: all runs of the study, pretraining too: curves, cost, datasets and provenance come from them.
      examples: (caption, PNG) of the data as the model sees them; empty to leave every patient's pixels out.
      warnings: sentences for the first screen, above the verdict. That images are generated (`generated` in a run's
        dataset), that patients are few and that a level is out of reach is said without being asked to.

    Returns:
      The path of index.html.
    """
    out_dir = Path(out_dir)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("radnet_jax.evaluation", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("report.html.j2").render(
        _context(out_dir, title, comparisons, runs, examples, warnings)
    )
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        comparisons.write(out_dir / COMPARISONS_FILE)
        temporary = out_dir / f".{REPORT_FILE}.tmp"
        temporary.write_text(page, encoding="utf-8")
        os.replace(temporary, out_dir / REPORT_FILE)
    except OSError as error:
        raise UserError(
            f"can't write the report to {out_dir} ({error})", fix="free disk space or choose another workdir"
        ) from error
    return out_dir / REPORT_FILE


def _context(
    out_dir: Path,
    title: str,
    comparisons: Comparisons,
    runs: Sequence[Run],
    examples: Sequence[tuple[str, str | Path]],
    warnings: Sequence[str],
) -> dict[str, Any]:
    starts = [r.start for r in runs if r.record.get("start")]
    look = figures.looks([*starts, *(g.start for g in comparisons.groups)])
    css = importlib.resources.files("radnet_jax.evaluation").joinpath("templates", "report.css").read_text("utf-8")
    generated = sorted({r.dataset["name"] for r in runs if r.dataset.get("generated")})
    own = (
        [f"The images of {verdicts.join(generated)} are generated: the verdict is about no patients."]
        if generated
        else []
    )
    return {
        "title": title,
        "css": Markup(css),
        "look": look,
        "summary": _summary(comparisons, runs),
        "warnings": [*own, *warnings, *comparisons.notes],
        "parts": [_part(i, v, comparisons, look) for i, v in enumerate(comparisons.verdicts)],
        "cost": _cost(runs),
        "devices": verdicts.join(sorted({r.topology["device_kind"] for r in _own(runs)}) or ["no device"]),
        "curves": _curves(runs, look),
        "examples": [{"caption": c, "data": base64.b64encode(Path(p).read_bytes()).decode()} for c, p in examples],
        "margin": f"{100 * comparisons.margin:g}",
        "n_resamples": f"{comparisons.n_resamples:,}",
        "family_text": _family_text(comparisons),
        "limits": _limits(comparisons),
        "settings": _settings(comparisons, runs),
        "datasets": _datasets(runs),
        "runs": [_run(r, out_dir) for r in runs],
        "version": radnet_jax.__version__,
    }


def _summary(c: Comparisons, runs: Sequence[Run]) -> str:
    n_starts = len({g.start for g in c.groups})
    n_tasks, n_protocols = len({g.task for g in c.groups}), len({g.protocol for g in c.groups})
    return (
        f"Which pretraining is best, by how much, how sure? {_count(n_starts, 'start')}, {_count(n_tasks, 'task')}, "
        f"{_count(n_protocols, 'protocol')}, {_count(len(runs), 'run')}; {_count(c.family_size, 'comparison')} "
        f"corrected together at a family-wise error of {100 * c.alpha:g} %."
    )


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _number(value: float, digits: int = 1, *, factor: float = 100) -> str:
    return "–" if math.isnan(value) else f"{factor * value:.{digits}f}"


def _p(p: float) -> str:
    return "–" if math.isnan(p) else verdicts.p_value(p).removeprefix("p = ").removeprefix("p ")


def _part(index: int, verdict: TaskVerdict, c: Comparisons, look: Mapping[str, figures.Look]) -> dict[str, Any]:
    """What the page says about one task x protocol."""
    key = (verdict.task, verdict.protocol)
    groups = [g for g in c.groups if (g.task, g.protocol) == key]
    rows = [r for r in c.rows if (r.task, r.protocol) == key]
    groups.sort(key=lambda g: (not g.compared, math.isnan(g.mean), -g.mean))
    name = f"f{index}"
    remarks = []
    why = sorted({REASONS[r.seeds_reason] for r in rows if r.seeds_reason})
    if why:
        remarks.append(f"Where p over seeds is “–”: {'; '.join(why)}.")
    fixed = sorted({r.fixed for r in rows if r.fixed})
    if fixed:
        remarks.append(
            f"The seed changes nothing in the result of {verdicts.join(fixed)}: p over seeds is that of the other "
            "start's runs against this one value."
        )
    remarks += [f"{figures.label(g)}: undefined, {REASONS[g.reason]}." for g in groups if g.reason]
    remarks += [
        f"{figures.label(g)}: no interval, {REASONS[g.interval_reason]}."
        for g in groups
        if g.interval_reason and not g.reason
    ]
    told = sorted(rows, key=lambda r: (not is_better(r), -abs(r.delta)))
    if len(told) > _MAX_TOLD:
        told = [r for r in told if verdict.leaders[0] in (r.a, r.b)]
    restricted = f", {verdict.clause}" if verdict.clause else ""
    return {
        "id": f"result-{index}",
        "task": verdict.task,
        "protocol": _PROTOCOLS.get(verdict.protocol, verdict.protocol.replace("_", " ")),
        "metric": _METRICS.get(verdict.metric, verdict.metric),
        "headline": _capital(verdict.headline.removesuffix(restricted)),
        "clause": _capital(verdict.clause) and f"{_capital(verdict.clause)} only: {_why_only(verdict.clause)}",
        "n_cases": groups[0].n_cases,
        "n_patients": groups[0].n_patients,
        "groups": [_group(g) for g in groups],
        "compared": [_group(g) for g in groups if g.compared],
        "has_variants": not all(g.compared for g in groups),
        "pairs": [_pair(r) for r in rows],
        "told": [_told(r) for r in told],
        "more": len(rows) - len(told),
        "starts_svg": Markup(figures.starts_figure(groups, look, name=f"{name}a")),
        "forest_svg": Markup(figures.forest_figure(rows, look, name=f"{name}b")) if rows else "",
        "remarks": remarks,
    }


def _capital(text: str) -> str:
    # Only where the sentence begins with a word of ours: a start's name stays as the user wrote it.
    return text[:1].upper() + text[1:] if text.startswith(("for ", "not ", "only ", "the ")) else text


def _why_only(clause: str) -> str:
    reasons = []
    if "checkpoints" in clause:
        reasons.append("a start has one pretraining run, so another run of it could differ")
    if "runs" in clause:
        reasons.append("a start has one run, so the spread of its seeds is unknown")
    return "; ".join(reasons) + "."


def _group(g: Group) -> dict[str, Any]:
    interval = "–" if math.isnan(g.low) else f"{_number(g.low)} to {_number(g.high)}"
    return {
        "start": g.start,
        "label": figures.label(g),
        "compared": g.compared,
        "n": g.n,
        "mean": _number(g.mean),
        "sd": _number(g.sd, 2),
        "interval": interval,
        "mean_val": _number(g.mean_val),
    }


def _pair(r: Comparison) -> dict[str, Any]:
    undefined = r.verdict == UNDEFINED
    return {
        "pair": f"{r.a} − {r.b}",
        "delta": "–" if math.isnan(r.delta) else points(r.delta),
        "interval": "–" if undefined else f"{points(r.low)} to {points(r.high)}",
        "level": verdicts.level_text(r.alpha),
        "p_seeds": _p(r.p_seeds),
        "p_patients": _p(r.p_patients),
        "p_corrected": _p(r.p_corrected),
        "detectable": _number(r.smallest_detectable),
        "verdict": r.verdict,
    } | _mark(r)


def _mark(r: Comparison) -> dict[str, str]:
    """The mark of a comparison, as in the forest plot."""
    if is_better(r):
        return {"tag": "better", "winner": verdicts.better_of(r)[0]}
    return {"tag": {EQUIVALENT: "equivalent", UNDEFINED: "undefined"}.get(r.verdict, "unknown"), "winner": ""}


def _told(r: Comparison) -> dict[str, str]:
    """A comparison as a statement and the numbers it rests on."""
    if r.verdict == UNDEFINED:
        return {"what": f"{r.a} and {r.b} can't be compared", "numbers": REASONS[r.reason]} | _mark(r)
    what, _, numbers = evidence(r).partition(" (")
    # "p < 0.001" and "98.3 %" stay on one line.
    numbers = re.sub(
        r"(?<=p) ([<=]) |(?<=\d) (?=%|points)", lambda m: f"\u00a0{m[1]}\u00a0" if m[1] else "\u00a0", numbers
    )
    return {"what": _capital(what), "numbers": numbers.removesuffix(")")} | _mark(r)


def _seconds(seconds: float) -> str:
    return f"{seconds:,.1f}" if seconds < 100 else f"{seconds:,.0f}"


def _cost(runs: Sequence[Run]) -> list[dict[str, Any]]:
    spent: dict[str, list[float]] = {}
    for run in _own(runs):
        spent.setdefault(_KINDS[run.kind], []).append(run.timings["total_s"] * run.topology["devices"])
    rows = [
        {"kind": kind, "n": len(s), "total": _seconds(sum(s)), "each": _seconds(sum(s) / len(s))}
        for kind, s in sorted(spent.items(), key=lambda item: list(_KINDS.values()).index(item[0]))
    ]
    if not rows:
        return []
    everything = [x for s in spent.values() for x in s]
    return [*rows, {"kind": "all", "n": len(everything), "total": _seconds(sum(everything)), "each": ""}]


def _own(runs: Sequence[Run]) -> list[Run]:
    """The runs whose machine and cost are known: not those of another program."""
    return [r for r in runs if r.kind != "foreign"]


def _curves(runs: Sequence[Run], look: Mapping[str, figures.Look]) -> list[dict[str, Any]]:
    """One figure for the pretrainings and one for each task x protocol that was trained."""
    lines: dict[str, list[tuple[str, Sequence[Mapping[str, Any]]]]] = {}
    for run in sorted(runs, key=lambda r: r.judged):
        curve = [p for p in run.curves if p.get("loss") is not None]
        if curve and run.record.get("start"):
            protocol = _PROTOCOLS.get(run.record.get("protocol", ""), run.record.get("protocol", ""))
            title = f"{run.task}, {protocol}" if run.judged else "Pretraining"
            lines.setdefault(title, []).append((run.start, curve))
    return [
        {"title": title, "svg": Markup(figures.curves_figure(of, look, name=f"c{i}", what=title))}
        for i, (title, of) in enumerate(lines.items())
    ]


def _family_text(c: Comparisons) -> str:
    if c.family_size == 0:
        return "There was nothing to correct: no pair of starts could be compared."
    return (
        f"All {_count(c.family_size, 'comparison')} of this report, over every pair of starts, task and protocol, are "
        f"one family: Holm's procedure keeps the chance of even one false “better” below {100 * c.alpha:g} %."
    )


def _limits(c: Comparisons) -> list[str]:
    out = ["Each task has one test split of one data set: other hospitals, scanners and label rules are not in it."]
    if any("checkpoints" in v.clause for v in c.verdicts):
        out.append(
            "A start with one pretraining run is judged as that checkpoint. To tell the merit of its data from luck "
            "takes several pretraining seeds."
        )
    out.append("All starts share the hyperparameters of a protocol; a start that wants others is not given them.")
    few = min((g.n for g in c.groups if g.seed_varies), default=0)
    if 0 < few < 6:
        out.append(
            f"With {_count(few, 'seed')} in a group only large differences show over seeds; six or more are better."
        )
    out.append("A small p is no large effect: read the difference and its interval.")
    return out


def _settings(c: Comparisons, runs: Sequence[Run]) -> list[tuple[str, str]]:
    codes = {(r.code["version"], r.code["commit"], r.code["dirty"], r.code["source"]) for r in runs}
    told = []
    for version, commit, dirty, source in sorted(codes, key=str):
        state = f"commit {commit[:12]}{' with changes' if dirty else ''}" if commit else "no git commit"
        told.append(f"radnet_jax {version}, {state}, source {source}")
    versions: dict[str, set[str]] = {}
    for run in runs:
        for name, version in run.versions.items():
            versions.setdefault(name, set()).add(str(version))
    topologies = {f"{_count(r.topology['devices'], 'device')} ({r.topology['device_kind']})" for r in _own(runs)}
    return [
        ("Comparison", f"alpha {c.alpha:g}, margin {c.margin:g}, {c.n_resamples:,} resamples, seed {c.seed}"),
        ("Code", "; ".join(told)),
        ("Machine", "; ".join(sorted(topologies)) or "not known"),
        (
            "Versions",
            ", ".join(f"{name} {' / '.join(sorted(v))}" for name, v in sorted(versions.items())) or "not known",
        ),
    ]


def _datasets(runs: Sequence[Run]) -> list[dict[str, str]]:
    seen: dict[str, dict[str, str]] = {}
    for run in runs:
        d = run.dataset
        splits = ", ".join(f"{name} {n:,}" for name, n in d.get("splits", {}).items())
        seen.setdefault(
            d["fingerprint"], {"name": d["name"], "fingerprint": d["fingerprint"][:16], "splits": splits or "–"}
        )
    return sorted(seen.values(), key=lambda d: d["name"])


def _run(run: Run, out_dir: Path) -> dict[str, Any]:
    value = "–"
    if run.judged:
        metric = run.metrics.get("test", {}).get(run.primary_metric)
        if metric is not None and metric["value"] is not None:
            value = _number(metric["value"])
    relative = Path(os.path.relpath(run.folder.resolve(), out_dir.resolve())).as_posix()
    return {
        "name": run.name,
        "href": f"{quote(re.sub(r'/$', '', relative))}/{RUN_FILE}",
        "kind": _KINDS[run.kind],
        "seed": run.seed,
        "value": value,
        "seconds": "–" if run.kind == "foreign" else _seconds(run.timings["total_s"]),
        "run_id": run.run_id,
    }
