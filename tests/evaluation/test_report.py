"""The report: one file that needs nothing else, says the verdict, and takes any name for what it is."""

from html.parser import HTMLParser
import json
from pathlib import Path
import re
from urllib.parse import unquote

import cv2
import numpy as np
import pytest

from radnet_jax.errors import UserError
from radnet_jax.evaluation import ledger
from radnet_jax.evaluation.compare import compare
from radnet_jax.evaluation.report import style, write_report
from tests.evaluation.simulated import Cases, record, study

EVIL = '<img src=x onerror="alert(1)">&"'
VOID = {"meta", "img", "br", "hr", "input", "link"}


class Page(HTMLParser):
    """Checks nesting; collects ids, references, captions, headings and text."""

    def __init__(self, text: str):
        super().__init__()
        self.stack: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.headings: list[int] = []
        self.text: list[str] = []
        self.feed(text)
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag not in VOID:
            self.stack.append(tag)
        if "id" in values:
            self.ids.append(values["id"])
        self.references += [values[k] for k in ("href", "src", "xlink:href", "srcset", "action") if k in values]
        assert not [k for k in values if k.startswith("on")]
        assert tag not in ("script", "link", "iframe", "object", "base")
        if tag == "img" or values.get("role") == "img":
            self.images.append(values)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def _curve():
    return [{"step": 10 * i, "loss": 3 / i, "examples_per_s": 100.0} for i in range(1, 600)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    cases = Cases(n_patients=100)
    dataset = {"name": "phantom", "fingerprint": "f" * 64, "splits": {"train": 1200}, "generated": True}
    study(root / "runs", cases, {"ct": 1.6, EVIL: 1.0, "scratch": 0.6}, curves=_curve(), seeds=2, dataset=dataset)
    study(root / "runs", cases, {"ct": 1.6}, protocol="linear_probe", seeds=1, seed_varies=False)
    study(root / "runs", cases, {"scratch/bn_initial": 0.6, "scratch/bn_reestimated": 0.4}, protocol="linear_probe")
    pretrain = record("pretrain ct", kind="pretrain", task="", protocol="", timings={"total_s": 7200.0})
    ledger.write_run(root / "runs" / "pre training", pretrain, curves=_curve())
    image = root / "example.png"
    cv2.imwrite(str(image), np.zeros((8, 8, 3), np.uint8))
    runs = ledger.read_runs(root / "runs")
    comparisons = compare(runs, n_resamples=500)
    path = write_report(
        root / "report",
        title=EVIL,
        comparisons=comparisons,
        runs=runs,
        examples=[(f"an example of {EVIL}", image)],
        warnings=["a <b>warning</b>"],
    )
    return path, comparisons, runs


def test_the_page_is_one_well_formed_file_without_external_references(made):
    path, _, _ = made
    text = path.read_text()
    page = Page(text)
    assert not [r for r in page.references if re.match(r"(https?:)?//|data:text|javascript:", r)]
    assert not re.search(r"url\((?!#)|@import", text)
    assert len(page.ids) == len(set(page.ids))
    internal = [r[1:] for r in page.references if r.startswith("#")]
    assert internal
    assert set(internal) <= set(page.ids)
    for target in set(re.findall(r"url\(#([^)]+)\)", text)):
        assert target in page.ids


def test_links_lead_to_the_run_folders(made):
    path, _, runs = made
    page = Page(path.read_text())
    links = [unquote(r) for r in page.references if r.endswith(("run.json", "comparisons.json"))]
    assert len(links) == len(runs) + 1
    for link in links:
        assert not link.startswith("/")
        assert (path.parent / link).is_file()


def test_names_are_escaped(made):
    text = made[0].read_text()
    assert "<img src=x" not in text
    assert "<b>warning" not in text
    assert EVIL in "".join(Page(text).text)  # and still readable


def test_the_verdict_and_its_numbers_stand_there(made):
    path, comparisons, runs = made
    text = re.sub(r"\s+", " ", "".join(Page(path.read_text()).text))
    assert "ct is the best start" in text
    assert "For these checkpoints only" in text
    row = next(r for r in comparisons.rows if (r.protocol, r.a, r.b) == ("fine_tune", "ct", "scratch"))
    assert f"+{100 * row.delta:.1f}" in text
    assert "generated: the verdict is about no patients" in text
    assert f"{len(comparisons.rows)} comparisons of this report" in text
    assert "7,200" in text  # device-seconds of the pretraining
    total = sum(r.timings["total_s"] * r.topology["devices"] for r in runs)
    assert f"{total:,.0f}" in text
    assert "not compared" in text
    assert "in the result of ct: p over seeds is that of the other start's runs against this one value" in text
    assert "a one-sample t-test" in text


def test_images_have_words(made):
    page = Page(made[0].read_text())
    # The example; eight figures of fine-tuning (ranks too), seven of the probe; loss and convergence, twice.
    assert len(page.images) == 1 + 8 + 7 + 2 * 2
    assert all(image.get("alt") or image.get("aria-label") for image in page.images)
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(page.headings, page.headings[1:], strict=False))


