"""A whole study, as small as it gets: it ends in a report, and goes on where it was stopped."""

import html
import json
import os
import shutil
import signal
import subprocess
import sys
import time

from ml_collections import ConfigDict
import pytest

from radnet_jax.analysis import command
from radnet_jax.data.card import read_card
from radnet_jax.errors import UserError
from radnet_jax.evaluation import ledger
from radnet_jax.main import load_config
from radnet_jax.study import expand, spec
from radnet_jax.study import run as study
from tests.tiny import ROOT

TINY = dict(name="resnet10", base_width=4)


def tiny_config(**changes):
    config = load_config(ROOT / "configs" / "quickstart.py").to_dict()
    config["seeds"] = (0, 1)
    config["datasets"]["ct"]["generate"] |= dict(patients_per_region=6, slices=3, image_size=32)
    config["datasets"]["ct"]["options"] |= dict(size=24, workers=1)
    config["datasets"]["leaves"]["generate"] |= dict(images=20, image_size=32)
    config["datasets"]["leaves"]["options"] |= dict(size=24, workers=1)
    sections = [s["config"] for s in (*config["pretraining"].values(), *config["protocols"].values())]
    for section in sections:
        section |= dict(backbone=TINY, eval_batch_size=16)
        if section["run"] == "train":
            section |= dict(total_steps=3, batch_size=16, log_every=1)
            section["schedule"]["warmup_steps"] = 1
            section["checkpoint"]["every"] = 2
        if section["input"] is not None:
            section["input"]["size"] = (24, 24)
    config["tasks"]["body_region"]["input"]["size"] = (24, 24)
    config["compare"]["n_resamples"] = 200
    config["notes"] = ("A note of the config.",)
    return ConfigDict(config | changes).lock()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("study")
    path = study.run(tiny_config(), workdir)
    return workdir, path


def test_ends_in_a_report(finished):
    workdir, path = finished
    text = path.read_text()
    assert "body_region" in text
    before, worst = text.split('id="images"')[1].count("data:image/png;base64,"), text.split('id="images"')[0]
    assert before == 3  # two pretrainings, one task
    assert 1 <= worst.count("data:image/png;base64,") <= 2 * 8  # of each protocol, the cases most confidently wrong
    comparisons = json.loads((path.parent / "comparisons.json").read_text())
    pairs = {(r["protocol"], r["a"], r["b"]) for r in comparisons["rows"]}
    assert len(pairs) == 2 * 3  # two protocols, three starts
    assert str(workdir) not in text
    assert "A note of the config." in text


def test_seeds_run_only_where_they_vary_something(finished):
    workdir, _ = finished
    runs = sorted(p.parent.name for p in (workdir / "runs").rglob("run.json"))
    fine_tunings = [r for r in runs if "fine_tune" in r]
    probes = [r for r in runs if "linear_probe" in r]
    assert len(fine_tunings) == 3 * 2
    assert probes == [
        "body_region-linear_probe-ct-seed-0",
        "body_region-linear_probe-natural-seed-0",
        *(
            f"body_region-linear_probe-scratch-bn_{variant}-seed-{seed}"
            for variant in ("initial", "reestimated")
            for seed in (0, 1)
        ),
    ]


def test_goes_on_where_it_was_stopped(finished):
    workdir, path = finished
    runs = {p: p.stat().st_mtime_ns for p in (workdir / "runs").rglob("run.json")}
    lost = next(p for p in runs if "fine_tune-ct-seed-1" in str(p))
    before = json.loads(lost.read_text())["metrics"]
    shutil.rmtree(lost.parent)
    path.unlink()
    study.run(tiny_config(), workdir)
    assert path.is_file()
    assert json.loads(lost.read_text())["metrics"] == before
    changed = [p for p, time in runs.items() if p.stat().st_mtime_ns != time]
    assert changed == [lost]


def test_another_study_is_refused(finished):
    workdir, _ = finished
    config = tiny_config().to_dict()
    config["pretraining"]["ct"]["config"]["total_steps"] = 4
    with pytest.raises(UserError, match="another config"):
        study.run(ConfigDict(config).lock(), workdir)


def test_a_finished_study_may_be_moved(finished, tmp_path):
    workdir, _ = finished
    shutil.copytree(workdir, tmp_path / "moved")
    runs = {p: p.stat().st_mtime_ns for p in (tmp_path / "moved" / "runs").rglob("run.json")}
    study.run(tiny_config(), tmp_path / "moved")
    assert all(p.stat().st_mtime_ns == time for p, time in runs.items())


def test_only_the_runs_of_this_study_are_compared(finished, tmp_path):
    workdir, _ = finished
    shutil.copytree(workdir, tmp_path / "fewer")
    path = study.run(tiny_config(seeds=(0,)), tmp_path / "fewer")
    comparisons = json.loads((path.parent / "comparisons.json").read_text())
    assert {r["n_a"] for r in comparisons["rows"]} == {1}
    assert "are not of this study" in path.read_text()


