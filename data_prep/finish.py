"""The end of a build: what stands beside the records, the card, and what the user is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import heapq
import itertools
from pathlib import Path
from typing import Any

from data_prep import manifest
from data_prep.guard import Limits
from data_prep.hashing import Salt, digest
from data_prep.plan import Plan, Rejected, reasons_text
from data_prep.resume import Log
from data_prep.shards import PLAN_FILE, ShardResult
from data_prep.spec import DatasetSpec
from data_prep.subsets import write_subsets
from data_prep.tally import total
from radnet_jax import __version__
from radnet_jax.data.card import DatasetCard
from radnet_jax.data.subsets import TRAIN
from radnet_jax.errors import UserError

PATIENTS_UNKNOWN = (
    "no patient id for {} of {} patients: each is a study, or a file by itself, "
    "so that images of one person may be in different splits"
)


@dataclasses.dataclass(frozen=True)
class Job:
    """A build that is under way; `remote_out` is where the dataset goes, `out` the folder in which it is made."""

    spec: DatasetSpec
    source: Path
    out: Path
    work: Path
    fractions: Mapping[str, float]
    seed: int
    salt: Salt
    request: Mapping[str, Any]
    limits: Limits
    generated: bool
    log: Log
    remote_out: str
    files_per_task: int
    compression: str


def check_members(spec: DatasetSpec, sizes: Mapping[str, int]) -> None:
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


def patients_note(job: Job, plan: Plan) -> str:
    """What the user should know where images can't be told apart by patient; "" where all is well."""
    count, unknown = plan.patients()
    return PATIENTS_UNKNOWN.format(unknown, count) if unknown and not _nobody(job) else ""


def _nobody(job: Job) -> bool:
    """Whether the images are of no patient at all."""
    return job.generated or job.spec.no_patients


def write_metadata(
    job: Job, plan: Plan, done: Mapping[str, Sequence[ShardResult]], parts: Mapping[str, Sequence[Path]]
) -> DatasetCard:
    """Writes all files of the dataset but the records, the report and the card, which is returned."""
    spec = job.spec
    late = sorted(r for results in done.values() for result in results for r in result.rejected)
    reasons = manifest.write_rejected(job.out, heapq.merge(plan.rejected(), late))
    written = {split: sum(r.records for r in results) for split, results in done.items()}
    check_members(spec, written)
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
            "limits": job.limits.told(),
            "salt": {"kind": job.salt.kind, "fingerprint": job.salt.fingerprint()},
            "files": plan.files(),
            "left_out": plan.left_out(),
            "not_asked": dict(zip(("files", "images"), plan.not_asked())),
            "series": plan.series(),
            "patients": {"joined": plan.joined(), "nobody": _nobody(job), "note": patients_note(job, plan)},
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
    if not_asked := plan.not_asked()[1]:
        log(f"{not_asked} images are not wanted by the options of the dataset: left out")
    for split, labels in counts.items():
        few = ", ".join(f"{name}: {n}" for name, n in itertools.islice(labels.items(), 14))
        log(f"{split}: {written[split]} records" + (f" ({few}{', ...' if len(labels) > 14 else ''})" if few else ""))


def sizes_text(sizes: Mapping[str, int]) -> str:
    """Records of each split as one line."""
    return ", ".join(f"{split} {n}" for split, n in sizes.items())
