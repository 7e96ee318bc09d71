"""Raw files -> a TFDS dataset of array records.

    python -m data_prep.build --dataset=radnet --source=DIR --out=DIR

A header pass plans the rows, then independent shards are written. A build that was killed leaves no card.json and goes
on where it was when started again; a finished one is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import errno
import fcntl
import heapq
import itertools
import json
import os
from pathlib import Path
import shutil
import sqlite3
import time
from typing import Any

from data_prep import manifest
from data_prep.beam import beam_map, check_beam
from data_prep.examples import choose
from data_prep.guard import DEFAULT_BYTES, DEFAULT_SECONDS, Limits
from data_prep.hashing import PUBLIC_SALT, RECIPE, SALT_VARIABLE, Salt, digest, given_salt
from data_prep.ingest.files import walk
from data_prep.plan import FILES_PER_TASK, OrderedMap, Plan, Rejected, make_plan, reasons_text
from data_prep.pool import ordered_map
from data_prep.report import write_report
from data_prep.shards import PLAN_FILE, ShardResult, plan_shards, write_shard
from data_prep.source import fingerprint
from data_prep.spec import DATASETS, FILE_SOURCES, GENERATED_MARKER, DatasetSpec
from data_prep.splits import check_splits
from data_prep.staging import claim, find_places, near
from data_prep.subsets import write_subsets
from data_prep.tally import total
from data_prep.units import Places, far
from radnet_jax import __version__
from radnet_jax.data import storage
from radnet_jax.data.cache import write_sums
from radnet_jax.data.card import CARD_FILE, DatasetCard, read_card
from radnet_jax.data.subsets import TRAIN
from radnet_jax.errors import UserError

FORMAT = 3
WORK_FOLDER = ".build"  # private: the plan holds paths and identifiers; gone when the build is finished
FILES_PER_WORKER = 512  # fewer would be read before another process has started
PATIENTS_UNKNOWN = (
    "no patient id for {} of {} patients: each is a study, or a file by itself, "
    "so that images of one person may be in different splits"
)
FILES_PER_UNIT = 4096  # whose headers are one task of a cluster: each is two files in the store
RUNNERS = ("local", "beam")
DEFAULT_SPLITS = ("train", "val", "test")
Log = Callable[[str], None]


def build(
    dataset: str,
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    size: int = 72,
    splits: Sequence[str] = DEFAULT_SPLITS,
    split_fractions: Sequence[float] | None = None,
    seed: int = 0,
    workers: int = 1,
    salt_file: str | os.PathLike[str] | None = None,
    time_limit: float = DEFAULT_SECONDS,
    memory_limit: float = DEFAULT_BYTES / 2**30,
    runner: str = "local",
    beam_options: str = "",
    log: Log = print,
    **options: Any,
) -> DatasetCard:
    """Builds the dataset in `out` and returns its card; does nothing where the same build is already finished.

    Args:
      dataset: a registered name ("radnet", "image_folder", "chestxray14").
      source: folder of raw files, or its URL in an object store (gs://, s3://, ...).
      out: folder of the dataset, or its URL; new, empty, or that of the same build.
      size: height and width of the stored images in pixels.
      splits: some of train, val, test. Files whose official list is none of them are left out.
      split_fractions: one for each split; 0.7, 0.1, 0.2 in proportion by default.
      seed: of the splits.
      workers: processes that read, decode and write; this one only watches them.
      salt_file: secret of at least 16 bytes for the hashed ids, by default the file that RADNET_JAX_SALT_FILE names;
        must be given unless the images are generated (whose ids never depend on a salt) or of nobody (photographs).
      time_limit: seconds that one file may take before it is rejected.
      memory_limit: GiB that one file may take before it is rejected.
      runner: "local", processes of this machine, or "beam", workers of Apache Beam.
      beam_options: of Beam, as on its command lines.
      log: takes the lines for the user; they hold no path and no value of the source.
      **options: of the dataset, for example view="finding" for chestxray14.

    Raises:
      UserError: a bad name or option, no salt, a missing or unusable source, an `out` that is something else, a full
        disk.
    """
    if runner not in RUNNERS:
        raise UserError("runner", got=runner, expected=" or ".join(RUNNERS))
    if beam_options and runner != "beam":
        raise UserError("--beam_options is for --runner=beam")
    if runner == "beam":
        check_beam(beam_options)
    fractions = check_splits(splits, split_fractions)
    if workers < 1:
        raise UserError("workers", got=workers, expected="at least 1")
    if not (time_limit > 0 and memory_limit > 0):
        raise UserError("limits of a file", got=f"{time_limit} s, {memory_limit} GiB", expected="more than 0")
    limits = Limits(time_limit, int(memory_limit * 2**30))
    places = find_places(source, out, salt_file, is_file=dataset in FILE_SOURCES)
    with near(places, str(source)) as (source, out, is_whole), _disk_errors(out):
        spec = _spec(dataset, source, out, size, options)
        _check_places(spec, places)
        source = spec.folder or source
        generated = spec.mixed.generated if spec.mixed else (source / GENERATED_MARKER).is_file()
        salt = _salt(spec, out, salt_file, generated)
        found = fingerprint(spec, source, is_whole)
        request = {
            "format": FORMAT,
            "rules": spec.rules(),
            "options": {"split_fractions": fractions, "seed": seed, "dataset_options": dict(options)},
            "source": found.content,
            "source_times": found.times,
        }
        finished = _finished(out, request, salt, log)
        if finished is not None:
            log(f"{dataset}: already built, {_sizes_text(finished.splits)}")
            return finished
        assert salt is not None
        if generated and salt_file:
            log(f"{dataset}: generated images, so that ids are hashed with the public salt and not that of the file")
        crew = min(workers, 1 + found.files // FILES_PER_WORKER)
        if storage.is_remote(places.out):
            claim(places.out, request)
        with _work_folder(out, request) as work, contextlib.ExitStack() as stack:
            if runner == "beam":
                mapped = beam_map(beam_options, places, work, limits)
            else:
                mapped = stack.enter_context(ordered_map(crew, limits))
                mapped = far(mapped, places, work) if places.remote() else mapped
            chunk = FILES_PER_UNIT if runner == "beam" else FILES_PER_TASK
            job = _Job(spec, source, out, work, fractions, seed, salt, request, generated, log, places.out, chunk)
            return _run(job, mapped)


@contextlib.contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _disk_error(error, out) from error
    except sqlite3.OperationalError as error:
        if "full" not in str(error):
            raise
        raise _disk_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), out) from error


def _check_places(spec: DatasetSpec, places: Places) -> None:
    if storage.is_remote(places.source) and not spec.single_file:
        raise UserError(
            f"{spec.name} reads several files for a record, which can't be fetched one by one",
            fix="give --source a folder: copy the files, or mount the bucket",
        )


def _spec(dataset: str, source: Path, out: Path, size: int, options: Mapping[str, Any]) -> DatasetSpec:
    DATASETS.get(dataset)
    if not 8 <= size <= 4096:
        raise UserError("size", got=size, expected="8 to 4096 pixels")
    if dataset in FILE_SOURCES:
        if not source.is_file():
            raise UserError(f"source {source} is not a file", expected="the table of the images (--source=table.csv)")
        return DATASETS.build(dataset, options, source=source, size=size)
    if not source.is_dir():
        raise UserError(f"source {source} is not a folder", expected="the folder of the raw files (--source)")
    if out.resolve() == source.resolve() or out.resolve().is_relative_to(source.resolve()):
        raise UserError("out lies inside source", got=out, fix="give --out a folder of its own")
    if next(walk(source), None) is None:
        raise UserError(f"source {source} holds no files", expected="the folder of the raw files (--source)")
    return DATASETS.build(dataset, options, source=source, size=size)


def _salt(spec: DatasetSpec, out: Path, salt_file: str | os.PathLike[str] | None, generated: bool) -> Salt | None:
    """The salt of the hashed ids; None only where the dataset is finished, so that no id is left to hash.

    Ids of generated images are the same with and without a salt, so that a study on them can always go on.
    """
    if spec.mixed:
        return spec.mixed.salt
    given = given_salt(salt_file)
    if generated or (given is None and spec.no_patients):
        return PUBLIC_SALT
    if given is None and not (out / CARD_FILE).is_file():
        raise UserError(
            "no salt to hash the ids of patients with",
            fix=f"make one secret file for all your datasets, {RECIPE}, and name it in --salt_file or {SALT_VARIABLE}",
        )
    return given


def _finished(out: Path, request: Mapping[str, Any], salt: Salt | None, log: Log) -> DatasetCard | None:
    """The card of the same build if `out` holds it; a UserError if `out` holds anything else that is finished."""
    if not (out / CARD_FILE).is_file():
        return None
    card = read_card(out)
    try:
        data = json.loads((out / manifest.BUILD_FILE).read_text())
        before, before_salt = data["request"], data["salt"]
    except (OSError, json.JSONDecodeError, KeyError) as error:
        raise UserError(f"{out} holds a dataset without a readable build.json", fix="give another --out") from error
    now = json.loads(json.dumps(request))
    times = before.pop("source_times", ""), now.pop("source_times")
    differences = list(_differences(before, now))
    if salt and salt.kind == "file" and salt.fingerprint() != before_salt["fingerprint"]:
        differences.append("another salt")
    if differences:
        raise UserError(
            f"{out} holds a dataset that was built differently",
            got="; ".join(differences),
            fix="give another --out, or delete that folder to build it anew",
        )
    if times[0] != times[1]:
        log(
            f"{card.name}: the source's files have other times than at the build, with the same names and lengths; "
            f"if they were changed and not just copied, delete {out} and build anew"
        )
    shutil.rmtree(out / WORK_FOLDER, ignore_errors=True)
    return card


def _differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            yield from _differences(before.get(key), now.get(key), key)
    elif before != now:
        yield "the source files changed" if name == "source" else f"{name} now {now!r}, there {before!r}"


@contextlib.contextmanager
def _work_folder(out: Path, request: Mapping[str, Any]) -> Iterator[Path]:
    """The private working folder, locked; emptied, with the shards, when it belongs to another request."""
    work = out / WORK_FOLDER
    if out.is_dir() and not work.is_dir() and any(out.iterdir()):
        raise UserError(f"out {out} is not empty and holds no dataset", fix="give --out a new or empty folder")
    work.mkdir(mode=0o700, parents=True, exist_ok=True)
    work.chmod(0o700)
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another build is writing {out}", fix="wait for it, or give another --out") from error
        asked = digest(request)
        mark = work / "request"
        if not mark.is_file() or mark.read_text() != asked:
            for path in [*out.glob("*.array_record-*"), *(p for p in work.iterdir() if p.name != "lock")]:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            mark.write_text(asked)
        yield work


@dataclasses.dataclass(frozen=True)
class _Job:
    spec: DatasetSpec
    source: Path
    out: Path
    work: Path
    fractions: Mapping[str, float]
    seed: int
    salt: Salt
    request: Mapping[str, Any]
    generated: bool
    log: Log
    remote_out: str
    files_per_task: int


def _run(job: _Job, mapped: OrderedMap) -> DatasetCard:
    start = time.monotonic()
    spec, plan_file = job.spec, job.work / PLAN_FILE
    if not plan_file.is_file():
        progress = _progress(job.log, f"{spec.name}: header pass,")
        namespace = job.request["source"]
        make_plan(plan_file, spec, job.source, job.fractions, job.seed, namespace, mapped, progress, job.files_per_task)
    with Plan(plan_file) as plan:
        planned = time.monotonic()
        job.log(f"{spec.name}: headers of {plan.files()} files in {planned - start:.1f} s")
        if note := _patients_note(job, plan):
            job.log(f"{spec.name}: {note}")  # not earlier, so that a refusal stays one line
        sizes = {split: plan.sizes()[split] for split in job.fractions}
        _check_members(spec, sizes)
        examples = choose(plan, spec, next(iter(sizes)), next(iter(sizes.values())))
        pictured = (examples.split, examples.all_places())
        tasks = plan_shards(spec, job.source, job.out, job.work, job.salt, sizes, pictured)
        done: dict[str, list[ShardResult]] = {split: [] for split in job.fractions}
        progress = _progress(job.log, f"{spec.name}: pixels,")
        for task, result in zip(tasks, mapped(write_shard, tasks)):
            done[task.split].append(result)
            progress(result.records)
        job.log(f"{spec.name}: pixels of {sum(sizes.values())} images in {time.monotonic() - planned:.1f} s")
        if storage.is_remote(job.remote_out):
            for task in tasks:  # TFDS wants to see the files that it describes
                (job.out / task.file_name).touch()
        parts = {split: [task.lines_file for task in tasks if task.split == split] for split in done}
        card = _write_metadata(job, plan, done, parts)
    build = json.loads((job.out / manifest.BUILD_FILE).read_text())
    write_report(job.out, card, build, examples.pictures(done[examples.split]), examples.split)
    card.write(job.work)
    sums = {task.file_name: result.sums() for task, result in zip(tasks, itertools.chain(*done.values()))}
    write_sums(job.out, job.work / CARD_FILE, sums)
    os.replace(job.work / CARD_FILE, job.out / CARD_FILE)  # last of all: a folder with a card is a finished dataset
    shutil.rmtree(job.work)
    job.log(f"{spec.name}: built {_sizes_text(card.splits)} in {time.monotonic() - start:.1f} s")
    return card


def _check_members(spec: DatasetSpec, sizes: Mapping[str, int]) -> None:
    """Refuses a mixture that has lost records, since its card says which member's they are by their number."""
    if spec.mixed is None:
        return
    for split, n in sizes.items():
        expected = sum(member.splits.get(split, 0) for member in spec.mixed.members)
        if n != expected:
            raise UserError(
                f"{spec.name}: records of split {split} are in several members, or can't be read",
                got=f"{n} records",
                expected=expected,
            )


def _patients_note(job: _Job, plan: Plan) -> str:
    """What the user should know where images can't be told apart by patient; "" where all is well."""
    count, unknown = plan.patients()
    return PATIENTS_UNKNOWN.format(unknown, count) if unknown and not _nobody(job) else ""


def _nobody(job: _Job) -> bool:
    """Whether the images are of no patient at all."""
    return job.generated or job.spec.no_patients


def _write_metadata(
    job: _Job, plan: Plan, done: Mapping[str, Sequence[ShardResult]], parts: Mapping[str, Sequence[Path]]
) -> DatasetCard:
    spec = job.spec
    late = sorted(r for results in done.values() for result in results for r in result.rejected)
    reasons = manifest.write_rejected(job.out, heapq.merge(plan.rejected(), late))
    written = {split: sum(r.records for r in results) for split, results in done.items()}
    _check_members(spec, written)
    empty = [split for split, n in written.items() if not n]
    if empty:
        raise UserError(f"no image of split {empty[0]!r} could be decoded", got=reasons_text(reasons))
    summaries, grouping = manifest.write_manifest(job.out, spec, parts)
    counts = {split: summary.labels() for split, summary in summaries.items()}
    skipped_train = [i for result in done.get(TRAIN, ()) for i in result.skipped]
    subsets = write_subsets(job.out, job.work / PLAN_FILE, spec, skipped_train, job.seed)
    manifest.write_json(
        job.out / manifest.BUILD_FILE,
        {
            "request": job.request,
            "salt": {"kind": job.salt.kind, "fingerprint": job.salt.fingerprint()},
            "files": plan.files(),
            "left_out": plan.left_out(),
            "series": plan.series(),
            "patients": {"joined": plan.joined(), "nobody": _nobody(job), "note": _patients_note(job, plan)},
            "rejected": reasons,
            "records": written,
            "labels": counts,
            "summary": {split: summary.to_json() for split, summary in summaries.items()},
            "pixels": {split: total(r.tally for r in results).to_json() for split, results in done.items()},
            "subsets": {"sha256": subsets.sha256, **subsets.report},
            "versions": manifest.versions(__version__),
        },
    )
    manifest.write_tfds_metadata(job.out, spec, done)
    _report(plan, late, reasons, written, counts, job.log)
    if subsets.remark:
        job.log(subsets.remark)
    digests = {split: [r.digest for r in results] for split, results in done.items()}
    return DatasetCard(
        name=spec.name,
        version=spec.version,
        task=spec.task,
        labels=spec.labels,
        stored=spec.stored,
        splits=written,
        fingerprint=digest([spec.rules(), digests, grouping, subsets.content]),
        splits_sha256=subsets.sha256,
        generated=job.generated,
        segmentation=spec.segmentation,
        members=spec.mixed.asked(written) if spec.mixed else (),
    )


def _progress(log: Log, what: str) -> Callable[[int], None]:
    """Counts, and says so about every ten seconds."""
    state = {"n": 0, "last": time.monotonic()}

    def add(n: int) -> None:
        state["n"] += n
        if time.monotonic() - state["last"] > 10:
            state["last"] = time.monotonic()
            log(f"{what} {state['n']} so far")

    return add


def _report(
    plan: Plan,
    late: Sequence[Rejected],
    reasons: Mapping[str, int],
    written: Mapping[str, int],
    counts: Mapping[str, Mapping[str, int]],
    log: Log,
) -> None:
    """Tells the user what came out: counts, indices and reason codes only."""
    for item in itertools.islice(heapq.merge(plan.rejected(), late), 3):
        log(f"rejected file {item.file}: {item.reason}")
    if reasons:
        log(
            f"{sum(reasons.values())} of {plan.files()} files rejected ({reasons_text(reasons)}); "
            f"paths and details in OUT/{manifest.REJECTED_FOLDER}, which is private"
        )
    if joined := plan.joined():
        log(f"{joined} groups of linked studies name more than one patient: joined")
    if left_out := plan.left_out():
        log(f"{left_out} files belong to official lists or folders of splits that were not asked for: left out")
    for split, labels in counts.items():
        few = ", ".join(f"{name}: {n}" for name, n in itertools.islice(labels.items(), 14))
        log(f"{split}: {written[split]} records" + (f" ({few}{', ...' if len(labels) > 14 else ''})" if few else ""))


def _sizes_text(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{split} {n}" for split, n in sizes.items())


def _disk_error(error: OSError, out: Path) -> UserError:
    """One line for a disk that is full or not writable; the path of a source file is never told."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"the disk of {out} is full", fix="free some space and start again: the build goes on")
    reason = error.strerror or "unknown error"
    return UserError(f"{out} can't be written ({reason})", fix="give --out a folder that can be written")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    from data_prep.command import run

    return run(build, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