def test_its_features_are_analysed_and_its_report_says_where(finished, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(finished[0], folder)
    settings = load_config(ROOT / "configs" / "analyze.py").to_dict() | dict(study=str(folder), eval_batch_size=16)
    command.run(ConfigDict(settings).lock(), folder / "analysis")
    told = json.loads((folder / "analysis" / "analyses.json").read_text())
    (task,) = told["tasks"]
    assert [(r["start"], r["domain"], r["n"]) for r in task["rows"]] == [
        ("ct", "own", 2), ("natural", "other", 2), ("scratch", "none", 2),
    ]  # fmt: skip
    assert [(c["a"], c["b"], c["measure"]) for c in told["comparisons"]] == [
        ("ct", "natural", "cka"), ("ct", "natural", "units"),
    ]  # fmt: skip
    page = (folder / "analysis" / "report" / "index.html").read_text()
    for row in task["rows"]:
        analysis = folder / "analysis" / row["place"]
        assert f'href="../{row["place"]}/report/index.html"' in page
        assert row["found"][0] in html.unescape(page)
        names = [pair["what"] for pair in json.loads((analysis / "analysis.json").read_text())["pairs"]]
        assert names == ["before and after"] * 2 + ["two seeds", "two random networks"]
    made = {p: p.stat().st_mtime_ns for p in (folder / "analysis").glob("*/analysis.json")}
    command.run(ConfigDict(settings).lock(), folder / "analysis")
    assert all(p.stat().st_mtime_ns == time for p, time in made.items())
    report = study.run(tiny_config(), folder)
    assert 'href="../analysis/report/index.html"' in report.read_text()
    assert "Feature space" not in finished[1].read_text()


def broken(path, value):
    config = tiny_config().to_dict()
    section = config
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    return ConfigDict(config).lock()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("starts", "ct", "pretraining"), "ctt", 'did you mean "ct"'),
        (("tasks", "body_region", "dataset"), "leafs", 'did you mean "leaves"'),
        (("tasks", "body_region", "primary_metric"), "aurocc", 'did you mean "auroc"'),
        (("pretraining", "ct", "config", "objective", "name"), "simclar", 'did you mean "simclr"'),
        (("pretraining", "ct", "config", "batch_size"), 12, "can't be divided"),
        (("seeds",), (1, 1), "must be different"),
        (("compare", "alpah"), 0.1, "alpah"),
    ],
)
def test_wrong_names_are_refused_before_anything_is_built(tmp_path, path, value, message):
    with pytest.raises(UserError, match=message):
        study.run(broken(path, value), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_missing_data_root_is_refused(tmp_path):
    config = load_config(ROOT / "configs" / "studies" / "chest_xray_mini.py")
    with pytest.raises(UserError, match="data_root is missing"):
        study.run(config, tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("protocols", "fine_tune", "config", "batch_size"), 512, "smaller than one batch"),
        (("protocols", "fine_tune", "config", "objective", "label_smoothin"), 0.1, 'did you mean "label_smoothing"'),
        (("protocols", "linear_probe", "config", "probe", "strengths"), (), "probe.strengths"),
        (("tasks", "body_region", "augment", "name"), "finetune_natural", "changes colours"),
    ],
)
def test_every_run_is_checked_before_the_first_is_trained(tmp_path, path, value, message):
    with pytest.raises(UserError, match=message):
        study.run(broken(path, value), tmp_path)
    assert not (tmp_path / "runs").exists()


def test_an_undeclared_crossing_is_refused_before_training(tmp_path):
    with pytest.raises(UserError, match=r"undeclared crossing.*CT.*photo"):
        study.run(broken(("tasks", "body_region", "adapters"), {}), tmp_path)
    assert not (tmp_path / "runs").exists()


def test_pretraining_seeds_give_each_seed_a_checkpoint(tmp_path):
    config = tiny_config(pretraining_seeds=True)
    pretraining = {job.name: job for job in expand.pretraining_jobs(spec.read(config), tmp_path)}
    assert set(pretraining) == {f"pretrain {name} seed {seed}" for name in ("ct", "natural") for seed in (0, 1)}
    assert {(job.config.seed, job.place) for job in pretraining.values()} == {
        (seed, tmp_path / "runs" / "pretraining" / f"{name}-seed-{seed}")
        for name in ("ct", "natural")
        for seed in (0, 1)
    }
    for job in expand.downstream_jobs(spec.read(config), tmp_path):
        start, seed = job.config.tags.start, job.config.seed
        assert job.config.tags.seed_varies
        of = "" if start == "scratch" else str(tmp_path / "runs" / "pretraining" / f"{start}-seed-{seed}")
        assert job.config.init_from == of
    probes = [
        j for j in expand.downstream_jobs(spec.read(config), tmp_path) if j.config.tags.protocol == "linear_probe"
    ]
    assert len([j for j in probes if j.config.tags.start == "ct"]) == 2


