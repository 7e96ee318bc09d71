"""Runs a study, or one of its jobs, or lists them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
import time

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
import numpy as np
from rich.console import Console

from radnet_jax import preemption, sharding
from radnet_jax.errors import UserError
from radnet_jax.evaluation import report
from radnet_jax.parts import check_workdir
from radnet_jax.study import check, costs, expand, finish, processes, spec
from radnet_jax.study.board import CLAIMS, Board, Job, State, with_needs
from radnet_jax.study.claims import Claims
from radnet_jax.study.expand import Run, Validation
from radnet_jax.study.spec import Study

_CONSOLE = Console(stderr=True, highlight=False)


def run(config: ConfigDict, workdir: str | Path) -> Path:
    """Builds what is missing, runs what is not finished, and writes `report/` in the workdir.

    With `config.list` the jobs are printed instead; with `config.job` one of them is run, after what it needs. As many
    processes work on it as `config.at_once` says, or as fit this machine.

    Returns:
      The path of the report; there is none yet where one job was asked for and others are left.

    Raises:
      UserError: whatever a user can mend, before anything runs; at the end, that jobs have failed.
      Preempted: it was asked to stop; the same command goes on.
    """
    study, workdir = spec.read(config), Path(workdir).resolve()
    runs = all_runs(study, workdir)
    if config.list:
        costs.print_jobs(study, runs, workdir)
        return workdir
    if not -1 <= config.job < len(runs):
        raise UserError("config.job", got=config.job, expected=f"0 to {len(runs) - 1}, as --config.list=True numbers")
    left = 1 if config.job >= 0 else sum(not run.is_finished() for run in runs)
    if (at_once := config.at_once or processes.fitting(left)) > 1:
        return processes.run(at_once, workdir / finish.REPORT / report.REPORT_FILE)
    trained = [run for run in runs if isinstance(run, Run)]
    check.check_study(study, trained, sharding.make_mesh())
    workdir = check_workdir(workdir, need_bytes=2**28)
    check.check_folder(study, trained, workdir)
    processes.checked()
    claims = Claims(workdir / CLAIMS, heartbeat=config.claims.heartbeat, missed=config.claims.missed)
    try:
        with preemption.raised():
            return _run(study, runs, workdir, claims)
    finally:
        claims.close()


def all_runs(study: Study, workdir: Path) -> list[Run | Validation]:
    """Returns the runs of a study in the order of their numbers: pretrainings first, other sites last."""
    runs = [*expand.pretraining_jobs(study, workdir), *expand.downstream_jobs(study, workdir)]
    every: list[Run | Validation] = [*runs, *expand.validation_jobs(study, workdir, runs)]
    expand.check_ids(every)
    return every


def _run(study: Study, runs: Sequence[Run | Validation], workdir: Path, claims: Claims) -> Path:
    say = _Say()
    retry = study.config.retry
    wanted = [runs[study.config.job]] if study.config.job >= 0 else runs
    by_id = {run.id: run for run in runs}
    needed = [by_id[id] for id in with_needs([run.id for run in wanted], by_id)]
    datasets = list(expand.dataset_jobs(study, workdir, say))
    finished = [job for job in datasets if job.is_finished()]
    builds = [job.id for job in datasets if job.id in {need for run in needed for need in run.needs}]
    _raise(_work(Board(workdir, datasets, claims, say, retry=True), builds), datasets)
    for job in finished:
        job.run(job.place)  # is it still what is asked for?
    say(f"{len(builds)} dataset(s) ready")
    check.check_validations([run for run in needed if isinstance(run, Validation)])
    own = [run for run in needed if isinstance(run, Run)]
    check.check_jobs(study, own)
    unchecked = check.check_finished(own)
    board = Board(workdir, [*datasets, *runs], claims, say, retry=retry)
    _raise(_work(board, [run.id for run in wanted]), runs)
    check.check_finished(unchecked)
    path = workdir / finish.REPORT / report.REPORT_FILE
    if all(run.is_finished() for run in runs):
        last = finish.Report(study, workdir, runs)
        _raise(_work(Board(workdir, [last], claims, say, retry=True), [last.id]), [last])
    return path


def _work(board: Board, ids: Sequence[str]) -> dict[str, State]:
    """Does jobs; with several processes in one run they do each job together, as process 0 says."""
    if jax.process_count() == 1:
        return board.work(ids)

    def agree(order: tuple[int, int]) -> tuple[int, int]:
        number, attempt = multihost_utils.broadcast_one_to_all(np.asarray(order, np.int32))
        return int(number), int(attempt)

    if jax.process_index():
        board.follow(agree)
        return {}
    states = board.work(ids, agree)
    agree((-2, 0))
    return states


def _raise(states: dict[str, State], jobs: Sequence[Job]) -> None:
    """Says which jobs have failed."""
    names = {job.id: job.name for job in jobs}
    failed = {names[id]: state.text for id, state in states.items() if state.kind == "failed"}
    blocked = sum(state.kind == "blocked" for state in states.values())
    if not failed and not blocked:
        return
    if not isinstance(jobs[0], Run):
        raise UserError(next(iter(failed.values()), "what it needs has failed"))
    name, reason = next(iter(failed.items()), ("what they need", "--config.list=True says why"))
    raise UserError(
        f"{len(failed)} job(s) have failed" + (f" and {blocked} that need them were left out" if blocked else ""),
        got=f"{name}: {reason}",
        fix="mend that and start again with --config.retry=True; --config.list=True shows all",
    )


class _Say:
    """Prints a line with the time since the study was started."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    def __call__(self, text: str) -> None:
        if jax.process_index() == 0:
            seconds = int(time.perf_counter() - self._began)
            _CONSOLE.print(f"{seconds // 60}:{seconds % 60:02d}  {text}", soft_wrap=True)
