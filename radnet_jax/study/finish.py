"""The report of a finished study: written by whoever finishes last, once."""

from __future__ import annotations

from collections.abc import Sequence
import functools
import hashlib
import json
import os
from pathlib import Path
import shutil

from radnet_jax import examples
from radnet_jax.evaluation import ledger, report
from radnet_jax.evaluation.canonical import canonical_json
from radnet_jax.evaluation.compare import compare
from radnet_jax.parts import plain
from radnet_jax.preprocessing import ModelInput
from radnet_jax.study.check import model_input_of
from radnet_jax.study.expand import Run, Validation, dataset_dir, pretraining_jobs
from radnet_jax.study.spec import Study

REPORT = "report"
ANALYSIS = "analysis"  # folder of `configs/analyze.py --config.study`, where that was asked for
_OF_FILE = "of.json"  # what a report is made of, so that it is written again only when that has changed


class Report:
    """The report as the last job of a study. It is finished where it is of exactly these runs."""

    id = "report"
    name = "report"
    needs = ()

    def __init__(self, study: Study, workdir: Path, runs: Sequence[Run | Validation]):
        self._study, self._workdir, self._runs = study, workdir, runs
        self.place = workdir / REPORT

    def is_finished(self) -> bool:
        path = self.place / _OF_FILE
        return path.is_file() and (self.place / report.REPORT_FILE).is_file() and path.read_text() == self._of()

    def _of(self) -> str:
        """Digest of the study's settings and of which runs are there; a run that was made again has another time."""
        config = self._study.config
        times = {run.id: (run.place / ledger.RUN_FILE).stat().st_mtime_ns for run in self._runs}
        what = [config.name, list(config.notes), plain(config.compare), plain(config.report)]
        what += [times, ledger.code_version()["source"], _analysis(self._workdir)]
        return json.dumps(hashlib.sha256(canonical_json(what).encode()).hexdigest())

    def run(self, folder: Path) -> str:
        of = self._of()
        shutil.rmtree(folder)
        folder.mkdir()
        write(self._study, self._workdir, self._runs, folder)
        (folder / _OF_FILE).write_text(of)
        if self.place.is_dir():  # of fewer runs, or of other settings
            before = folder.with_name(f"{folder.name}-before")
            shutil.rmtree(before, ignore_errors=True)  # of a process that was killed after it had published
            os.rename(self.place, before)
        return f"report: {self.place / report.REPORT_FILE}"


def write(study: Study, workdir: Path, jobs: Sequence[Run | Validation], folder: Path) -> Path:
    """Compares the runs of the jobs and writes the report; returns its path. Other runs in the workdir are named."""
    config = study.config
    folders = {job.place for job in jobs}
    found = ledger.read_runs(workdir / "runs")
    runs = [run for run in found if run.folder in folders]
    others = len(found) - len(runs)
    warnings = (
        [f"{others} other finished run(s) in this folder are not of this study and were left out."] if others else []
    )
    warnings = [*config.notes, *warnings]
    comparisons = compare([r for r in runs if r.judged], **plain(config.compare))
    shown = _examples(study, workdir) if config.report.images else []
    return report.write_report(
        folder,
        title=config.name,
        comparisons=comparisons,
        runs=runs,
        examples=shown,
        pixels=functools.partial(examples.of_cases, _tasks(study, workdir)) if config.report.images else None,
        warnings=warnings,
        analysis=_analysis(workdir),
    )


def _analysis(workdir: Path) -> str:
    """Returns where the page of the study's feature space is, seen from the report, or ""."""
    page = Path(ANALYSIS, "report", report.REPORT_FILE)
    return f"../{page.as_posix()}" if (workdir / page).is_file() else ""


def _tasks(study: Study, workdir: Path) -> dict[str, tuple[str, ModelInput]]:
    """By task, and task at another site, the folder of its dataset, and what a network from scratch sees."""
    tasks = {}
    for name, task in study.tasks.items():
        where = {name: task.dataset} | {f"{name} at {site}": spec["dataset"] for site, spec in task.external.items()}
        for label, dataset in where.items():
            tasks[label] = (str(dataset_dir(study, workdir, dataset)), ModelInput.from_json(plain(task.input)))
    return tasks


def _examples(study: Study, workdir: Path) -> list[tuple[str, Path]]:
    """Pictures of the data as the models see them; pretrainings that differ in their seed see the same."""
    first = {run.config.tags.start: run.config for run in reversed(list(pretraining_jobs(study, workdir)))}
    pretraining = {name: (first[name], model_input_of(study, name)) for name in study.pretraining}
    tasks = {name: where for name, where in _tasks(study, workdir).items() if name in study.tasks}
    return examples.write(workdir / "examples", pretraining, tasks)
