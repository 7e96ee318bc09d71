"""The report: one file that needs nothing else, says the verdict, and takes any name for what it is."""

import base64
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
from radnet_jax.evaluation.compare_results import compare_results, for_page
from radnet_jax.evaluation.report import style, words, write_report
from radnet_jax.evaluation.results import Cell, Place
from radnet_jax.evaluation.statistics import bootstrap
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
    # The example; seven figures of fine-tuning and of the probe; loss and convergence, twice.
    assert len(page.images) == 1 + 7 + 7 + 2 * 2
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


def _report(root, runs, **more):
    return write_report(root / "report", title="x", comparisons=compare(runs, n_resamples=100), runs=runs, **more)


def test_without_images_no_pixel_of_a_patient_is_in_it(tmp_path):
    study(tmp_path / "runs", Cases(n_patients=50), {"a": 1.2, "b": 0.6}, seeds=2)
    runs = ledger.read_runs(tmp_path / "runs")
    asked = []

    def pixels(task, case_ids):
        asked.append((task, list(case_ids)))
        return [cv2.imencode(".png", np.full((5, 7, 3), i, np.uint8))[1].tobytes() for i in range(len(case_ids))]

    text = _report(tmp_path, runs, pixels=pixels).read_text()
    found = [base64.b64decode(part) for part in re.findall(r'data:image/png;base64,([^"]+)"', text)]
    images = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in found]
    assert [int(image[0, 0, 0]) for image in images] == list(range(len(images)))
    assert len(images) == 8
    # They are cases that the best start gets wrong, the surest first.
    (task, cases), test = asked[0], runs[0].predictions.of("test")
    assert task == "regions"
    scores = np.mean([r.predictions.of("test").scores for r in runs if r.start == "a"], axis=0)
    rows = [list(test.case_id).index(c) for c in cases]
    assert (scores[rows].argmax(axis=1) != test.labels[rows].argmax(axis=1)).all()
    sure = scores.max(axis=1)
    wrong = np.flatnonzero(scores.argmax(axis=1) != test.labels.argmax(axis=1))
    assert sure[rows].tolist() == sorted(sure[wrong].tolist(), reverse=True)[:8]

    path = _report(tmp_path / "off", runs)
    for file in (path, *path.parent.glob("figures/*.svg")):
        text = file.read_text()
        assert not re.search(r"data:|<img|<image|background-image|\.(png|jpe?g|gif|webp)", text), file.name
    assert "Images are left out." in path.read_text()


