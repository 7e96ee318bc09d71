"""What the runs cost and what they were made from: device-hours, settings, datasets, links."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import os
from pathlib import Path
import re
from typing import Any
from urllib.parse import quote

from radnet_jax.evaluation.comparisons import Comparisons, Group
from radnet_jax.evaluation.ledger import RUN_FILE, Run
from radnet_jax.evaluation.report import words


def own(runs: Iterable[Run]) -> list[Run]:
    """The runs whose machine and cost are known: not those of another program."""
    return [r for r in runs if r.kind != "foreign"]


def device_seconds(runs: Iterable[Run]) -> float:
    return float(sum(r.timings["total_s"] * r.topology["devices"] for r in own(runs)))


def pretraining_of(run: Run, runs: Mapping[str, Run]) -> Run | None:
    """The run that a run's checkpoint is of ("run id @ step - digest"), where it is among these."""
    return runs.get(str(run.checkpoint).partition("@")[0]) if run.checkpoint else None


def cost_of(groups: Sequence[Group], runs: Mapping[str, Run]) -> dict[str, str]:
    """Device-hours of the runs of some groups, and of the pretrainings behind them; empty where not known."""
    members = own(runs[i] for g in groups for i in g.runs if i in runs)
    if not members:
        return {}
    behind = {p.run_id: p for r in members if (p := pretraining_of(r, runs))}
    return {
        "own": words.hours(device_seconds(members)),
        "n": words.count(len(members), "run"),
        "pretraining": words.hours(device_seconds(behind.values())) if behind else "",
    }


def by_kind(runs: Sequence[Run]) -> list[dict[str, Any]]:
    spent: dict[str, list[Run]] = {}
    for run in own(runs):
        spent.setdefault(words.KINDS[run.kind], []).append(run)
    order = list(words.KINDS.values())
    rows = [_cost(kind, spent[kind]) for kind in sorted(spent, key=order.index)]
    return [*rows, _cost("all", own(runs)) | {"each": ""}] if rows else []


def by_start(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """For each start what its pretraining and its other runs cost; the dearest first."""
    table = {r.run_id: r for r in runs}
    starts: dict[str, list[Run]] = {}
    for run in own(runs):
        if run.judged:
            starts.setdefault(run.start, []).append(run)
    out = []
    for start, members in starts.items():
        behind = {p.run_id: p for r in members if (p := pretraining_of(r, table))}
        before, after = device_seconds(behind.values()), device_seconds(members)
        out.append((before + after, start, before, after))
    return [
        {"start": start, "pretraining": words.hours(before), "judging": words.hours(after), "total": words.hours(total)}
        for total, start, before, after in sorted(out, key=lambda row: (-row[0], row[1]))
    ]


def _cost(kind: str, runs: Sequence[Run]) -> dict[str, Any]:
    total = device_seconds(runs)
    return {
        "kind": kind,
        "n": len(runs),
        "hours": words.hours(total),
        "seconds": words.seconds(total),
        "each": words.seconds(total / len(runs)),
    }


def settings(c: Comparisons, runs: Sequence[Run]) -> list[tuple[str, str]]:
    codes = {(r.code["version"], r.code["commit"], r.code["dirty"], r.code["source"]) for r in runs}
    told = []
    for version, commit, dirty, source in sorted(codes, key=str):
        state = f"commit {commit[:12]}{' with changes' if dirty else ''}" if commit else "no git commit"
        told.append(f"radnet_jax {version}, {state}, source {source}")
    versions: dict[str, set[str]] = {}
    for run in runs:
        for name, version in run.versions.items():
            versions.setdefault(name, set()).add(str(version))
    topologies = {f"{words.count(r.topology['devices'], 'device')} ({r.topology['device_kind']})" for r in own(runs)}
    return [
        ("Comparison", f"alpha {c.alpha:g}, margin {c.margin:g}, {c.n_resamples:,} resamples, seed {c.seed}"),
        ("Code", "; ".join(told)),
        ("Machine", "; ".join(sorted(topologies)) or "not known"),
        (
            "Versions",
            ", ".join(f"{name} {' / '.join(sorted(v))}" for name, v in sorted(versions.items())) or "not known",
        ),
    ]


def datasets(runs: Sequence[Run]) -> list[dict[str, str]]:
    seen: dict[str, dict[str, str]] = {}
    for run in runs:
        d = run.dataset
        splits = ", ".join(f"{name} {n:,}" for name, n in d.get("splits", {}).items())
        seen.setdefault(
            d["fingerprint"], {"name": d["name"], "fingerprint": d["fingerprint"][:16], "splits": splits or "–"}
        )
    return sorted(seen.values(), key=lambda d: d["name"])


def run_row(run: Run, out_dir: Path) -> dict[str, Any]:
    value = "–"
    if run.judged:
        metric = run.metrics.get("test", {}).get(run.primary_metric)
        if metric is not None and metric["value"] is not None:
            value = words.number(metric["value"])
    relative = Path(os.path.relpath(run.folder.resolve(), out_dir.resolve())).as_posix()
    return {
        "name": run.name,
        "href": f"{quote(re.sub(r'/$', '', relative))}/{RUN_FILE}",
        "kind": words.KINDS[run.kind],
        "seed": run.seed,
        "value": value,
        "seconds": "–" if run.kind == "foreign" else words.seconds(run.timings["total_s"]),
        "run_id": run.run_id,
    }
