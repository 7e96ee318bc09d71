"""The one exception for what a user can mend: a bad name, a missing folder, a broken contract."""

from __future__ import annotations

from collections.abc import Iterable
import difflib

EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: start it again; clusters can tell it from a failure


class UserError(Exception):
    """Something that the user can put right, told in one line: what, got, expected, how to mend.

    `main` and `data_prep.build` print `str(error)` on one line and exit with code 2; no traceback is shown.
    """

    def __init__(self, what: str, *, got: object = None, expected: object = None, fix: str = ""):
        parts = [what]
        if got is not None:
            parts.append(f"got {got}")
        if expected is not None:
            parts.append(f"expected {expected}")
        if fix:
            parts.append(fix)
        super().__init__("; ".join(" ".join(p.split()) for p in parts))


class OtherRunError(UserError):
    """A workdir, or a checkpoint in it, is of another run."""


class NotFiniteError(UserError):
    """A step of a run was not finite: the loss or its gradient."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Returns ` (did you mean "x"?)` for the valid name nearest to `name`, or an empty string."""
    match = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f' (did you mean "{match[0]}"?)' if match else ""


class Preempted(Exception):  # noqa: N818 (the machine's doing, not an error)
    """A run was asked to stop and has saved its state; the same command goes on."""