def test_comparisons_json_holds_every_pair(made):
    path, comparisons, _ = made
    data = json.loads((path.parent / "comparisons.json").read_text())
    assert data["format"] == 1
    assert len(data["rows"]) == len(comparisons.rows) == 4
    # fmt: off
    wanted = {
        "task", "protocol", "variant", "metric", "a", "b", "n_a", "n_b", "mean_a", "mean_b", "delta", "delta_relative",
        "t", "df", "p_seeds", "p_patients", "p", "p_corrected", "low", "high", "effect_size", "smallest_detectable",
        "verdict",
    }
    # fmt: on
    assert wanted <= set(data["rows"][0])


def test_no_patient_stands_in_the_report(made):
    path, _, runs = made
    patients = set(runs[-1].predictions.patient) | set(runs[-1].predictions.case_id)
    for file in (p for p in path.parent.rglob("*") if p.is_file()):
        text = file.read_text()
        assert not any(p in text for p in patients)


def test_no_images_and_one_start(tmp_path):
    study(tmp_path / "runs", Cases(n_patients=50), {"ct": 1.0}, seeds=1)
    runs = ledger.read_runs(tmp_path / "runs")
    path = write_report(tmp_path / "report", title="one", comparisons=compare(runs, n_resamples=100), runs=runs)
    text = path.read_text()
    Page(text)
    assert "Only one start, ct: nothing to compare" in text
    assert "data:image" not in text


def test_undefined_metrics_are_drawn_as_nothing_and_said(tmp_path):
    cases = Cases(n_patients=50)
    study(tmp_path / "runs", cases, {"a": 1.0}, seeds=2)
    broken = cases.predictions(1.0, seed=9)
    broken.scores[:] = np.nan
    own = record("b", start="b", protocol="fine_tune")
    ledger.write_run(tmp_path / "runs" / "b", own, predictions=broken)
    runs = ledger.read_runs(tmp_path / "runs")
    path = write_report(tmp_path / "report", title="x", comparisons=compare(runs, n_resamples=100), runs=runs)
    text = path.read_text()
    Page(text)
    assert "nan" not in re.sub(r"<[^>]*>", "", text.split("<main")[1]).lower().replace("provenance", "")
    assert "b: undefined, a score is not a number" in text


def test_each_start_keeps_its_colour():
    look = style.looks(["scratch", "natural", "ct", "ct"])
    assert look == style.looks(["ct", "natural", "scratch"])
    assert len({s.colour for s in look.values()}) == len({s.marker for s in look.values()}) == 3
    many = style.looks([f"start{i}" for i in range(12)])
    assert len({(s.colour, s.marker) for s in many.values()}) == 12


def test_an_unwritable_folder_is_one_line(made, tmp_path):
    _, comparisons, runs = made
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't write the report"):
        write_report(Path(tmp_path, "file", "report"), title="x", comparisons=comparisons, runs=runs)
