"""Importing: every source's miniature, strictly; a start is used as any checkpoint is; bad files are one line each."""

from collections import OrderedDict
import dataclasses
import json

import jax
import numpy as np
import pytest

from radnet_jax import checkpoint, main, trees
from radnet_jax.errors import UserError
from radnet_jax.models import MODELS
from radnet_jax.starts import check_backbone, fill, find_start
from radnet_jax.weights import cards, importing, layouts, matching, names
from radnet_jax.weights.importing import read
from tests.tiny import ROOT
from tests.weights import files, miniatures
from tests.weights import starts as small_starts

SOURCES = cards.known()


def arguments(wanted, card):
    """What of a section is to be asked for beside the card's own."""
    return {k: v for k, v in wanted.items() if k in miniatures.SMALL[names.family_of(wanted["name"])]}


@pytest.mark.parametrize("source", SOURCES)
def test_each_source_imports_its_miniature(source, tmp_path):
    card = cards.load(source)
    path, wanted, arrays = miniatures.write(source, tmp_path)
    imported = read(path, card, backbone=wanted["name"], arguments=arguments(wanted, card))
    assert set(imported.arrays) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(imported.arrays[name], array, err_msg=name)
    assert imported.report["keys"]["used"] == len(arrays)
    left_out = {name for found in imported.report["keys"]["ignored"].values() for name in found}
    assert set(miniatures.EXTRAS.get(source, ())) <= left_out
    assert imported.model_input == card.input


@pytest.mark.parametrize("source", SOURCES)
def test_each_card_is_whole(source):
    card = cards.load(source)
    for backbone in card.backbones:
        section = card.section(backbone, {})
        module = MODELS.build(section["name"], {k: v for k, v in section.items() if k != "name"})
        names.find(backbone, card.layout)
        family = names.family_of(backbone)
        epsilon = cards.FIXED_EPSILON.get(family) or module.norm_epsilon
        assert card.norm_epsilon in (epsilon, None)
        if family == "resnet":
            assert module.padding == card.padding
    assert set(card.files) <= set(card.backbones)
    assert set(card.top1) <= set(card.backbones)
    assert all(f["url"].startswith("https://") for f in card.files.values())
    for text in (card.title, card.objective, card.data, card.licence):
        assert text
    assert card.input.channels == 3


def test_the_epsilon_of_a_card_is_that_of_the_network():
    torchvision = cards.load("torchvision_file")
    other = dataclasses.replace(torchvision, norm_epsilon=1e-3)
    assert other.section("resnet18", {}) == {"name": "resnet18", "norm_epsilon": 1e-3}
    assert other.section("mobilenet_v3_small", {}) == {"name": "mobilenet_v3_small"}  # its own
    assert other.section("resnet18", {"norm_epsilon": 1e-5}) == {"name": "resnet18"}  # as asked for
    assert torchvision.section("swin_tiny", {}) == {"name": "swin_tiny"}
    with pytest.raises(UserError, match=r"swin_tiny has another epsilon than card torchvision_file; got 0.001"):
        other.section("swin_tiny", {})


def test_the_sources_of_both_studies_are_there():
    assert {
        "supervised_resnet", "insdis", "pirl", "infomin", "moco_v1", "moco_v2", "pcl_v1", "pcl_v2", "swav",
        "deepcluster_v2", "sela_v2", "barlow_twins", "simclr_v1", "simclr_v2", "byol", "inat2021", "inat2021_mini",
        "chestxray14", "imagenet_chestxray14", "chexpert", "imagenet_chexpert", "mimic_resnet50", "mimic_swin_base",
        "mimic_convnext_base", "radimagenet", "vit_in22k", "convnext_in22k", "dino_vit", "dino_resnet50", "mae",
        "convnext", "swin", "radnet_r", "radnet_rf", "radnet_i1k", "radnet_mixed",
    } <= set(cards.known())  # fmt: skip


def config_of(source, path, wanted, **changes):
    config = main.load_config(ROOT / "configs/import.py").copy_and_resolve_references()
    config.unlock()
    card = cards.load(source)
    config.update(source=source, file=str(path), backbone=wanted["name"], arguments=arguments(wanted, card), **changes)
    return config.lock()


