"""Labels that were read out of radiology reports by the CheXpert labeller: positive, negative, uncertain or no mention.

Irvin et al., CheXpert, AAAI 2019. MIMIC-CXR-JPG uses the same fourteen observations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from data_prep.spec import Candidate, Reject, Row
from radnet_jax.errors import UserError

NO_FINDING = "No Finding"
OBSERVATIONS = (
    NO_FINDING, "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
COMPETITION = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
UNCERTAIN = ("ignore", "zeros", "ones", "best")
# The best of U-Ignore, U-Zeros and U-Ones by AUROC on the radiologists' validation set (table 3 of the paper, checked
# against a transcription): 0.858 for atelectasis, 0.840 for cardiomegaly, 0.938 for consolidation, 0.941 for oedema,
# 0.934 for effusion. Of all its policies U-MultiClass is best for cardiomegaly (0.854) and effusion (0.936) and
# U-SelfTrained for consolidation (0.939); these are ways to train, which no label can say.
BEST = {
    "Atelectasis": "ones", "Cardiomegaly": "zeros", "Consolidation": "ignore", "Edema": "ones",
    "Pleural Effusion": "ones",
}  # fmt: skip
VIEWS = ("frontal", "all", "PA", "AP")
ALIASES = {"Airspace Opacity": "Lung Opacity"}  # as the radiologists' tables call it
_CODES = {"1": "1", "0": "0", "-1": "u", "": "b"}


class Policy(NamedTuple):
    """What becomes of labels that say neither yes nor no; pickled into worker processes.

    Attributes:
      findings: names in index order.
      uncertain: one of UNCERTAIN.
      blank: what no mention is, "negative" (as the paper counts it, table 1) or "ignore".
    """

    findings: tuple[str, ...]
    uncertain: str
    blank: str

    def read(self, codes: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Labels and label mask of the codes that `pack` made."""
        pairs = [self._read(finding, code) for finding, code in zip(self.findings, codes, strict=True)]
        return tuple(label for label, _ in pairs), tuple(known for _, known in pairs)

    def _read(self, finding: str, code: str) -> tuple[int, int]:
        if code == "b":  # No Finding is a conclusion, not a mention: without it there was one
            return 0, int(self.blank == "negative" or finding == NO_FINDING)
        if code == "u":
            rule = BEST.get(finding, "ignore") if self.uncertain == "best" else self.uncertain
            return int(rule == "ones"), int(rule != "ignore")
        if code == "-":
            return 0, 0
        return int(code), 1


def check_policy(dataset: str, findings: str, views: str, uncertain: str, blank: str) -> Policy:
    """Checks the options that CheXpert and MIMIC-CXR-JPG share."""
    for name, value, valid in (
        ("findings", findings, ("14", "5")),
        ("views", views, VIEWS),
        ("uncertain", uncertain, UNCERTAIN),
        ("blank", blank, ("negative", "ignore")),
    ):
        if value not in valid:
            raise UserError(f"{dataset}: {name}", got=repr(value), expected=f"one of {', '.join(valid)}")
    return Policy(OBSERVATIONS if findings == "14" else COMPETITION, uncertain, blank)


def pack(row: Mapping[str, str], findings: Sequence[str]) -> str:
    """One character for each finding of a table's row: 1, 0, u (uncertain), b (blank), - (no such column), x (else)."""
    return "".join(
        "-" if finding not in row else _CODES.get(row[finding].removesuffix(".0"), "x") for finding in findings
    )


def rank(packed: Iterable[str], findings: Sequence[str]) -> tuple[int, ...]:
    """For each finding its place among all from the rarest (0) to the commonest, by the positives among `packed`."""
    counts = [0] * len(findings)
    for codes in packed:
        for index, code in enumerate(codes):
            counts[index] += code == "1"
    order = sorted(range(len(findings)), key=lambda index: (counts[index], index))
    return tuple(order.index(index) for index in range(len(findings)))


def stratum(labels: Sequence[int], ranks: Sequence[int]) -> int:
    """Rank of the rarest positive finding; the number of findings where there is none."""
    return min((place for place, label in zip(ranks, labels, strict=True) if label), default=len(ranks))


def check_codes(codes: str) -> None:
    """Rejects a row with a label that is none."""
    if "x" in codes:
        raise Reject("unknown_label")


def row(
    candidate: Candidate,
    policy: Policy,
    ranks: Sequence[int],
    *,
    identity: str,
    patient: str,
    pool: str,
    facts: Mapping[str, str | None],
) -> Row:
    """The row of an image whose candidate carries the codes of its report.

    Raises:
      Reject: unknown_label.
    """
    check_codes(candidate.entry["codes"])
    labels, label_mask = policy.read(candidate.entry["codes"])
    return Row(
        path=candidate.path,
        identity=identity,
        patient=patient,
        stratum=stratum(labels, ranks),
        labels=labels,
        label_mask=label_mask,
        pool=pool,
        facts=facts,
    )


def is_wanted(view: str | None, views: str) -> bool:
    """Whether a view ("PA", "AP", "frontal" = one of them, "lateral", "other", None) belongs to those asked for."""
    return views == "all" or view == views or (views == "frontal" and view in ("PA", "AP", "frontal"))
