"""Comparisons in words: which start is best, by how much, how sure; or that there is not enough evidence."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math
from typing import TYPE_CHECKING

from radnet_jax.evaluation import metrics
from radnet_jax.evaluation.statistics import bootstrap, exact, tests

if TYPE_CHECKING:
    from radnet_jax.evaluation.comparisons import Comparison, Group

EQUIVALENT = "equivalent"
NOT_ENOUGH = "not enough evidence"
UNDEFINED = "undefined"
RARE = 5  # patients of a class; of fewer, more than one resample in 60 has none
MIN_PATIENTS = 20  # below, bootstrap intervals are known to be too narrow
REASONS = {
    **metrics.REASONS,
    **tests.REASONS,
    **bootstrap.REASONS,
    "seed_varies_nothing": "the seed varies nothing in the result of either start",
    "fixed_runs_differ": "a start whose result no seed varies has several results",
    "no_val_metric": "the metric is undefined on val, where the variant is chosen",
    "no_predictions": "the table has no predictions of cases",
    "no_sd": "the table states no SD of a start",
}


@dataclasses.dataclass(frozen=True)
class TaskVerdict:
    """The verdict of one task x protocol.

    Attributes:
      headline: the answer in a few words.
      sentence: headline and what it rests on.
      leaders: starts that no other was shown to be better than, highest mean first.
      clause: what the verdict is restricted to (see `clause`), or empty.
    """

    task: str
    protocol: str
    metric: str
    headline: str
    sentence: str
    leaders: tuple[str, ...]
    clause: str


def clause(*, checkpoints: bool, runs: bool, cases: bool = False) -> str:
    """What a verdict is restricted to.

    Args:
      checkpoints: a start has one checkpoint.
      runs: a start whose seed matters has one run.
      cases: nothing is known of single test cases, so other patients were not asked.
    """
    only = [name for name, one in (("checkpoints", checkpoints), ("runs", runs), ("test cases", cases)) if one]
    return f"for these {join(only)}" if only else ""


def points(difference: float) -> str:
    """A difference of a metric in [0, 1] in points of 0.01, with its sign: "+3.1"."""
    text = f"{100 * difference:+.1f}"
    return text.replace("-", "−") if float(text) else "0.0"


def p_value(p: float) -> str:
    """A p value for a sentence: "p = 0.012", "p < 0.001"."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.0995 else f"p = {p:.2f}"


def level_text(alpha: float) -> str:
    """The level of an interval: "95 %", "98.33 %"."""
    return f"{100 * (1 - alpha):.2f}".rstrip("0").rstrip(".") + " %"


def better_of(row: Comparison) -> tuple[str, str]:
    """(the start with the higher mean, the other one)."""
    return (row.a, row.b) if row.delta > 0 else (row.b, row.a)


def is_better(row: Comparison) -> bool:
    """Whether one start was shown to be better than the other."""
    return row.verdict not in (EQUIVALENT, NOT_ENOUGH, UNDEFINED)