def test_an_import_is_a_start_and_says_what_it_is(tmp_path):
    path, wanted, arrays = miniatures.write("moco_v2", tmp_path)
    config = config_of("moco_v2", path, wanted)
    workdir = importing.run(config, tmp_path / "start")
    start = find_start(str(workdir))
    assert start.backbone == {"name": "resnet50", "base_width": 4}
    assert start.id.startswith("moco_v2-")
    assert start.model_input == cards.load("moco_v2").input
    loaded, _ = checkpoint.load_arrays(start.folder)
    assert {k.replace("/backbone", "").replace("model_state/", "") for k in loaded} == set(arrays)
    np.testing.assert_array_equal(loaded["params/backbone/stem_conv/kernel"], arrays["params/stem_conv/kernel"])
    report = json.loads((workdir / "import.json").read_text())
    assert report["keys"]["used"] == 265
    assert report["batch_statistics"]["batches"] == 9
    assert report["file"]["kind"] == "torch_legacy"
    layer = "stage1_block1/conv1"
    norm = np.linalg.norm(arrays[f"params/{layer}/kernel"])
    assert report["norms"]["layers"][layer] == pytest.approx(norm, rel=1e-5)
    assert any("another file" in note for note in report["notes"])  # the published md5 is of the real one
    again = importing.run(config, tmp_path / "start")  # is there already
    assert again == workdir
    other, *_ = miniatures.write("moco_v1", tmp_path)
    with pytest.raises(UserError, match="holds another import"):
        importing.run(config_of("moco_v1", other, wanted), tmp_path / "start")


def test_an_import_fills_a_runs_backbone_and_a_wrong_one_is_refused(tmp_path):
    workdir, arrays = small_starts.start(tmp_path, dict(name="resnet10", base_width=4))
    start = find_start(str(workdir))
    check_backbone(start, dict(name="resnet10", base_width=4))
    with pytest.raises(UserError, match="another architecture"):
        check_backbone(start, dict(name="resnet10", base_width=4, padding="same"))
    tree = trees.nested({k: np.zeros_like(v) for k, v in arrays.items()})
    head = {"linear": {"kernel": np.ones((32, 2), np.float32)}}
    params, state = fill(
        start,
        {"backbone": tree["params"], "head": head},
        {"batch_stats": {"backbone": tree["batch_stats"]}},
        heads="head/.*",
    )
    np.testing.assert_array_equal(params["backbone"]["stem_conv"]["kernel"], arrays["params/stem_conv/kernel"])
    np.testing.assert_array_equal(
        state["batch_stats"]["backbone"]["stem_norm"]["var"], arrays["batch_stats/stem_norm/var"]
    )
    np.testing.assert_array_equal(params["head"]["linear"]["kernel"], 1)


def test_the_digest_of_the_host_is_that_of_the_device():
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(3, 5)).astype(np.float32), np.arange(7, dtype=np.int32), np.array([True, False])]
    arrays += [rng.normal(size=2**20 + 3).astype(np.float32), np.float32(2.5).reshape(())]
    arrays.append(np.arange(5).astype(jax.numpy.bfloat16))
    device = np.asarray(jax.jit(trees.digest)([jax.numpy.asarray(a) for a in arrays])).tolist()
    assert [trees.host_digest(a) for a in arrays] == device


