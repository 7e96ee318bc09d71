"""The command line of the audit. Exit codes: 0 clean, 1 leaks found, 2 wrong usage."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import sys
from typing import NoReturn

from data_prep.audit import DISTANCE, LIKENESS, AuditResult, audit
from data_prep.audit.page import check_out, write_audit
from radnet_jax.errors import UserError

_NOUNS = {"patient": "patient", "file": "file", "image": "image"}
_SHOWN = 5


class _Flags(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, where argparse prints the usage too and exits."""
        raise UserError(message, fix="see python -m data_prep.audit --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    flags = _Flags(
        "python -m data_prep.audit",
        description="Is the test set clean? Finds the same patient, file or picture in splits of different names, "
        "within each dataset and between them. Exit codes: 0 clean, 1 leaks found, 2 wrong usage.",
        allow_abbrev=False,
    )
    flags.add_argument("datasets", nargs="*", metavar="DATASET", help="folder (or URL) of a built dataset")
    flags.add_argument(
        "--out", metavar="DIR", help="write audit.json, audit.parquet and audit.html there (with the images of pairs)"
    )
    flags.add_argument(
        "--distance", type=int, default=DISTANCE,
        help="bits by which two hashes may differ for the pixels to be compared (default %(default)s)",
    )  # fmt: skip
    flags.add_argument(
        "--likeness", type=float, default=LIKENESS,
        help="correlation of the detail from which on two images are the same picture (default %(default)s)",
    )  # fmt: skip
    flags.add_argument(
        "--images_only", action="store_true", help="of datasets with different salts, compare the images alone"
    )
    try:
        known = flags.parse_args(arguments)
        if known.out:
            check_out(known.out)
        result = audit(known.datasets, distance=known.distance, likeness=known.likeness, images_only=known.images_only)
        if known.out:
            write_audit(known.out, result, known.datasets)
    except UserError as error:
        print(f"data_prep.audit: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("data_prep.audit: interrupted", file=sys.stderr)
        return 130
    for text in told(result):
        print(text)
    if known.out:
        print(f"details: {known.out}/audit.html, audit.json, audit.parquet")
    return 0 if result.clean else 1


def told(result: AuditResult) -> list[str]:
    """The lines for the console: the verdict, leaks by kind and pair of splits, the first few of each, the limits."""
    names = ", ".join(f"{d['name']} ({_splits(d['splits'])})" for d in result.datasets)
    out = [
        f"audited {names}: {len(result.compared)} pairs of splits, {result.candidates:,} pairs of images with near "
        "hashes compared by their pixels"
    ]
    out += [f"note: {note}" for note in result.notes]
    if result.clean:
        return [*out, "clean: no patient, file or picture is in two splits that must not share any"]
    groups: dict[tuple[str, str, str], list[dict]] = {}
    for row in result.pairs.to_pylist():
        sides = (f"{row['dataset_a']} {row['split_a']}", f"{row['dataset_b']} {row['split_b']}")
        groups.setdefault((row["kind"], *sides), []).append(row)
    for (kind, a, b), rows in groups.items():
        plural = "" if len(rows) == 1 else "s"
        out.append(f"LEAK {len(rows):,} same {_NOUNS[kind]}{plural} in {a} and {b}")
        out += [f"  {_row(row)}" for row in rows[:_SHOWN]]
        if len(rows) > _SHOWN:
            out.append(f"  and {len(rows) - _SHOWN:,} more")
    return out


def _splits(splits: dict[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in splits.items())


def _row(row: dict) -> str:
    if row["kind"] == "patient":
        return f"patient {row['patient']}: {row['records_a']} and {row['records_b']} records"
    cases = f"cases {row['case_id_a']} and {row['case_id_b']}"
    if row["kind"] == "file":
        return cases
    turn = f", {row['turn']}" if row["turn"] else ""
    return f"{cases}: {row['distance']} bits, likeness {row['likeness']:.2f}{turn}"


if __name__ == "__main__":
    raise SystemExit(main())
