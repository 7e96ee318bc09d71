"""Every figure of docs/published_studies.md comes from the commands that it names."""

import csv
import re
import shlex

import pytest

from radnet_jax import main
from radnet_jax.evaluation import compare_run
from tests.tiny import ROOT

PAGE = (ROOT / "docs" / "published_studies.md").read_text()


def command(number):
    """The arguments of a command of the page, by its number from 0."""
    found = [c for c in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) if "--config.table" in c]
    return shlex.split(found[number].replace("\\\n", " "))


def outcome(number, table, folder):
    """Runs a command of the page with the user's table; returns the rows that it wrote."""
    config = main.load_config(ROOT / "configs" / "compare.py").copy_and_resolve_references()
    with config.unlocked():
        for flag in command(number):
            name, _, value = flag.removeprefix("--config.").partition("=")
            if flag.startswith("--config.") and name != "table":
                old = config[name]
                config[name] = eval(value) if isinstance(old, tuple) else type(old)(value)
        config.table = str(table)
    path = compare_run.run(config, folder)
    with open(path, newline="") as file:
        return [
            {k: float(v) if re.fullmatch(r"-?[\d.]+(e-?\d+)?", v) else v for k, v in row.items()}
            for row in csv.DictReader(file)
        ]


def pick(rows, role, **where):
    (row,) = [r for r in rows if r["role"] == role and all(r[k] == v for k, v in where.items())]
    return row


def p(value):
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def change(row):
    return f"{100 * row['delta_relative']:+.2f} %, p {p(row['p'])}"


def corrected(row):
    low, high = 100 * row["low"], 100 * row["high"]
    return f"{row['verdict']} ({low:+.1f} to {high:+.1f}, corrected p {p(row['p_corrected'])})"


def headline(rows, experiment, task, variant, published):
    """A line of the table of headlines: as published, as recomputed, and what the runs that exist say."""
    at = {"experiment": experiment, "task": task, "variant": variant, "metric": "accuracy"}
    made = pick(rows, "published", a="R (UB-adj.)", b="I1k", **at)
    real = pick(rows, "primary", a="R", b="I1k", **at)
    return (
        f"| {experiment} {task} {variant} | {published} | {100 * made['delta_relative']:+.3f} %, p {made['p']:.4f} | "
        f"{change(real)} | {corrected(real)} |"
    )


def first_study(rows, experiment, task, metric):
    """A line of the table of all pairs with I1k."""
    at = {"experiment": experiment, "task": task, "metric": metric, "b": "I1k"}
    made = pick(rows, "published", a="R (UB-adj.)", **at)
    real = [next(r for r in rows if r["a"] == a and all(r[k] == v for k, v in at.items())) for a in ("R", "RF")]
    verdicts = "; ".join(f"{r['a']}: {r['verdict']}" for r in real)
    return f"| {task} {metric} | {change(made)} | {change(real[0])} | {change(real[1])} | {verdicts} |"


def second_study(rows, task, a, metric, published):
    at = {"task": task, "a": a, "metric": metric}
    own, judged = pick(rows, "published", **at), pick(rows, "primary", **at)
    return (
        f"| {task}, {a} | {published} | {p(own['p'])} | {p(own['p_one_sided'])} | {100 * judged['delta']:+.2f} | "
        f"{corrected(judged)} |"
    )


def test_headlines_from_the_runs_on_the_page(tmp_path):
    (table,) = re.findall(r"```csv\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "headlines.csv").write_text(table)
    rows = outcome(0, tmp_path / "headlines.csv", tmp_path / "out")
    assert headline(rows, "E4", "R", "lineval", "+2.07 %, p .025") in PAGE
    assert headline(rows, "E2", "R", "XS", "+1.63 %, p .114") in PAGE


def test_first_study(reference_tables, tmp_path):
    rows = outcome(1, reference_tables / "radnet_study_runs.csv", tmp_path)
    assert headline(rows, "E1", "R", "full", "+0.44 %, p .541") in PAGE
    for task, metric in FIRST:
        assert first_study(rows, "E1", task, metric) in PAGE


FIRST = [
    ("R", "accuracy"),
    ("I1k", "accuracy"),
    ("CX8", "auc_macro"),
    ("LiTS", "dice_tumor"),
    ("LiTS", "dice_liver"),
    ("BraTS", "dice_WT"),
    ("BraTS", "dice_TC"),
    ("BraTS", "dice_ET"),
]
INAT, MIMIC = "iNat2021 (supervised)", "ImageNet->MIMIC"
SECOND = [  # command, task, start, metric, p as published
    (2, "PXS", INAT, "Dice", ".19"),
    (2, "VFS", INAT, "Dice", ".15"),
    (2, "DXC14", INAT, "mAUC14", ".058"),
    (3, "HXS", MIMIC, "Dice", ".015"),
    (4, "VFS", "SeLa-v2", "Dice", "n.s."),
    (4, "VFS", "SwAV", "Dice", "n.s."),
    (4, "VFS", "DeepCluster-v2", "Dice", "n.s."),
]
DOMAIN = [
    ("DXC14", "ImageNet->CheXpert", "mAUC14"),
    ("DXC5", "ChestX-ray14 (in-domain scratch)", "mAUC5"),
    ("TXC", "ImageNet->ChestX-ray14", "AUC"),
    ("PXS", "ImageNet->ChestX-ray14", "Dice"),
    ("LXS", "ImageNet->CheXpert", "Dice"),
]


@pytest.mark.parametrize("number", [2, 3, 4])
def test_second_study(reference_tables, tmp_path, number):
    rows = outcome(number, reference_tables / "transfer_benchmark_results.csv", tmp_path)
    for which, task, a, metric, published in SECOND:
        if which == number:
            assert second_study(rows, task, a, metric, published) in PAGE


def test_second_study_on_domains(reference_tables, tmp_path):
    rows = outcome(5, reference_tables / "transfer_benchmark_results.csv", tmp_path)
    for task, a, metric in DOMAIN:
        assert second_study(rows, task, a, metric, "–") in PAGE
