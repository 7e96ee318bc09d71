"""The compare run by its command line, as a user starts it, and the tables that it writes."""

import csv
import json
import math
import re
import shutil
import subprocess

import numpy as np
import pytest
from scipy import stats

from radnet_jax import main
from radnet_jax.errors import UserError
from radnet_jax.evaluation import compare_run, export, foreign, ledger
from tests.evaluation.simulated import Cases, study
from tests.evaluation.test_foreign import rows_of, write
from tests.evaluation.test_published import LINEVAL
from tests.test_main import run
from tests.tiny import ROOT

ISSUED = (
    *("experiment", "task", "variant", "metric", "a", "b", "n_a", "n_b", "mean_a", "mean_b", "delta", "delta_relative"),
    *("t", "df", "p", "p_corrected", "low", "high", "effect_size", "smallest_detectable", "verdict"),
)


def config(**changes):
    out = main.load_config(ROOT / "configs" / "compare.py").copy_and_resolve_references()
    with out.unlocked():
        out.n_resamples = 200
        out.update(changes)
    return out


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    curve = [{"step": 10 * i, "loss": 3 / (i + 1), "val_accuracy": min(0.5, 0.1 * i)} for i in range(30)]
    study(root, Cases(n_patients=60), {"ct": 1.6, "natural": 0.4, "scratch": 0.3}, seeds=3, curves=curve)
    return root


def test_run_folders_to_a_table_a_report_and_a_time_to_convergence(folders, tmp_path):
    compare_run.run(config(runs=str(folders), curve="val_accuracy"), tmp_path)
    rows = table(tmp_path / "comparisons.csv")
    assert tuple(rows[0])[: len(ISSUED)] == ISSUED
    primary = [r for r in rows if r["role"] == "primary"]
    assert {(r["experiment"], r["task"], r["metric"]) for r in primary} == {("fine_tune", "regions", "accuracy")}
    assert len(primary) == 3
    others = [r for r in rows if r["role"] == "exploratory"]
    assert "auroc" in {r["metric"] for r in others}
    assert {r["verdict"] for r in others} <= {"exploratory", "undefined"}
    assert {r["p_corrected"] for r in others} == {""}
    runs = [r for r in ledger.read_runs(folders)]
    auroc = {s: [r.metrics["test"]["auroc"]["value"] for r in runs if r.start == s] for s in ("ct", "natural")}
    row = next(r for r in others if (r["a"], r["b"], r["metric"]) == ("ct", "natural", "auroc"))
    assert float(row["p"]) == pytest.approx(stats.ttest_ind(*auroc.values(), equal_var=False).pvalue, rel=1e-6)
    document = json.loads((tmp_path / "comparisons.json").read_text())
    assert len(document["rows"]) == 3
    assert len(document["exploratory"]) == len(others)
    assert (tmp_path / "report" / "index.html").is_file()
    convergence = table(tmp_path / "convergence.csv")
    assert len(convergence) == 9
    assert {(r["convergence"], r["step"]) for r in convergence} == {("5", "50")}
    with pytest.raises(UserError, match=r"no run has a curve 'val_acuracy' \(did you mean \"val_accuracy\""):
        compare_run.run(config(runs=str(folders), curve="val_acuracy"), tmp_path / "b")


def test_a_curve_without_convergence_stops_nothing(tmp_path):
    """Of four runs one is too short, one breaks down, one never settles; the fourth settles in the 101st point."""
    curves = {
        "short": [0.5] * 9,
        "broken": [0.5] * 19 + [math.nan],
        "never": [0.1] * 110 + [0.1, 0.9] * 5,
        "late": [*np.linspace(0.1, 0.8, 100), *[0.9] * 20],
    }
    for start, values in curves.items():
        points = [{"step": 10 * i, "loss": 1.0, "val_accuracy": float(v)} for i, v in enumerate(values)]
        study(tmp_path / "runs", Cases(n_patients=20, seed=1), {start: 1.0}, seeds=1, curves=points)
    compare_run._write_convergence(tmp_path / "c.csv", ledger.read_runs(tmp_path / "runs"), "val_accuracy")
    found = {r["start"]: (r["convergence"], r["step"], r["reason"]) for r in table(tmp_path / "c.csv")}
    assert found == {
        "short": ("", "", "few_points"),
        "broken": ("", "", "not_finite"),
        "never": ("", "", "not_reached"),
        "late": ("100", "1000", ""),
    }


def runs_table(path, values):
    lines = [f"{s},R,{i},accuracy,{v}\n" for s, of in values.items() for i, v in enumerate(of)]
    path.write_text("pretraining,task,run,metric,value\n" + "".join(lines))
    return path