def join(names: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def evidence(row: Comparison) -> str:
    """What a comparison says and the numbers it rests on, as one clause."""
    what, numbers = statement(row)
    return f"{what}: {numbers}" if row.verdict == UNDEFINED else f"{what} ({numbers})"


def statement(row: Comparison) -> tuple[str, str]:
    """(what a comparison says, the numbers it rests on); the difference is that of the better start."""
    if row.verdict == UNDEFINED:
        return f"{row.a} and {row.b} can't be compared", REASONS[row.reason]
    first, second = better_of(row)
    low, high = (row.low, row.high) if first == row.a else (-row.high, -row.low)
    numbers = (
        f"{points(abs(row.delta))} points, {level_text(row.alpha)} interval {points(low)} to {points(high)}, "
        f"corrected {p_value(row.p_corrected)}{_decisive(row)}"
    )
    if row.verdict == EQUIVALENT:
        return f"{first} and {second} are equivalent within ±{100 * row.margin:g} points", numbers
    if row.verdict == NOT_ENOUGH:
        detectable = "" if math.isnan(row.smallest_detectable) else _detectable(row)
        return f"{NOT_ENOUGH} to tell {first} from {second}", numbers + detectable
    small = f", inside the margin of ±{100 * row.margin:g} points" if max(abs(low), abs(high)) < row.margin else ""
    return f"{first} is better than {second}", numbers + small


def _decisive(row: Comparison) -> str:
    """Which of the tests has the largest p, where there are several: the verdict hangs on that one.

    Where only one start varies with the seed its name is given: the other is one value in a one-sample test.
    """
    if math.isnan(row.p_seeds):
        return ""
    if math.isnan(row.p_patients):
        return " over seeds, the only test"
    of = f" of {row.b if row.fixed == row.a else row.a}" if row.fixed else ""
    if row.p_joint > max(row.p_seeds, row.p_patients):
        return f" over seeds{of} and patients"
    return f" over seeds{of}" if row.p_seeds > row.p_patients else " over patients"


def _detectable(row: Comparison) -> str:
    found = row.smallest_detectable
    return f"; smallest detectable difference {f'{100 * found:.1f}' if found < 1 else 'over 100'} points"


def judge_task(groups: Sequence[Group], rows: Sequence[Comparison]) -> TaskVerdict:
    """The verdict of one task x protocol from its compared groups and all their pairs."""
    ranked = sorted(groups, key=lambda g: -math.inf if math.isnan(g.mean) else g.mean, reverse=True)
    beaten = {better_of(row)[1] for row in rows if is_better(row)}
    leaders = tuple(g.start for g in ranked if g.start not in beaten)
    inside = [row for row in rows if row.a in leaders and row.b in leaders]
    wins = [row for row in rows if is_better(row)]
    only = clause(**{name: any(name in row.clause for row in rows) for name in ("checkpoints", "runs", "cases")})
    suffix = f", {only}" if only else ""
    if len(ranked) == 1:
        headline = f"Only one start, {leaders[0]}: nothing to compare"
    elif len(leaders) == 1 and len([r for r in wins if better_of(r)[0] == leaders[0]]) == len(ranked) - 1:
        headline = f"{leaders[0]} is the best start{suffix}"
    elif inside and all(row.verdict == EQUIVALENT for row in inside):
        rest = f", and ahead of {join(sorted(beaten))}" if beaten and _all_beaten(leaders, beaten, wins) else ""
        headline = f"{join(leaders)} are equivalent{rest}{suffix}"
    elif inside and beaten and _all_beaten(leaders, beaten, wins):
        headline = f"{join(leaders)} are ahead of {join(sorted(beaten))}, {NOT_ENOUGH} for one best start{suffix}"
    elif rows and all(row.verdict == UNDEFINED for row in rows):
        headline = "The starts can't be compared"
    else:
        what = "that any start is better" if not wins else "for one best start"
        headline = f"Not enough evidence {what}{suffix}"
    order = {start: i for i, start in enumerate(g.start for g in ranked)}
    told = sorted(rows, key=lambda r: (not is_better(r), min(order[r.a], order[r.b]), max(order[r.a], order[r.b])))
    sentence = f"{headline}: {'; '.join(evidence(row) for row in told)}." if told else f"{headline}."
    first = ranked[0]
    return TaskVerdict(first.task, first.protocol, first.metric, headline, sentence, leaders, only)


def _all_beaten(leaders: Sequence[str], beaten: set[str], wins: Sequence[Comparison]) -> bool:
    won = {better_of(row) for row in wins}
    return all((x, y) in won for x in leaders for y in beaten)


def notes(
    groups: Sequence[Group], rows: Sequence[Comparison], family: int, alpha: float, n_resamples: int
) -> tuple[str, ...]:
    """What a reader must know: levels out of reach, few patients, labels left out, undefined comparisons."""
    out = []
    if family and 2 / (n_resamples + 1) >= alpha / family:
        out.append(
            f"{n_resamples} resamples can't reach the corrected level {alpha / family:.2g} of {family} comparisons: "
            f"raise n_resamples to {math.ceil(2 * family / alpha)} or more."
        )
    out += out_of_reach(rows, alpha, family)
    for task, first in {g.task: g for g in reversed(groups)}.items():
        if 0 < first.n_patients < MIN_PATIENTS:
            out.append(
                f"Task {task}: the test split has {first.n_patients} patient{'s' * (first.n_patients > 1)} whose cases "
                f"enter the metric; intervals over fewer than {MIN_PATIENTS} are too narrow."
            )
        # Of scores that are no numbers the truth is not to blame: those comparisons are undefined, and say why.
        for label in first.left_out if first.reason in ("", "one_class", "no_cases", "no_positive") else ():
            out.append(
                f"Task {task}: {label} has no known cases of both classes and is left out of the mean over labels."
            )
        if first.rare:
            out.append(
                f"Task {task}: of {join(first.rare)} a class has fewer than {RARE} patients in the test split; "
                f"{_percent(first.partial)} of the resamples lack a label, and their mean is over the others."
            )
    undefined = [row for row in rows if row.verdict == UNDEFINED]
    for row in undefined:
        out.append(f"{row.task}, {row.protocol}: {row.a} and {row.b} are not compared: {REASONS[row.reason]}.")
    if undefined:
        out.append(f"Undefined comparisons are not counted in the family of {family}.")
    return tuple(out)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 or not share else "less than 1 %"


def out_of_reach(rows: Sequence[Comparison], alpha: float, family: int) -> list[str]:
    """That no exact test over these seeds could confirm a verdict: Welch's test then leans on its normal law."""
    level = alpha / max(family, 1)
    least = {
        (row.tested_a, row.tested_b): exact.least_permutation_p(row.tested_a, row.tested_b)
        for row in rows
        if not math.isnan(row.p_seeds) and not row.fixed
    }
    short = {sizes: p for sizes, p in least.items() if p >= level}
    if not short:
        return []
    (a, b), p = min(short.items(), key=lambda item: item[1])
    return [
        f"Of {a} runs against {b} an exact permutation test gives no p below {p:.2g}, so it can't reach the corrected "
        f"level {level:.2g}: over seeds the verdicts rest on Welch's test, which takes the runs for normal."
    ]