def test_twenty_starts_have_room(tmp_path, recwarn):
    skills = {f"objective_{i:02d}_with_a_name": 0.6 + 0.04 * i for i in range(19)} | {"scratch": 0.6}
    study(tmp_path / "runs", Cases(n_patients=50), skills, seeds=2, curves=_curve())
    runs = ledger.read_runs(tmp_path / "runs")
    path = _report(tmp_path, runs)
    assert not [w for w in recwarn if "constrained_layout" in str(w.message) or "layout" in str(w.message)]
    text = path.read_text()
    page = Page(text)
    assert "All 190 differences" in text
    assert len(page.images) > 5
    starts = (path.parent / "figures" / "01-regions-fine-tune-starts.svg").read_text()
    width, height = (float(x) for x in re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', starts).groups())
    assert height > 20 * 20 > width  # 20 points for each row
    assert "objective_18_with_a_name" in text.split('id="results"')[0]
    assert text.split('id="results"')[0].count("<li>") < 20  # the first screen stays one


def test_shares_of_the_labels_have_their_figure(tmp_path):
    cases = Cases(n_patients=50)
    for fraction in (0.1, 1.0):
        own = {"config": {"tags": {"fraction": fraction}}}
        study(tmp_path / "runs" / str(fraction), cases, {"a": 0.8 + fraction, "b": 0.5}, seeds=2, **own)
        for path in (tmp_path / "runs" / str(fraction)).rglob("run.json"):
            path.write_text(path.read_text().replace('"run_id": "id-', f'"run_id": "{fraction}-'))
    path = _report(tmp_path, ledger.read_runs(tmp_path / "runs"))
    text = path.read_text()
    assert "Label efficiency" in text
    assert "fine-tuning, 10 % of labels" in text
    (figure,) = [f for f in path.parent.glob("figures/*.svg") if "label-efficiency" in f.name]
    assert re.search(r"a at 10 %: [\d.]+ \([\d.]+ to [\d.]+\); .*a at 100 %", figure.read_text())


def test_several_tasks_are_summed_up_and_decide_nothing(tmp_path):
    cases = Cases(n_patients=50)
    for i in range(6):
        study(tmp_path / "runs", cases, {"a": 1.2, "b": 0.6}, seeds=2, task=f"task {i}")
    text = _report(tmp_path, ledger.read_runs(tmp_path / "runs")).read_text()
    section = text.split('id="across"')[1].split("</section>")[0]
    assert "Mean ranks over 6 tasks" in section
    assert "No critical-difference figure over seeds:</b> so few ranks can" in text
    assert "resampling over seeds begins at 10 runs a task" in section
    assert "decides none of them" in section


def test_other_metrics_stand_apart_and_are_called_exploratory(made):
    text = made[0].read_text()
    before, _, apart = text.split('id="result-0"')[1].partition("Other metrics: exploratory")
    assert "balanced accuracy" in apart
    assert "balanced accuracy" not in before
    assert "no test, no correction, no verdict" in apart


def test_findings_have_classes_calibration_and_worst_cases(tmp_path):
    rng = np.random.default_rng(0)
    labels = (rng.random((200, 2)) < 0.4).astype(float)
    for start, skill in {"a": 2.0, "b": 1.0}.items():
        for seed in range(2):
            logits = skill * (2 * labels - 1) + np.random.default_rng([seed, 1]).normal(0, 1.5, labels.shape)
            predictions = ledger.Predictions(
                split=["test"] * 200,
                case_id=[f"c{i:03d}" for i in range(200)],
                patient=[f"p{i // 2:03d}" for i in range(200)],
                scores=1 / (1 + np.exp(-logits)),
                labels=labels,
                label_mask=(rng.random(labels.shape) < 2).astype(float),
            )
            own = record(f"{start} {seed}", start=start, seed=seed, primary_metric="auroc", task_kind="multi_label")
            own |= {"label_names": ["mass", "effusion"]}
            ledger.write_run(tmp_path / "runs" / f"{start}{seed}", own, predictions=predictions)
    text = _report(tmp_path, ledger.read_runs(tmp_path / "runs")).read_text()
    Page(text)
    assert "AUROC × 100 of each label" in text
    assert "the probabilities of all labels, against the truth" in text
    of = [run.predictions.of("test") for run in ledger.read_runs(tmp_path / "runs") if run.start == "a"]
    scores, truth = [t.scores for t in of], of[0]
    resampled = bootstrap.resample("label_ece", scores, truth.labels, groups=truth.patient, n_resamples=1000)
    by = {m: bootstrap.interval_of_mean(resampled, slice(None), method=m) for m in bootstrap.METHODS}
    shown = {m: f"({words.interval(i.low, i.high)})" for m, i in by.items()}
    assert shown["percentile"] in text  # BCa covers less, see docs/statistics.md
    assert shown["bca"] not in text
    assert re.search(r"<b>(mass|effusion): (yes|no)</b> was said to be <b>(mass|effusion) 0\.\d\d</b>", text)
    assert "F1 by label" in text


def test_many_starts_against_a_baseline_with_a_bracket_in_its_name(tmp_path):
    place = Place("", "organs", "", "dice")
    starts = {f"start {i}": 0.70 + 0.01 * i for i in range(12)} | {"ImageNet (supervised)": 0.75}
    noise = (-0.002, 0.001, 0.0, 0.001)
    cells = [Cell(place, s, tuple(mean + x for x in noise), tuple("0123")) for s, mean in starts.items()]
    comparisons = compare_results(cells, baseline="ImageNet (supervised)")
    path = write_report(tmp_path / "report", title="x", comparisons=for_page(comparisons), runs=[])
    text = path.read_text()
    Page(text)
    card = text.split('class="verdict"')[1].split("</article>")[0]
    whats = re.findall(r'class="what">([^<]*)<', card)
    assert whats[0] == "ImageNet (supervised) and start 5 are equivalent within ±2 points"
    assert len(whats) == 3
    assert "for these checkpoints and test cases</h2>" not in card  # said once, below
    assert ">organs · Dice<" in card
    forest = (path.parent / "figures" / "02-organs-differences.svg").read_text()
    assert "start minus ImageNet (supervised), points" in forest
    assert "start 11 minus ImageNet (supervised) +6.0" in forest