def test_a_table_of_runs_with_the_synthetic_groups_of_the_study(tmp_path, capsys):
    path = runs_table(tmp_path / "t.csv", LINEVAL)
    compare_run.run(config(table=str(path), protocol="radnet_published"), tmp_path / "out")
    rows = table(tmp_path / "out" / "comparisons.csv")
    assert [r["role"] for r in rows] == ["primary"] * 3 + ["published"] * 7
    row = next(r for r in rows if (r["a"], r["b"]) == ("R (UB-adj.)", "I1k"))
    assert (f"{100 * float(row['delta_relative']):+.2f}", f"{float(row['p']):.3f}") == ("+2.07", "0.025")
    assert (row["p_corrected"], row["verdict"]) == ("", "as published, no verdict")
    assert f"{float(row['p_one_sided']):.4f}" == "0.0127"
    page = (tmp_path / "out" / "report" / "index.html").read_text()
    assert "of runs, without their cases: intervals are over seeds" in page
    assert "over patients" not in page.split('id="reading"')[0]
    assert "rests on the seed test alone" in capsys.readouterr().out


def test_predictions_of_another_program_by_the_command_line(tmp_path):
    path = write(tmp_path / "p.csv", rows_of(n=60))
    flags = [f"--config.table={path}", "--config.primary_metric=('auroc',)", "--config.n_resamples=200"]
    done = run("--config=configs/compare.py", *flags, f"--workdir={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert "ct is the best start, for these checkpoints" in done.stdout
    assert (tmp_path / "out" / "report" / "index.html").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "what is compared; got neither"),
        ({"runs": "a", "table": "b"}, "what is compared; got both"),
        ({"runs": "nowhere"}, "no folder nowhere"),
        ({"runs": "nowhere", "scale": 0.01}, "config.scale is not read for a folder of runs; got 0.01"),
        ({"runs": "nowhere", "protocol": "radnet_published"}, "config.protocol is not read for a folder of runs"),
        ({"table": "CASES"}, "needs its primary metric declared"),
        ({"table": "CASES", "baseline": "ct"}, "config.baseline is not read for a table of cases"),
        ({"table": "RUNS", "std_ddof": 0}, "config.std_ddof is not read for a table of runs"),
        ({"table": "RUNS", "protocol": "radnet"}, 'did you mean "radnet_published"'),
        ({"table": "RUNS", "alpha": 2.0}, "settings of the comparison out of range"),
        ({"table": "CASES", "primary_metric": ("auroc",), "seed": -1}, "out of range; .*seed=-1"),
        ({"table": "RUNS", "experiments": ("E9",)}, "no experiment 'E9'"),
        ({"table": "nowhere.csv"}, "table nowhere.csv can't be read"),
    ],
)
def test_what_can_not_be_compared_is_refused_before_anything_is_written(tmp_path, changes, message):
    files = {
        "CASES": write(tmp_path / "c.csv", rows_of(seeds=1, n=4)),
        "RUNS": runs_table(tmp_path / "r.csv", LINEVAL),
    }
    changes = {k: str(files.get(v, v)) if isinstance(v, str) else v for k, v in changes.items()}
    with pytest.raises(UserError, match=message) as caught:
        compare_run.run(config(**changes), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").glob("comparisons*"))


def test_latex_shows_any_name_as_it_is(tmp_path):
    rng = np.random.default_rng(0)
    values = {r"50%_of\data & {x}": rng.normal(0.9, 0.01, 4).round(4), "b": rng.normal(0.8, 0.01, 4).round(4)}
    path = runs_table(tmp_path / "t.csv", values)
    compare_run.run(config(table=str(path)), tmp_path / "out")
    text = (tmp_path / "out" / "comparisons.tex").read_text()
    assert r"50\%\_of\textbackslash{}data \& \{x\}" in text
    body = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert {line.replace(r"\&", "").count("&") for line in body} == {7}
    assert export.latex("a~b^c") == r"a\textasciitilde{}b\textasciicircum{}c"
    if not shutil.which("pdflatex"):
        pytest.skip("pdflatex is absent: the table was not typeset")
    paper = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}\noindent\input{comparisons}"
    (tmp_path / "out" / "paper.tex").write_text(paper + r"\end{document}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path / "out", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "Overfull" not in done.stdout


def test_the_page_for_users_says_what_its_table_gives(tmp_path, capsys):
    page = (ROOT / "docs" / "compare_your_runs.md").read_text()
    cases, runs = re.findall(r"```csv\n(.*?)```", page, re.DOTALL)
    (tmp_path / "results.csv").write_text(runs)
    compare_run.run(config(table=str(tmp_path / "results.csv")), tmp_path / "out")
    assert re.findall(r"prints\n\n```\n(.*?)\n```", page)[0] in capsys.readouterr().out
    (tmp_path / "predictions.csv").write_text(cases)
    read = foreign.import_predictions(tmp_path / "predictions.csv", tmp_path / "runs", primary_metric="auroc")
    assert [(r.start, r.predictions.label_mask.sum()) for r in read] == [("imagenet", 3), ("radnet", 3)]
    for name in re.findall(r"--config\.(\w+)", page):
        assert name in config()
    for column in re.findall(r"`(\w+)`", page[page.index("## Reading") :].split("`exploratory` rows")[0]):
        assert column in (*export.COLUMNS, "equivalent", "undefined", "primary", "exploratory", "published")
