"""The `analyze` run: what it computes against the features themselves, its page, and what it refuses."""

import json
from types import SimpleNamespace

from ml_collections import ConfigDict
import numpy as np
import pytest

from data_prep.build import build
from data_prep.phantom import write_leaves
from radnet_jax import sharding, train
from radnet_jax.analysis import networks, pairing, run, similarity, weights, who_knows
from radnet_jax.data.dataset import open_split
from radnet_jax.errors import UserError
from radnet_jax.main import load_config
from tests.evaluation import browser as chromium
from tests.evaluation.test_browser import OPEN, STICK_OUT
from tests.tiny import ROOT, TAGS, config
from tests.weights.starts import PHOTO, start

FINE_TUNE = "configs/finetune/classification.py"
BLOCKS = [f"stage{i}_block1" for i in (1, 2, 3, 4)]


@pytest.fixture(scope="module")
def fine_tuned(ct_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("analysis") / "fine_tuned"
    tags = TAGS | dict(fraction=1.0, start="scratch")
    train.run(config(FINE_TUNE, "scratch,smoke,size=24", ct_dataset, total_steps=4, tags=tags), folder)
    return folder


def settings(dataset, *, split="train", **changes):
    loaded = load_config(ROOT / "configs" / "analyze.py").to_dict()
    return ConfigDict(loaded | dict(data=dict(dir=str(dataset), split=split), eval_batch_size=16) | changes).lock()


@pytest.fixture(scope="module")
def analysis(fine_tuned, ct_dataset):
    out = fine_tuned.parent / "out"
    chosen = dict(a="initial", b=str(fine_tuned), protocol="radnet_published", repeats=(("initial", str(fine_tuned)),))
    run.run(settings(ct_dataset, **chosen), out)
    return out, json.loads((out / "analysis.json").read_text())


def test_the_map_is_that_of_the_features(analysis, fine_tuned, ct_dataset):
    mesh, split = sharding.make_mesh(), open_split(ct_dataset, "train")
    after = networks.load(str(fine_tuned), split, None, mesh)
    before = networks.with_own_statistics(networks.initial(str(fine_tuned), after, mesh), split, 16, mesh)
    sample = networks.Sample(np.arange(len(split)), 2)
    for batch in networks.stream([before, after], split, 16, mesh):
        sample.add(batch.features, batch.numbers)
    a, b = sample.features(0), sample.features(1)
    assert len(a[0]) == len(split)
    _, found = analysis
    assert list(found["a"]["layers"]) == BLOCKS
    for debiased in (True, False):
        expected = [[similarity.linear_cka(x, y, debiased=debiased) for y in b] for x in a]
        name = "debiased" if debiased else "biased"
        assert np.array(found["map"][name]) == pytest.approx(np.array(expected), abs=1e-5)
    layers = found["pairs"][0]["layers"]
    assert [v["cka"] for v in layers.values()] == pytest.approx(np.diag(found["map"]["debiased"]), abs=1e-5)
    assert all(v["low"] < v["cka"] for v in layers.values())


def test_the_initial_weights_are_those_that_training_began_with(ct_dataset, tmp_path):
    """After a training whose rate is 0 nothing has changed but the running statistics."""
    tags = TAGS | dict(fraction=1.0, start="scratch")
    still = config(FINE_TUNE, "scratch,smoke,size=24", ct_dataset, total_steps=1, tags=tags).to_dict()
    still["schedule"] |= {"base_lr": 0.0, "warmup_steps": 0}
    still["optimizer"] = {"name": "sgd"}
    train.run(ConfigDict(still).lock(), tmp_path / "still")
    mesh, split = sharding.make_mesh(), open_split(ct_dataset, "train")
    after = networks.load(str(tmp_path / "still"), split, None, mesh)
    before = networks.initial(str(tmp_path / "still"), after, mesh)
    found = weights.changes(before.params, after.params)
    assert max(v["relative"] for v in found.values()) < 1e-6
    assert before.name == "initial weights"
    other = networks.untrained(after, 7, mesh)
    assert all(v["relative"] > 1 for v in weights.changes(other.params, after.params).values())


def test_pairs_and_baselines(analysis):
    _, found = analysis
    assert [p["what"] for p in found["pairs"]] == [
        "before and after", "before and after", "two seeds", "two random networks",
    ]  # fmt: skip
    seeds = found["pairs"][2]["layers"]  # the same run twice
    assert [v["cka"] for v in seeds.values()] == pytest.approx([1] * 4, abs=1e-6)
    assert [v["neighbours"] for v in seeds.values()] == [1] * 4
    random = found["pairs"][3]["layers"]
    assert all(v["cka"] < 0.999 for v in random.values())
    assert set(found["weights"][0]["blocks"]) == {"stem_conv", *BLOCKS}
    over = found["over_seeds"]
    assert (over["n"], over["starts"]) == (2, 1)
    assert list(over["layers"]) == list(over["units"]) == BLOCKS
    assert set(over["read"]) == set(over["responds"]) == set(found["read"]["properties"])
    reuse = found["published"]["reuse"]["stem_conv/kernel"]
    assert len(reuse) == 2
    assert 0 < reuse[0] <= 1


def test_properties_are_read_from_every_block(analysis):
    _, found = analysis
    read = found["read"]
    assert {"mean", "bone_share", "position", "label thorax"} <= set(read["properties"])
    assert set(read["networks"]) == {"a", "b", "random"}
    for layers in read["networks"].values():
        assert list(layers) == BLOCKS
        for layer in layers.values():
            assert set(layer["read"]) == set(layer["units"]) == set(read["properties"])
            assert layer["effective_rank"] >= 1
    assert read["networks"]["b"]["stage1_block1"]["read"]["air_share"]["r2"] > 0.2


def test_the_maps_and_filters(analysis, ct_dataset):
    _, found = analysis
    maps = found["maps"]
    assert sorted(set(maps["groups"])) == sorted(open_split(ct_dataset, "train").card.labels)
    for name in ("a", "b"):
        points, share = np.array(maps["networks"][name]["points"]), maps["networks"][name]["share"]
        assert points.shape == (len(maps["groups"]), 2)
        assert points.var(axis=0)[0] >= points.var(axis=0)[1]
        assert 0 < share[1] <= share[0] < 1
    assert found["domains"] is None  # no mixture


def test_the_page_is_whole_and_works_offline(analysis):
    out, found = analysis
    page = (out / "report" / "index.html").read_text()
    for text in (*BLOCKS, "Every block against every block", "Feature reuse", "generated", found["b"]["id"]):
        assert text in page
    assert "<script src" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert len(list((out / "report" / "figures").glob("*.svg"))) == 9
    assert "of 4 blocks the two networks are more alike" in page


def test_what_units_see(analysis, ct_dataset):
    """Of a run that began at random a unit's number means the same in both; its classes have maps too."""
    out, found = analysis
    seen = found["seen"]
    assert found["continued"]
    assert {u["of"] for u in seen["units"]} == {"a", "b"}
    followed = [u for u in seen["units"] if u["follows"]]
    assert followed
    for unit in followed:
        strongest = found["read"]["networks"][unit["of"]][BLOCKS[-1]]["units"][unit["follows"]]
        assert strongest["unit"] == unit["unit"]
        assert unit["r"][unit["of"]] == pytest.approx(strongest["strongest"])
    assert seen["classes"] == list(open_split(ct_dataset, "train").card.labels)
    assert all(-1 <= v < 0.99 for maps in seen["maps_like_random"].values() for v in maps.values())  # another seed
    page = (out / "report" / "index.html").read_text()
    units = len(seen["units"])
    assert page.count("<img") == units * (2 + 3 * 4) + len(seen["classes"]) * 2 * 4
    assert "Images are left out" not in page


def test_neither_case_nor_patient_is_in_page_or_record(analysis, ct_dataset):
    out, _ = analysis
    manifest = open_split(ct_dataset, "train").manifest()
    text = (out / "report" / "index.html").read_text() + (out / "analysis.json").read_text()
    for name in ("case_id", "patient", "series"):
        assert not [v for v in set(manifest[name].to_pylist()) if v and len(v) > 3 and v in text], name


@pytest.fixture(scope="module")
def shown(analysis, tmp_path_factory):
    if chromium.find() is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    browser = chromium.Browser(tmp_path_factory.mktemp("profile"))
    yield browser, analysis[0] / "report" / "index.html"
    browser.close()


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_sticks_out_of_the_page(shown, width):
    browser, path = shown
    browser.problems.clear()
    browser.requests.clear()
    browser.size(width, mobile=width < 500)
    browser.open(path)
    browser.run(OPEN)
    assert browser.problems == []
    assert [r for r in browser.requests if not r.startswith(("file:", "data:"))] == []
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run(STICK_OUT) == []
    assert browser.run("[...document.images].filter(i => !i.alt || !i.naturalWidth).length") == 0


TOLD = "document.getElementById('asked-told').textContent"


def test_maps_can_be_asked(shown, analysis):
    """By mouse, by touch and by keyboard; an image is ringed in both maps, and its label told."""
    browser, path = shown
    maps = analysis[1]["maps"]
    browser.size(1280)
    browser.open(path)
    assert browser.run("document.querySelectorAll('svg.points path').length") == 2 * len(maps["groups"])
    assert not browser.run("document.getElementById('static-maps').checkVisibility()")
    browser.run("document.querySelector('svg.points').focus()")
    for key, row in (("ArrowRight", "argmin"), ("ArrowLeft", "argmax")):  # the first from the left; the last
        browser.run(f"document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {{key: '{key}'}}))")
        expected = maps["groups"][getattr(np.array(maps["networks"]["a"]["points"])[:, 0], row)()]
        assert browser.run(TOLD).startswith(f"label: {expected} · ")
    assert browser.run("document.querySelectorAll('svg.points circle').length") == 2
    for kind, event in (("mouse", "pointermove"), ("touch", "pointerdown")):
        browser.run(f"""(() => {{
          const panel = document.querySelectorAll('svg.points')[1], box = panel.getBoundingClientRect();
          const p = JSON.parse(document.getElementById('asked-data').textContent).methods[0].places.b[5];
          const [x, y] = p.map(v => (8 + v * 304) / 320 * box.width);
          panel.dispatchEvent(new PointerEvent('{event}',
            {{pointerType: '{kind}', clientX: box.left + x, clientY: box.top + y}}));
        }})()""")
        assert f"label: {maps['groups'][5]}" in browser.run(TOLD)
    browser.run("""(() => { const s = document.getElementById('asked-colour');
      s.value = [...s.options].findIndex(o => o.text === 'mean'); s.dispatchEvent(new Event('change')); })()""")
    assert browser.run(TOLD).startswith("mean: ")
    assert browser.run("document.querySelectorAll('#asked-legend .ramp').length") == 1


def test_in_print_the_map_is_there_and_its_controls_are_not(shown):
    browser, path = shown
    browser.size(794)
    browser.open(path)
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert not browser.run("document.querySelector('.controls').checkVisibility()")
    assert browser.run("document.querySelector('svg.points path').checkVisibility()")
    assert browser.run(STICK_OUT.replace("e.closest('.scroll') || ", "")) == []


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """Two networks that nobody trained, of two architectures."""
    folder, model_input = tmp_path_factory.mktemp("photo"), PHOTO | dict(size=(24, 24))
    sections = dict(ten=dict(name="resnet10", base_width=4), eighteen=dict(name="resnet18", base_width=4))
    return {name: str(start(folder / name, section, model_input)[0]) for name, section in sections.items()}


def test_two_architectures_on_a_mixture(photo, ct_dataset, tmp_path, monkeypatch):
    """A map and nothing layer by layer; the members are domains; who knows what of other runs is shown."""
    write_leaves(tmp_path / "source", images=60, image_size=32)
    build("image_folder", tmp_path / "source", tmp_path / "leaves", size=24, splits=("train",))
    table = tmp_path / "mixture.csv"
    table.write_text(f"dataset,weight\n{ct_dataset},1\n{tmp_path / 'leaves'},1\n")
    build("mixture", table, tmp_path / "mixture", size=24, windows="40:400", modality="photo")
    kappa = dict(a="ct", b="leaves", across=0.2, within=0.5, difference=-0.3, low=-0.4, high=-0.2, p_holm=0.012)
    kappa |= dict(across_low=0.11, across_high=0.29, p_across_holm=0.034)
    pattern = dict(right=["ct"], cases=7, expected=5.5)
    told = dict(task="body_region", setting="fine_tune", label="nodule", runs={}, patterns=[pattern], agreement=[kappa])
    monkeypatch.setattr(who_knows, "of_runs", lambda root, seed: [told])
    chosen = dict(a=photo["eighteen"], b=photo["ten"])
    without = dict(report=dict(images=False))
    run.run(settings(tmp_path / "mixture", runs="runs", **without, **chosen), tmp_path / "out")
    found = json.loads((tmp_path / "out" / "analysis.json").read_text())
    page = (tmp_path / "out" / "report" / "index.html").read_text()
    assert np.shape(found["map"]["debiased"]) == (8, 4)
    assert found["pairs"] == []
    assert "different architectures" in page
    assert {"domain radnet", "domain image_folder"} <= set(found["read"]["properties"])
    assert set(found["domains"]) == {"a", "b"}
    for layer in found["domains"]["a"].values():
        assert layer["radnet and image_folder"]["mmd"] > 0.1  # CT in a window and coloured leaves
    assert set(found["maps"]["groups"]) == {"radnet", "image_folder"}
    assert "How far apart domains lie" in page
    assert "body_region, nodule, fine_tune" in page  # who knows what
    assert "−0.30" in page
    assert "0.012" in page
    assert "0.11 to 0.29" in page
    assert "0.034" in page
    assert "<img" not in page  # images=False: no patient's pixel
    assert "Images are left out" in page
    assert not found["continued"]
    assert {u["of"] for u in found["seen"]["units"]} == {"a", "b"}
    with pytest.raises(UserError, match="radnet_published"):
        run.run(settings(tmp_path / "mixture", protocol="radnet_published", **chosen), tmp_path / "refused")
    with pytest.raises(UserError, match="one architecture"):
        run.run(settings(tmp_path / "mixture", repeats=(tuple(photo.values()),), **chosen), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize(("began", "setting", "expected"), [
    (True, "images", "images"), (True, "stored", "stored"), (False, "images", "stored"),
])  # fmt: skip
def test_what_a_run_began_with_has_statistics_of_the_images(photo, ct_dataset, monkeypatch, began, setting, expected):
    """As training normalises by its batches: statistics of a pretraining's other images were never used there."""
    monkeypatch.setattr(networks, "began_with", lambda run, path: began)
    mesh, split = sharding.make_mesh(), open_split(ct_dataset, "train")
    adapter = dict(windows=((40.0, 400.0),), channels="repeat")
    chosen = settings(ct_dataset, a=photo["ten"], b=photo["ten"], adapter=adapter, before_statistics=setting)
    nets, pairs = pairing.of_config(chosen, split, mesh)
    a, b = nets[0], nets[1]
    assert pairs[0][1:] == (0, 1)
    assert pairing.continued(pairs) == began
    assert (a.statistics, b.statistics) == (expected, "stored")
    wanted = networks.with_own_statistics(b, split, 16, mesh) if expected == "images" else b
    assert a.described["statistics"] == expected
    mean, own = (n.batch_stats["stage4_block1"]["norm1"]["mean"] for n in (a, wanted))
    assert np.array_equal(mean, own)
    assert np.array_equal(mean, b.batch_stats["stage4_block1"]["norm1"]["mean"]) == (expected == "stored")


def test_blocks_that_give_the_same_for_all_images(caplog):
    nets = [SimpleNamespace(name=name, layers=dict(early=2, late=2)) for name in ("one", "other")]
    with pytest.raises(UserError, match="every block of other gives the same for all images"):
        run._tell_constant(SimpleNamespace(constant=lambda: ([], [0, 1])), nets)
    run._tell_constant(SimpleNamespace(constant=lambda: ([1], [])), nets)
    assert "one: the same for all images in late: undefined there" in caplog.text


def test_fewer_images_than_needed(photo, ct_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "LEAST_IMAGES", 10_000)
    monkeypatch.setattr(run, "_check", lambda config: None)
    few = dict(a=photo["ten"], b=photo["ten"])
    with pytest.raises(UserError, match="fewer images than needed"):
        run.run(settings(ct_dataset, **few), tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(a=""), "config.a is missing"),
        (dict(b="initial"), "config.b"),
        (dict(protocol="radnet_publishd"), "did you mean"),
        (dict(repeats=("x",)), "pairs"),
        (dict(sample=3), "config.sample"),
        (dict(before_statistics="image"), "did you mean"),
        (dict(maps="umap"), "config.maps"),
        (dict(b="nowhere"), "no weights 'nowhere'"),
        (dict(eval_batch_size=3), "eval_batch_size"),
        (dict(), "undeclared crossing"),
        (dict(split="testt"), "did you mean"),
    ],
)
def test_what_is_refused(photo, ct_dataset, tmp_path, changes, said):
    with pytest.raises(UserError, match=said):
        run.run(settings(ct_dataset, **(dict(a=photo["ten"], b=photo["ten"]) | changes)), tmp_path / "out")
