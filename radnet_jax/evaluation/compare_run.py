"""The `compare` run: finished runs, or somebody else's table, to comparisons.csv, .json, .tex and a report."""

from __future__ import annotations

from collections.abc import Sequence
import csv
from pathlib import Path

from ml_collections import ConfigDict
from rich.console import Console

from radnet_jax.errors import UserError, nearest
from radnet_jax.evaluation import every_metric, export, foreign, ledger, published, report, results
from radnet_jax.evaluation.compare import by_checkpoint, compare
from radnet_jax.evaluation.compare_results import compare_results, explore, for_page
from radnet_jax.evaluation.comparisons import Comparison, Comparisons
from radnet_jax.evaluation.ledger import Run, setting_of
from radnet_jax.evaluation.results import Cell, Place
from radnet_jax.parts import check_workdir

CONVERGENCE_FILE = "convergence.csv"
_CONSOLE = Console(highlight=False, soft_wrap=True)
_OF_RESULTS = ("baseline", "scale", "experiments", "std_ddof")  # settings of tables of runs and of means


def run(config: ConfigDict, workdir: str | Path) -> Path:
    """Compares what config.runs or config.table names and writes into the workdir; returns comparisons.csv.

    Raises:
      UserError: both or none of them, a setting that this kind of input does not read, and all that reading and
        comparing refuse.
    """
    kind = _check(config)
    workdir = check_workdir(workdir, need_bytes=2**24)
    if kind in ("runs", "means"):
        comparisons, by_role = _compare_table(config)
        found: Sequence[Run] = []
        shown = for_page(comparisons)
    else:
        if kind == "cases":
            metric = config.primary_metric[0]
            judged = foreign.import_predictions(config.table, workdir / "runs", primary_metric=metric)
            found = judged
        else:
            found = ledger.read_runs(config.runs)
            judged = [r for r in found if r.judged]
        if config.curve:
            _write_convergence(workdir / CONVERGENCE_FILE, found, config.curve)
        settings = {key: config[key] for key in ("alpha", "margin", "n_resamples", "seed")}
        comparisons = compare(judged, **settings)
        compared = {(g.task, g.protocol, g.start, g.variant) for g in comparisons.groups if g.compared}
        cells = _other_metrics([r for r in judged if (r.task, setting_of(r), r.start, r.variant) in compared])
        by_role = {"exploratory": explore(cells, alpha=config.alpha, margin=config.margin)}
        shown = comparisons
    page = report.write_report(workdir / "report", title=config.name, comparisons=shown, runs=found)
    _say(f"report: {page}")
    export.write_json(workdir / "comparisons.json", comparisons, **by_role)
    export.write_latex(workdir / "comparisons.tex", comparisons)
    path = export.write_csv(workdir / "comparisons.csv", {"primary": comparisons.rows, **by_role})
    for verdict in comparisons.verdicts:
        where = ", ".join(filter(None, (verdict.task, verdict.protocol, verdict.metric)))
        _say(f"{where}: {verdict.headline}")
    for note in comparisons.notes:
        _say(f"note: {note}")
    _say(f"numbers: {path}")
    return path


def _say(text: str) -> None:
    _CONSOLE.print(text, markup=False)


def _check(config: ConfigDict) -> str:
    """The kind of input, after every check that needs no more than the names: "folders", or a layout of a table."""
    if bool(config.runs) == bool(config.table):
        got = "both" if config.runs else "neither"
        raise UserError("what is compared", got=got, expected="--config.runs=DIR or --config.table=FILE.csv")
    protocols = published.PROTOCOLS
    if config.protocol not in protocols:
        hint = nearest(config.protocol, protocols)
        raise UserError(f"unknown config.protocol {config.protocol!r}{hint}", expected=", ".join(protocols))
    kind = "folders" if config.runs else results.layout(config.table)
    unread = {
        "folders": ("primary_metric", *_OF_RESULTS, "protocol"),
        "cases": (*_OF_RESULTS, "protocol", "curve"),
        "runs": ("std_ddof", "curve"),
        "means": ("curve",),
    }[kind]
    defaults = {"scale": 1.0, "std_ddof": 1, "protocol": "default"}
    for name in unread:
        if config[name] not in (defaults.get(name, ""), ()):
            what = "a folder of runs" if kind == "folders" else f"a table of {kind}"
            raise UserError(f"config.{name} is not read for {what}", got=config[name], fix="leave it out")
    if config.std_ddof not in (0, 1):
        raise UserError("config.std_ddof", got=config.std_ddof, expected="0 or 1")
    if kind == "cases" and len(config.primary_metric) != 1:
        raise UserError(
            "a table of predictions needs its primary metric declared before looking",
            got=", ".join(config.primary_metric) or "none",
            fix="--config.primary_metric=auroc",
        )
    return kind


def _compare_table(config: ConfigDict) -> tuple[Comparisons, dict[str, list[Comparison]]]:
    cells = results.read_results(
        config.table, scale=config.scale, experiments=config.experiments, std_ddof=config.std_ddof
    )
    level = {"alpha": config.alpha, "margin": config.margin}
    comparisons = compare_results(cells, primary_metric=config.primary_metric, baseline=config.baseline, **level)
    judged = {Place(g.protocol, g.task, g.variant, g.metric) for g in comparisons.groups}
    others = [c for c in cells if c.place not in judged]
    by_role = {"exploratory": explore(others, baseline=config.baseline, **level) if others else []}
    if config.protocol == "radnet_published":
        by_role["published"] = published.radnet_rows(cells, **level)
    if config.protocol == "btl_v1":
        by_role["published"] = published.btl_rows(cells, baseline=config.baseline, **level)
    return comparisons, by_role


def _other_metrics(runs: Sequence[Run]) -> list[Cell]:
    """Every other metric of the runs on test, for exploration over seeds."""
    values: dict[tuple[Place, str], dict[str, tuple[float, str | None]]] = {}
    for run in runs:
        found = every_metric.of_task(run.predictions.of("test"), run.task_kind, every_metric.regions_of(run))
        for name, metric in found.items():
            if name != run.primary_metric:
                place = Place(setting_of(run), run.task, "", name)
                values.setdefault((place, run.start), {})[run.run_id] = (metric.value, run.checkpoint)
    return [Cell(place, start, by_checkpoint(*zip(*v.values())), tuple(v)) for (place, start), v in values.items()]


def _write_convergence(path: Path, runs: Sequence[Run], curve: str) -> None:
    """The time to convergence of each run by one of its curves, a point of it counted as an epoch; else why none."""
    lines = []
    for run in runs:
        steps, values = published.curve_of(run.curves, curve)
        if values:
            reason = published.unfit(values)
            reached = None if reason else published.convergence_index(values)
            found = ["", "", reason or "not_reached"] if reached is None else [reached, steps[reached], ""]
            names = [run.record.get(k, "") for k in ("name", "task", "protocol", "start", "variant", "seed")]
            lines.append([*names, len(values), *found])
    if not lines:
        known = sorted({key for run in runs for p in run.curves for key in p} - {"step"})
        raise UserError(f"no run has a curve {curve!r}{nearest(curve, known)}", expected=", ".join(known) or "curves")
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = ["run", "task", "protocol", "start", "variant", "seed", "points", "convergence", "step", "reason"]
        writer.writerow(names)
        writer.writerows(lines)
