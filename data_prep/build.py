"""Raw files -> a TFDS dataset of array records.

    python -m data_prep.build --dataset=radnet --source=DIR --out=DIR

A header pass plans the rows, then independent shards are written. A build that was killed leaves no card.json and goes
on where it was when started again; a finished one is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import contextlib
import itertools
import json
import os
from pathlib import Path
import shutil
import time
from typing import Any

from data_prep import manifest
from data_prep.beam import beam_map, check_beam
from data_prep.examples import choose
from data_prep.finish import Job, check_members, patients_note, sizes_text, write_metadata
from data_prep.generated import is_generated
from data_prep.guard import DEFAULT_BYTES, DEFAULT_SECONDS, make_limits
from data_prep.hashing import PUBLIC_SALT, RECIPE, SALT_VARIABLE, Salt, digest, given_salt
from data_prep.header_pass import FILES_PER_TASK, make_plan
from data_prep.ingest.files import walk
from data_prep.plan import OrderedMap, Plan, is_plan
from data_prep.pool import ordered_map
from data_prep.report import write_report
from data_prep.resume import Log, disk_errors, finished, unfinished, work_folder
from data_prep.shards import COMPRESSIONS, DEFAULT_COMPRESSION, PLAN_FILE, ShardResult, plan_shards, write_shard
from data_prep.source import fingerprint
from data_prep.spec import DATASETS, FILE_SOURCES, GENERATED_MARKER, DatasetSpec
from data_prep.splits import check_splits
from data_prep.staging import claim, find_places, near
from data_prep.units import Places, far
from radnet_jax.data import storage
from radnet_jax.data.cache import write_sums
from radnet_jax.data.card import CARD_FILE, DatasetCard
from radnet_jax.errors import UserError

FORMAT = 4
FILES_PER_WORKER = 512  # fewer would be read before another process has started
FILES_PER_UNIT = 4096  # whose headers are one task of a cluster: each is two files in the store
STALE_MARKER = f"{GENERATED_MARKER} in the source is about other files than are there"
RUNNERS = ("local", "beam")
DEFAULT_SPLITS = ("train", "val", "test")


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
    compression: str = DEFAULT_COMPRESSION,
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
      compression: of the records, "zstd:1", "zstd:3" or "none"; docs/input.md says what each is good for.
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
    if compression not in COMPRESSIONS:
        raise UserError("compression", got=compression, expected=" or ".join(COMPRESSIONS))
    if beam_options and runner != "beam":
        raise UserError("--beam_options is for --runner=beam")
    if runner == "beam":
        check_beam(beam_options)
    fractions = check_splits(splits, split_fractions)
    if workers < 1:
        raise UserError("workers", got=workers, expected="at least 1")
    limits = make_limits(time_limit, memory_limit)
    places = find_places(source, out, salt_file, is_file=dataset in FILE_SOURCES)
    with near(places, str(source)) as (source, out, is_whole), disk_errors(source, out):
        spec = _spec(dataset, source, out, size, options)
        _check_places(spec, places)
        source = spec.folder or source
        generated = spec.mixed.generated if spec.mixed else is_generated(source)
        salt = _salt(spec, source, out, salt_file, generated)
        found = fingerprint(spec, source, is_whole)
        asked = {"split_fractions": fractions, "seed": seed, "dataset_options": dict(options)}
        if compression != DEFAULT_COMPRESSION:  # which was the only one once: those datasets are not built anew
            asked["compression"] = compression
        request = {
            "format": FORMAT,
            "rules": spec.rules(),
            "options": asked,
            "source": found.content,
            "source_times": found.times,
        }
        found_card = finished(out, request, limits, salt, log, places.out)
        if found_card is not None:
            log(f"{dataset}: already built, {sizes_text(found_card.splits)}")
            return found_card
        assert salt is not None
        if not generated and not spec.mixed and (source / GENERATED_MARKER).is_file():
            log(f"{dataset}: {STALE_MARKER}, so that they count as images of patients")
        if generated and not spec.mixed and given_salt(salt_file):
            log(f"{dataset}: generated images, so that ids are hashed with the public salt and not with the one given")
        wanted = unfinished(request, limits)
        crew = min(workers, 1 + found.files // FILES_PER_WORKER)
        if storage.is_remote(places.out):
            claim(places.out, wanted)
        with work_folder(out, digest(wanted)) as work, contextlib.ExitStack() as stack:
            if runner == "beam":
                mapped = beam_map(beam_options, places, work, limits)
            else:
                mapped = stack.enter_context(ordered_map(crew, limits))
                mapped = far(mapped, places, work) if places.remote() else mapped
            chunk = FILES_PER_UNIT if runner == "beam" else FILES_PER_TASK
            job = Job(
                spec=spec,
                source=source,
                out=out,
                work=work,
                fractions=fractions,
                seed=seed,
                salt=salt,
                request=request,
                limits=limits,
                generated=generated,
                log=log,
                remote_out=places.out,
                files_per_task=chunk,
                compression=compression,
            )
            return _run(job, mapped)


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


def _salt(
    spec: DatasetSpec, source: Path, out: Path, salt_file: str | os.PathLike[str] | None, generated: bool
) -> Salt | None:
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
            got=STALE_MARKER if (source / GENERATED_MARKER).is_file() else None,
            fix=f"make one secret file for all your datasets, {RECIPE}, and name it in --salt_file or {SALT_VARIABLE}",
        )
    return given


def _run(job: Job, mapped: OrderedMap) -> DatasetCard:
    start = time.monotonic()
    spec, plan_file = job.spec, job.work / PLAN_FILE
    if not is_plan(plan_file):
        plan_file.unlink(missing_ok=True)
        progress = _progress(job.log, f"{spec.name}: header pass,")
        namespace = job.request["source"]
        make_plan(plan_file, spec, job.source, job.fractions, job.seed, namespace, mapped, progress, job.files_per_task)
    with Plan(plan_file) as plan:
        planned = time.monotonic()
        job.log(f"{spec.name}: headers of {plan.files()} files in {planned - start:.1f} s")
        if note := patients_note(job, plan):
            job.log(f"{spec.name}: {note}")  # not earlier, so that a refusal stays one line
        sizes = {split: plan.sizes()[split] for split in job.fractions}
        check_members(spec, sizes)
        examples = choose(plan, spec, next(iter(sizes)), next(iter(sizes.values())))
        pictured = (examples.split, examples.all_places())
        tasks = plan_shards(spec, job.source, job.out, job.work, job.salt, sizes, pictured, job.compression)
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
        card = write_metadata(job, plan, done, parts)
    build = json.loads((job.out / manifest.BUILD_FILE).read_text())
    write_report(job.out, card, build, examples.pictures(done[examples.split]), examples.split)
    card.write(job.work)
    sums = {task.file_name: result.sums() for task, result in zip(tasks, itertools.chain(*done.values()))}
    write_sums(job.out, job.work / CARD_FILE, sums)
    os.replace(job.work / CARD_FILE, job.out / CARD_FILE)  # last of all: a folder with a card is a finished dataset
    shutil.rmtree(job.work)
    job.log(f"{spec.name}: built {sizes_text(card.splits)} in {time.monotonic() - start:.1f} s")
    return card


def _progress(log: Log, what: str) -> Callable[[int], None]:
    """Counts, and says so about every ten seconds."""
    state = {"n": 0, "last": time.monotonic()}

    def add(n: int) -> None:
        state["n"] += n
        if time.monotonic() - state["last"] > 10:
            state["last"] = time.monotonic()
            log(f"{what} {state['n']} so far")

    return add


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    from data_prep.command import run

    return run(build, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
