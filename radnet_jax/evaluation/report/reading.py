"""How the page is to be read, and what it can't show: no more than what was done with the input at hand."""

from __future__ import annotations

from collections.abc import Sequence
import math

from radnet_jax.evaluation.comparisons import Comparisons
from radnet_jax.evaluation.ledger import Run
from radnet_jax.evaluation.report import provenance, words

_SEEDS = "Welch's t-test between the runs of two starts."
_FIXED = (
    " It exists only where the seed changes the result: a linear probe of one checkpoint has a single solution, so two "
    "checkpoints are tested over patients only. Where the seed changes the result of one of the two starts, as with "
    "several random initialisations against one checkpoint, the runs of that start are held against the single result "
    "of the other: a one-sample t-test. Several runs of one checkpoint of several count once, by their mean."
)
_BOTH = (
    "Each of these tests takes the other source of chance for naught, so where both exist a third adds their "
    "variances: a t-test with Satterthwaite's degrees of freedom. “A is better than B” needs all that exist: the p of "
    "a comparison is the largest of them, and the interval, over seeds and patients where that is the wider one, must "
    "leave 0 out."
)


def has_cases(c: Comparisons) -> bool:
    """Whether test cases are known, and not only results of runs."""
    return any(g.n_cases for g in c.groups)


def questions(c: Comparisons) -> list[tuple[str, str]]:
    """(question, how it was asked), one for each test."""
    if not has_cases(c):
        return [
            ("Would other seeds say so?", f"{_SEEDS} “A is better than B” needs that the interval leaves 0 out."),
            ("Would other patients say so?", "That was not asked: the table has results of runs and no test cases."),
        ]
    drawn = (
        f"The test patients are drawn again with replacement, {c.n_resamples:,} times, each with all of their cases, "
        "and both starts are judged on the same draw."
    )
    return [
        ("Would other seeds say so?", _SEEDS + _FIXED),
        ("Would other patients say so?", drawn),
        ("Would others of both say so?", _BOTH),
    ]


def family(c: Comparisons) -> str:
    """Which comparisons were corrected together."""
    if c.family_size == 0:
        return "There was nothing to correct: no pair of starts could be compared."
    common = set.intersection(*({r.a, r.b} for r in c.rows))
    every = "every pair of starts" if len(common) != 1 else f"every start against {min(common)}"
    return (
        f"All {words.count(c.family_size, 'comparison')} of this report, over {every}, task and protocol, are one "
        f"family: Holm's procedure keeps the chance of even one false “better” below {100 * c.alpha:g} %."
    )


def undecided(c: Comparisons) -> str:
    """What "equivalent" and "not enough evidence" mean here."""
    things = "seeds and patients" if has_cases(c) else "runs"
    return (
        f"“Equivalent” says that the difference was shown to lie within ±{100 * c.margin:g} points, a margin "
        "that is to be declared before looking. “Not enough evidence” says that neither a difference nor equivalence "
        "was shown. "
        f"The smallest detectable difference is what this study, with its {things}, would have found with 80 % "
        "probability at the corrected level: smaller effects may exist unseen."
    )


def limits(c: Comparisons, runs: Sequence[Run]) -> list[str]:
    """What the page can't show."""
    out = [
        "Each task has one test split of one data set: other hospitals, scanners and label rules are not in it."
        if has_cases(c)
        else "The verdicts hold for the test cases behind the table: nothing in it speaks of other patients, "
        "hospitals, scanners or label rules."
    ]
    if any("checkpoints" in v.clause for v in c.verdicts):
        known = "A start with one pretraining run is judged as that checkpoint."
        assumed = "Where it is not said how many pretraining runs stand behind a start, it is judged as one checkpoint."
        out.append(
            f"{known if provenance.own(runs) else assumed} To tell the merit of its data from luck takes several "
            "pretraining seeds."
        )
    if provenance.own(runs):
        out.append("All starts share the hyperparameters of a protocol; a start that wants others is not given them.")
    else:
        out.append("How the runs were trained, and whether all starts alike, is not known here.")
    few = min((g.n for g in c.groups if g.seed_varies), default=0)
    if 0 < few < 6:
        out.append(
            f"With {words.count(few, 'run')} in a group only large differences show over seeds; six or more are better."
        )
    out.append("A small p is no large effect: read the difference and its interval.")
    return out


def sources(c: Comparisons) -> str:
    """What the numbers were computed from."""
    if has_cases(c):
        return "Every number is recomputed from the predictions in the run folders"
    stated = any(not g.values and not math.isnan(g.mean) for g in c.groups)
    return f"Every number is computed from {'the means and SDs' if stated else 'the results of runs'} in the table"


def why_only(clause: str, *, stated: bool) -> str:
    """Why a verdict is restricted.

    Args:
      clause: the restriction, see `verdicts.clause`.
      stated: whether it is on record which pretraining is behind each run.
    """
    reasons = []
    if "checkpoints" in clause and stated:
        reasons.append("a start has one pretraining run, so another run of it could differ")
    elif "checkpoints" in clause:
        reasons.append("the table does not tell several pretraining runs of a start, and another could differ")
    if "runs" in clause:
        reasons.append("a start has one run, so the spread of its seeds is unknown")
    if "cases" in clause:
        reasons.append("the table has none, so nothing is known of other patients")
    return "; ".join(reasons) + "."