def test_a_start_may_have_a_pretraining_for_each_task(tmp_path):
    config = tiny_config().to_dict()
    config["tasks"]["again"] = config["tasks"]["body_region"]
    config["starts"]["own"] = {"pretraining": {"body_region": "ct", "again": "natural"}}
    jobs = list(expand.downstream_jobs(spec.read(ConfigDict(config)), tmp_path))
    of = {(j.config.tags.task, j.config.init_from) for j in jobs if j.config.tags.start == "own"}
    folder = tmp_path / "runs" / "pretraining"
    assert of == {("body_region", str(folder / "ct")), ("again", str(folder / "natural"))}
    del config["starts"]["own"]["pretraining"]["again"]
    with pytest.raises(UserError, match="one for each of again, body_region"):
        study.run(ConfigDict(config).lock(), tmp_path)


def number_of(name, workdir):
    return [job.name for job in study.all_runs(spec.read(tiny_config()), workdir)].index(name)


def test_one_job_is_run_after_what_it_needs(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "study")
    workdir, name = tmp_path / "study", "body_region fine_tune ct seed 1"
    lost = [workdir / "runs" / "pretraining" / "ct", workdir / "runs" / name.replace(" ", "-")]
    other = workdir / "runs" / "body_region-fine_tune-ct-seed-0"
    before = (lost[1] / "predictions.parquet").read_bytes()
    for folder in (*lost, other):
        shutil.rmtree(folder)
    study.run(tiny_config(job=number_of(name, workdir)), workdir)
    assert (lost[1] / "predictions.parquet").read_bytes() == before
    assert not other.exists()
    assert not list((workdir / "attempts").iterdir())


def test_a_failed_job_is_told_and_can_be_tried_again(finished, tmp_path, monkeypatch):
    shutil.copytree(finished[0], tmp_path / "study")
    workdir = tmp_path / "study"
    shutil.rmtree(workdir / "runs" / "body_region-fine_tune-ct-seed-1")

    def broken(config, folder):
        raise KeyError("DOE^JANE")

    with monkeypatch.context() as patch:
        patch.setattr(expand.RUNNERS["train"], "run", broken)
        with pytest.raises(UserError, match=r"1 job\(s\) have failed.*seed 1: KeyError.*--config.retry=True") as told:
            study.run(tiny_config(), workdir)
    assert "DOE" not in str(told.value)
    with pytest.raises(UserError, match="have failed"):
        study.run(tiny_config(), workdir)  # not tried again unasked
    study.run(tiny_config(retry=True), workdir)
    assert (workdir / "runs" / "body_region-fine_tune-ct-seed-1" / "run.json").is_file()


def test_each_fine_tuning_is_judged_at_another_site(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "study")
    workdir = tmp_path / "study"
    labels = tuple((name, name) for name in read_card(workdir / "datasets" / "ct").labels)
    config = tiny_config(seeds=(0,)).to_dict()
    config["tasks"]["body_region"]["external"] = {"again": dict(dataset="ct", labels=labels)}
    path = study.run(ConfigDict(config).lock(), workdir)
    comparisons = json.loads((path.parent / "comparisons.json").read_text())
    assert {r["task"] for r in comparisons["rows"]} == {"body_region", "body_region at again"}
    own, other = (
        ledger.read_run(workdir / "runs" / f"body_region-fine_tune-ct-seed-0{at}") for at in ("", "-at-again")
    )
    known = {case: row for case, row in zip(own.predictions.case_id, own.predictions.scores)}
    found = {case: row for case, row in zip(other.predictions.case_id, other.predictions.scores)}
    assert set(known) < set(found)  # all records of the dataset, train too
    assert all(abs(found[case] - known[case]).max() < 1e-5 for case in known)


@pytest.mark.slow
def test_processes_share_a_study_and_survive_a_kill(finished, tmp_path):
    """The command line, two processes at once on the moved folder of a study that has lost half of its runs."""
    shutil.copytree(finished[0], tmp_path / "study")
    workdir = tmp_path / "study"
    lost = sorted(p.parent for p in (workdir / "runs").rglob("run.json"))[::2]
    before = {folder: (folder / "run.json").read_text() for folder in lost}
    for folder in lost:
        shutil.rmtree(folder)
    config = tmp_path / "configs" / "tiny.py"
    config.parent.mkdir()
    config.write_text(
        "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict("
        + repr(tiny_config(claims=dict(heartbeat=0.5, missed=8)).to_dict())
        + ").lock()\n"
    )
    flags = [f"--config={config}", f"--workdir={workdir}", "--config.at_once=2"]
    command = [sys.executable, "-m", "radnet_jax.main", *flags]
    first = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    deadline = time.monotonic() + 300
    while sum((folder / "run.json").is_file() for folder in lost) < 2:
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)  # the machine is gone
    first.wait()
    done = subprocess.run(command, cwd=ROOT, timeout=300, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for folder, text in before.items():
        old, new = json.loads(text), json.loads((folder / "run.json").read_text())
        assert (new["run_id"], new.get("metrics")) == (old["run_id"], old.get("metrics"))
    assert not list((workdir / "attempts").iterdir())
    assert (workdir / "report" / "index.html").is_file()


def test_a_list_changes_nothing(finished, tmp_path, capsys):
    study.run(tiny_config(list=True), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert "pretrain ct" in capsys.readouterr().out
    study.run(tiny_config(list=True), finished[0])
    told = capsys.readouterr().out
    assert " 0 left" in told
    assert told.count("finished") == told.count("seed") + 2