@pytest.mark.parametrize("dtype", miniatures.HALVES)
def test_half_precision_is_read_and_said(dtype, tmp_path):
    path, wanted, arrays = miniatures.write("swav", tmp_path, dtype=dtype)
    card = cards.load("swav")
    imported = read(path, card, arguments=arguments(wanted, card))
    kernel = imported.arrays["params/stem_conv/kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, arrays["params/stem_conv/kernel"].astype(dtype).astype(np.float32))
    assert any("float16" in note for note in imported.report["notes"])


def test_a_stem_of_one_channel_sums_the_filters(tmp_path):
    path, wanted, _ = miniatures.write("supervised_resnet", tmp_path, backbone="resnet18")
    card = cards.load("supervised_resnet")
    three = read(path, card, backbone="resnet18", arguments=arguments(wanted, card))
    one = read(path, card, backbone="resnet18", arguments=arguments(wanted, card), stem="sum")
    assert one.model_input == dataclasses.replace(card.input, channels=1, mean=(0.449,), std=(0.226,))
    module = MODELS.build("resnet18", {"base_width": 4})
    grey = np.random.default_rng(0).normal(size=(2, 32, 32, 1)).astype(np.float32)

    def features(imported, image):
        trees_ = trees.nested(imported.arrays)
        return module.apply(trees_, image, train=False)["pooled"]

    want = features(three, np.repeat(grey, 3, -1))
    np.testing.assert_allclose(features(one, grey), want, atol=1e-5 * np.abs(want).max())


def changed(tmp_path, change, source="supervised_resnet", backbone="resnet18"):
    """The error of importing a miniature whose state dict was changed."""
    card = cards.load(source)
    wanted = miniatures.section(card, backbone)
    state = OrderedDict(miniatures.theirs(card, wanted, miniatures.ours(wanted)))
    change(state)
    files.write_torch(tmp_path / "weights.pth", state)
    with pytest.raises(UserError) as caught:
        read(tmp_path / "weights.pth", card, backbone=wanted["name"], arguments=arguments(wanted, card))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def renamed(state):
    state["layer1.0.conv_1.weight"] = state.pop("layer1.0.conv1.weight")


def poisoned(state):
    state["layer1.0.conv1.weight"] = np.full_like(state["layer1.0.conv1.weight"], np.nan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed, "1 missing: layer1.0.conv1.weight (nearest there: layer1.0.conv_1.weight); 1 neither used nor known"),
        (lambda s: s.pop("bn1.bias"), "1 missing: bn1.bias"),
        (
            lambda s: s.update({"projector.weight": np.ones(3, np.float32)}),
            "1 neither used nor known to the card: proj",
        ),
        (poisoned, "not finite; got params/stage1_block1/conv1/kernel"),
        (lambda s: s.update({"bn1.running_var": -s["bn1.running_var"]}), "negative variances"),
        (lambda s: s.update({"bn1.bias": np.arange(4)}), "bn1.bias is no array of numbers; got int64"),
        (lambda s: s.update({"bn1.bias": "text"}), "no array of numbers; got str"),
        (lambda s: s.update({"conv1.weight": s["conv1.weight"][:2]}), "1 weight(s) of another shape"),
        (lambda s: s.clear(), "100 missing"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(change, message, tmp_path):
    assert message in changed(tmp_path, change)


def test_another_architecture_is_named(tmp_path):
    card = cards.load("supervised_resnet")
    wanted = {"name": "resnet34"}
    shapes = layouts.shapes_of(wanted)
    state = OrderedDict()
    for entry in layouts.entries(names.find("resnet34", "torchvision"), shapes):
        state |= entry.to_theirs(np.broadcast_to(np.float32(0), entry.shape))
    with pytest.raises(UserError, match=r"it looks like resnet34: --config\.backbone=resnet34"):
        matching.match(state, card, {"name": "resnet18"}, "weights.pth")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(backbone="resnet81"), 'did you mean "resnet18"'),
        (dict(backbone=""), "comes in several backbones"),
        (dict(backbone="resnet18", arguments=dict(base_with=4)), 'did you mean "base_width"'),
        (dict(backbone="resnet18", stem="summ"), 'did you mean "sum"'),
        (dict(backbone="resnet18", rescale="initail"), 'did you mean "initial"'),
    ],
)
def test_names_are_checked(kwargs, message, tmp_path):
    path, *_ = miniatures.write("supervised_resnet", tmp_path, backbone="resnet18")
    kwargs = {"arguments": {"base_width": 4}, **kwargs}
    with pytest.raises(UserError) as caught:
        read(path, cards.load("supervised_resnet"), **kwargs)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(size=None), "a model input is not whole; got modality, channels, windows"),
        (dict(siz=(32, 32)), "a model input is not whole"),
        (dict(channels=1, mean=(0.5,), std=(0.5,)), "config.input is not of the file's network; got 1 channel"),
    ],
)
def test_an_input_that_does_not_fit_is_one_line(changes, message, tmp_path):
    path, *_ = miniatures.write("supervised_resnet", tmp_path, backbone="resnet18")
    wanted = {k: v for k, v in {**small_starts.PHOTO, **changes}.items() if v is not None}
    with pytest.raises(UserError) as caught:
        read(path, cards.load("supervised_resnet"), backbone="resnet18", arguments={"base_width": 4}, input=wanted)
    assert message in str(caught.value)


@pytest.mark.parametrize("kind", [list, dict])
def test_a_pickle_of_the_same_parts_over_and_over_ends(kind, tmp_path):
    """Each holds the one before twice: 2^60 parts, were they not known to be the same."""
    inner = {"x": np.ones(1, np.float32)}
    for _ in range(60):
        inner = [inner, inner] if kind is list else {"a": inner, "b": inner}
    (tmp_path / "weights.pkl").write_bytes(files.pickled({"conv1.weight": inner}))
    message = "99 missing" if kind is list else "holds more than 100,000 names"
    with pytest.raises(UserError, match=message):
        read(tmp_path / "weights.pkl", cards.load("supervised_resnet"), backbone="resnet18")


def test_an_unknown_source_gives_the_nearest():
    with pytest.raises(UserError, match='did you mean "moco_v2"'):
        cards.load("mocov2")


def test_a_card_of_ones_own(tmp_path):
    card = json.loads((cards.FOLDER / "torchvision_file.json").read_text())
    (tmp_path / "mine.json").write_text(json.dumps({**card, "prefixes": ["net."]}))
    assert cards.load(str(tmp_path / "mine.json")).prefixes == ("net.",)
    (tmp_path / "broken.json").write_text(json.dumps({**card, "prefix": "net."}))
    with pytest.raises(UserError, match="can't be read"):
        cards.load(str(tmp_path / "broken.json"))
