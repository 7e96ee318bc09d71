"""What there is to ask of a study's runs, found by what their records name; and start against start."""

import math

from ml_collections import ConfigDict
import pytest
from scipy import stats

from radnet_jax.analysis import of_study, study_findings
from radnet_jax.data.card import DatasetCard, Member
from radnet_jax.errors import UserError
from radnet_jax.evaluation.ledger import Run
from radnet_jax.main import load_config
from radnet_jax.preprocessing import StoredPixels
from tests.tiny import ROOT

XRAY, PHOTOS, CLASSES = "xray-print", "photo-print", "classes-print"


def dataset(folder, fingerprint, modality, members=()):
    folder.mkdir(parents=True)
    stored = StoredPixels(modality, "none", (0.0, 255.0), (8, 8), 1, "pad_area", "uint8")
    members = tuple(Member(m, 1.0, m, {"train": 9}, "") for m in members)
    DatasetCard(fingerprint, "1", "none", (), stored, {"test": 30}, fingerprint, members=members).write(folder)


def record(name, kind, start, checkpoint=None, lineage=(), *, seed=0, fraction=1.0, task="finding"):
    return dict(
        run_id=f"id-{name}", name=name, kind=kind, start=start, checkpoint=checkpoint, seed=seed, task=task, variant="",
        protocol="fine_tune", lineage=[dict(name=f, fingerprint=f) for f in lineage],
        dataset=dict(name=XRAY, fingerprint=XRAY), adapter=dict(model_input=dict(modality="photo")),
        config=dict(init_from=start, adapter=None, tags=dict(fraction=fraction)),
    )  # fmt: skip


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Pretrainings on X-rays, photographs, both, and photographs then X-rays; a task of X-rays."""
    for name, modality, members in ((XRAY, "XR", ()), (PHOTOS, "photo", ()), ("mixed", "photo", (XRAY, PHOTOS))):
        dataset(tmp_path / "study" / "datasets" / name, name, modality, members)
    trained = dict(xray=[XRAY], natural=[PHOTOS], mixed=["mixed"], sequential=[PHOTOS, XRAY])
    records = [record(f"pretrain {s}", "pretrain", s) for s in trained]
    for start, lineage in trained.items():
        records += [
            record(f"{start} {i}", "finetune", start, f"id-pretrain {start}@5-abc", lineage, seed=i) for i in (0, 1)
        ]
    records += [record("less", "finetune", "xray", fraction=0.1), record("scratch 0", "finetune", "scratch")]
    records += [record("probe", "linear_probe", "xray")]
    runs = []
    for told in records:
        folder = tmp_path / "study" / "runs" / told["name"]
        (folder / "checkpoints").mkdir(parents=True)
        runs.append(Run(folder, told))
    monkeypatch.setattr(of_study.ledger, "read_runs", lambda root: runs)
    return tmp_path / "study", runs


def test_the_questions_of_a_study(study):
    folder, _ = study
    found = {q.start: q for q in of_study.questions(folder, None)}
    assert {s: q.domain for s, q in found.items()} == dict(
        xray="own", natural="other", mixed="own", sequential="own", scratch="none"
    )
    assert [r.name for r in found["xray"].runs] == ["xray 0", "xray 1"]  # all labels, no probe
    assert found["xray"].before == (str(folder / "runs" / "pretrain xray"),) * 2
    assert found["scratch"].before == ("initial",)
    assert found["xray"].dataset == folder / "datasets" / XRAY
    assert found["xray"].id == "finding-fine_tune-xray"


def test_datasets_that_lie_elsewhere(study, tmp_path):
    folder, runs = study
    for run in runs:
        run.record["dataset"] = dict(name=CLASSES, fingerprint=CLASSES)
    with pytest.raises(UserError, match="dataset of finding is not in the study's folder"):
        of_study.questions(folder, None)
    dataset(tmp_path / "elsewhere" / "classes", CLASSES, "photo")
    for place in ("elsewhere", "elsewhere/classes"):
        found = {q.start: q.domain for q in of_study.questions(folder, tmp_path / place)}
        assert found == dict(xray="other", natural="modality", mixed="modality", sequential="modality", scratch="none")


def test_a_start_that_is_not_there(study):
    folder, runs = study
    runs[4].record["checkpoint"] = "gone@5-abc"
    with pytest.raises(UserError, match="neither in the study nor an import"):
        of_study.questions(folder, None)


def test_what_is_refused(study, tmp_path):
    folder, runs = study
    settings = load_config(ROOT / "configs" / "analyze.py").to_dict() | dict(study=str(folder))
    with pytest.raises(UserError, match="names its networks itself"):
        of_study.run(ConfigDict(settings | dict(a="x")), tmp_path / "out")
    del runs[4:]
    with pytest.raises(UserError, match="no fine-tuned run"):
        of_study.run(ConfigDict(settings), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def over(*values):
    mean = sum(values) / len(values)
    return dict(mean=mean, low=mean - 0.1, high=mean + 0.1, values=list(values))


def start(name, domain, cka, units, task="finding"):
    layer = dict(cka=over(*cka), random=0.2, two_seeds=0.3)
    read = {
        k: dict(before=over(0), after=over(d), difference=over(d), p_holm=p)
        for k, d, p in (("a", 1, 0.01), ("b", -1, 0.01), ("c", 1, 0.5))
    }
    layers = dict(first=layer | dict(cka=over(1.0)), last=layer)
    shares = {
        k: dict(share=over(*v), chance=over(*[0] * len(v))) for k, v in (("first", [0.8] * len(units)), ("last", units))
    }
    responds = dict(a=dict(kept=over(0.4), random=0.2), b=dict(kept=over(0.6), random=0.55))
    told = dict(n=3, starts=3, block="first", layers=layers, units=shares, read=read, responds=responds)
    return dict(task=task, setting="fine_tune", start=name, domain=domain, over_seeds=told)


def test_in_domain_against_other_starts():
    near, far, units = (0.80, 0.81, 0.82), (0.50, 0.51, 0.53), (0.3, 0.5, 0.4)
    starts = [("xray", "own", near), ("natural", "other", far), ("scratch", "none", far)]
    finding = [start(*about, units) for about in starts]
    found = study_findings.summarised([*finding, start("xray", "other", far, far, "photographs")])
    assert [t["task"] for t in found["tasks"]] == ["finding", "photographs"]
    cka, kept = found["comparisons"]
    p = stats.ttest_ind(near, far, equal_var=False).pvalue
    assert cka["p_holm"] == pytest.approx(2 * p)
    assert kept["p_holm"] == 1
    row = found["tasks"][0]["rows"][0]
    assert row["units"]["share"]["values"] == pytest.approx([(0.8 + u) / 2 for u in units])
    assert (row["follows"], row["better"], row["worse"]) == (["a"], ["a"], ["b"])
    assert found["tasks"][0]["found"] == [
        "The last block changed most from natural (CKA before and after 0.51 (0.41 to 0.61)), "
        "least from xray (0.81 (0.71 to 0.91)).",
        "There it is more alike before and after than two random networks of xray, natural and scratch.",
        "In-domain starts against others, CKA of the last block: xray more than natural (0.81 against 0.51).",
        "In-domain starts against others, units kept, mean over blocks: it can't be told which keep more (1 pair).",
        "Welch's tests over seeds, on these images; p corrected for the 2 comparisons of this page.",
    ]
    assert found["tasks"][1]["found"] == [
        "The last block changed most from xray (CKA before and after 0.51 (0.41 to 0.61)).",
        "There it is more alike before and after than two random networks of xray.",
    ]


def test_seeds_that_share_a_pretraining_do_not_speak_for_another():
    starts = [
        start("xray", "own", (0.80, 0.81, 0.82), (0.3,) * 3),
        start("ct", "other", (0.25, 0.26, 0.27), (0.1,) * 3),
    ]
    starts[1]["over_seeds"]["starts"] = 1
    (task,) = study_findings.summarised(starts)["tasks"]
    assert task["found"][1].endswith("two random networks of xray.")  # 0.26, from 0.16 on: not of ct
    assert task["found"][-1].startswith("Of ct all seeds began with one checkpoint")


def test_without_a_defined_block_nothing_is_claimed():
    (task,) = study_findings.summarised([start("ct", "own", (math.nan,), (0.5,))])["tasks"]
    assert task["found"] == ["No start has a defined similarity of its last block before and after."]
