"""What the page says as a whole, and the files that are written."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
import math
from pathlib import Path
from typing import Any

from markupsafe import Markup

import radnet_jax
from radnet_jax import pages
from radnet_jax.errors import UserError
from radnet_jax.evaluation import published, verdicts
from radnet_jax.evaluation.comparisons import Comparisons
from radnet_jax.evaluation.ledger import Run, setting_of
from radnet_jax.evaluation.report import card, details, figures, lines, provenance, reading, words
from radnet_jax.evaluation.report.style import Gallery, Look, looks
from radnet_jax.evaluation.summaries import Summary

REPORT_FILE = pages.PAGE_FILE
COMPARISONS_FILE = "comparisons.json"


def write_report(
    out_dir: str | Path,
    *,
    title: str,
    comparisons: Comparisons,
    runs: Sequence[Run],
    examples: Sequence[tuple[str, str | Path]] = (),
    pixels: details.Pixels | None = None,
    warnings: Sequence[str] = (),
    analysis: str = "",
) -> Path:
    """Writes index.html, its figures as figures/*.svg, and comparisons.json into `out_dir`.

    Args:
      out_dir: made if need be.
      title: name of the study.
      comparisons: what `compare` returned for these runs.
      runs: all runs of the study, pretraining too: curves, cost, datasets and provenance come from them. None for
        comparisons of a table without cases: what needs runs is then left out.
      examples: (caption, PNG) of the data as the model sees them; empty to leave every patient's pixels out.
      pixels: gives the images of single test cases, for those that the best start gets most wrong; None to leave every
        patient's pixels out.
      warnings: sentences for the first screen, above the verdict. That images are generated (`generated` in a run's
        dataset), that patients are few and that a level is out of reach is said without being asked to.
      analysis: where a page about the networks' features is, to link to.

    Returns:
      The path of index.html.
    """
    out_dir = Path(out_dir)
    environment = pages.environment("radnet_jax.evaluation")
    gallery = Gallery()
    context = _context(out_dir, title, comparisons, runs, examples, pixels, warnings, gallery)
    context["analysis"] = analysis
    page = environment.get_template("report.html.j2").render(context)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        comparisons.write(out_dir / COMPARISONS_FILE)
        return pages.write(out_dir, page, gallery.files)
    except OSError as error:
        raise UserError(
            f"can't write the report to {out_dir} ({error})", fix="free disk space or choose another workdir"
        ) from error


def _context(
    out_dir: Path,
    title: str,
    c: Comparisons,
    runs: Sequence[Run],
    examples: Sequence[tuple[str, str | Path]],
    pixels: details.Pixels | None,
    warnings: Sequence[str],
    gallery: Gallery,
) -> dict[str, Any]:
    look = looks([g.start for g in c.groups], [r.start for r in runs if r.record.get("start")])
    css = pages.house_style()
    generated = sorted({r.dataset["name"] for r in runs if r.dataset.get("generated")})
    own = (
        [f"The images of {verdicts.join(generated)} are generated: the verdict is about no patients."]
        if generated
        else []
    )
    table = {r.run_id: r for r in runs}
    return {
        "title": title,
        "css": Markup(css),
        "look": look,
        "summary": _summary(c, runs),
        "warnings": [*own, *warnings, *c.notes],
        "parts": [card.part(i, v, c, table, look, gallery, pixels) for i, v in enumerate(c.verdicts)],
        "across": [_across(s, look, gallery) for s in c.summaries if s.unit == "tasks"],
        "efficiency": _efficiency(c, look, gallery),
        "total": words.hours(provenance.device_seconds(runs)) if provenance.own(runs) else "",
        "cost": provenance.by_kind(runs),
        "cost_by_start": provenance.by_start(runs),
        "devices": verdicts.join(sorted({r.topology["device_kind"] for r in provenance.own(runs)}) or ["no device"]),
        "curves": _curves(runs, look, gallery),
        "convergence": _convergence(runs, look, gallery),
        "examples": [{"caption": c, "data": base64.b64encode(Path(p).read_bytes()).decode()} for c, p in examples],
        "margin": f"{100 * c.margin:g}",
        "alpha": f"{c.alpha:g}",
        "questions": reading.questions(c),
        "family_text": reading.family(c),
        "undecided": reading.undecided(c),
        "limits": reading.limits(c, runs),
        "sources": reading.sources(c),
        "settings": provenance.settings(c, runs),
        "datasets": provenance.datasets(runs),
        "runs": [provenance.run_row(r, out_dir) for r in runs],
        "figure_files": list(gallery.files),
        "version": radnet_jax.__version__,
    }


def _summary(c: Comparisons, runs: Sequence[Run]) -> str:
    n_starts = len({g.start for g in c.groups})
    n_tasks, n_protocols = len({g.task for g in c.groups}), len({g.protocol for g in c.groups})
    n_runs = len(runs) or sum(g.n for g in c.groups)
    return (
        f"Which pretraining is best, by how much, how sure? {words.count(n_starts, 'start')}, "
        f"{words.count(n_tasks, 'task')}, {words.count(n_protocols, 'protocol')}, {words.count(n_runs, 'run')}; "
        f"{words.count(c.family_size, 'comparison')} corrected together at a family-wise error of {100 * c.alpha:g} %."
    )


def _across(s: Summary, look: Mapping[str, Look], gallery: Gallery) -> dict[str, Any]:
    """All tasks of a protocol together: mean ranks, interquartile means, probability of improvement."""
    order = sorted(range(len(s.starts)), key=lambda i: s.ranks.ranks[i] if s.ranks else 0.0)
    rows = []
    for i in order:
        improved = s.improvement[i] if s.improvement else None
        best = bool(order) and i == order[0]
        rows.append(
            {
                "start": s.starts[i],
                "label": s.starts[i],
                "rank": f"{s.ranks.ranks[i]:.2f}" if s.ranks else "–",
                "rank_interval": _rank_interval(s, i),
                "iqm": words.number(s.iqm[i].value) if s.iqm else "–",
                "iqm_interval": words.interval(s.iqm[i].low, s.iqm[i].high) if s.iqm else "–",
                "beaten": "–" if improved is None or best else words.number(improved.value, 0),
                "beaten_interval": "–" if improved is None or best else words.interval(improved.low, improved.high, 0),
            }
        )
    few = any(x.reason == "few_seeds" for x in (*s.iqm, *s.improvement))
    return {
        "protocol": words.protocol(s.protocol),
        "n": len(s.blocks),
        "tasks": ", ".join(s.blocks),
        "best": s.starts[order[0]] if order else "",
        "ranks": card.ranks(s, look, gallery),
        "rows": rows if s.ranks else [],
        "has_iqm": bool(s.iqm),
        "few": few,
    }


def _rank_interval(s: Summary, i: int) -> str:
    """The interval of a start's mean rank over seeds; empty where resampling over seeds is not allowed."""
    found = s.rank_over_seeds[i] if s.rank_over_seeds else None
    return "" if found is None or found.reason else f"{found.low:.2f} to {found.high:.2f}"


def _efficiency(c: Comparisons, look: Mapping[str, Look], gallery: Gallery) -> list[dict[str, Any]]:
    """One figure for each task x protocol that was run with more than one share of the labels."""
    found: dict[tuple[str, str], list[Any]] = {}
    for g in c.groups:
        if g.compared:
            found.setdefault((g.task, g.protocol.partition(",")[0]), []).append(g)
    out = []
    for (task, protocol), groups in found.items():
        if len({g.fraction for g in groups}) > 1:
            title = f"{task}, {words.protocol(protocol)}"
            groups.sort(key=lambda g: (g.fraction, g.start))
            figure = gallery.show(f"{task} {protocol} label efficiency", lines.efficiency_figure(groups, look))
            out.append({"title": title, "figure": figure})
    return out


def _trained(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs that have a curve and a start, by what they are: the pretrainings, or a task x protocol."""
    out: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda r: r.judged):
        if run.record.get("start") and any(p.get("loss") is not None for p in run.curves):
            title = f"{run.task}, {words.protocol(setting_of(run))}" if run.judged else "Pretraining"
            out.setdefault(title, []).append(run)
    return out


def _curves(runs: Sequence[Run], look: Mapping[str, Look], gallery: Gallery) -> list[dict[str, Any]]:
    out = []
    for title, members in _trained(runs).items():
        drawn = lines.loss_figure([(r.start, r.curves) for r in members], look, what=title)
        out.append({"title": title, "figure": gallery.show(f"{title} loss", drawn)})
    return out


def _convergence(runs: Sequence[Run], look: Mapping[str, Look], gallery: Gallery) -> list[dict[str, Any]]:
    """Time to convergence of each task x protocol by a curve of val where there is one, else by the training loss."""
    out = []
    for title, members in _trained(runs).items():
        keys = {
            k
            for r in members
            for p in r.curves
            for k, v in p.items()
            if k.startswith("val") and "loss" not in k and not isinstance(v, str)
        }
        key = min(keys, default="loss")
        reached: dict[str, list[float]] = {}
        for run in members:
            steps, values = published.curve_of(run.curves, key)
            if not published.unfit(values):
                at = published.convergence_index(values)
                reached.setdefault(run.start, []).append(math.nan if at is None else steps[at])
        unfit = len(members) - sum(len(steps) for steps in reached.values())
        missed = sum(math.isnan(s) for steps in reached.values() for s in steps)
        what = f"{title}, by {'training loss' if key == 'loss' else key}"
        shown = (
            gallery.show(f"{title} convergence", figures.convergence_figure(reached, look, what)) if reached else None
        )
        out.append({"title": what, "figure": shown, "missed": missed, "unfit": unfit})
    return out
