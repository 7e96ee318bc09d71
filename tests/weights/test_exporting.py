"""An exported folder: others load it by strict names, bit for bit, and every file in it says the same."""

import hashlib
import json
import re

import jax
import numpy as np
import pytest

import radnet_jax
from radnet_jax import trees
from radnet_jax.errors import UserError
from radnet_jax.evaluation import ledger
from radnet_jax.evaluation.ledger import Predictions
from radnet_jax.main import load_config
from radnet_jax.models import MODELS
from radnet_jax.preprocessing import ModelInput
from radnet_jax.starts import Start, find_start
from radnet_jax.weights import containers, exporting, layouts, model_card, names
from tests.tiny import ROOT
from tests.weights import miniatures, starts


def export(run_dir, workdir, **changes):
    config = load_config(ROOT / "configs/export.py").copy_and_resolve_references()
    config.unlock()
    config.update(run_dir=str(run_dir), **changes)
    return exporting.run(config.lock(), workdir)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    workdir, arrays = starts.start(folder, dict(name="resnet18", base_width=4))
    return export(workdir, folder / "out", formats=("safetensors", "npz")), workdir, arrays


def test_the_folder_is_whole_and_says_what_it_is(exported):
    folder, workdir, arrays = exported
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    listed = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert set(listed) == {p.name for p in folder.iterdir()} - {"SHA256SUMS", ".lock"}
    for name, digest in listed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    contract = json.loads((folder / "preprocessing.json").read_text())
    assert contract["model_input"] == json.loads(json.dumps(find_start(str(workdir)).model_input.to_json()))
    assert "(value - 0) / 255" in contract["steps"][1]
    readme = (folder / "README.md").read_text()
    for text in ("Objective", "not known", "Licence", "Intended use", "No task was judged", "sha256"):
        assert text in readme
    with np.load(folder / "arrays.npz") as archive:
        for name, array in arrays.items():
            np.testing.assert_array_equal(archive[name], array)


def test_names_there_and_back_are_exact(exported):
    folder, _, arrays = exported
    state = containers.read(folder / "model.safetensors").tree
    assert state["bn1.num_batches_tracked"].dtype == np.int64
    section = dict(name="resnet18", base_width=4)
    for entry in layouts.entries(names.find("resnet18", "torchvision"), layouts.shapes_of(section)):
        back = entry.to_ours([state[n] for n in entry.theirs])
        np.testing.assert_array_equal(back, arrays[entry.ours])


def test_an_export_is_loaded_like_its_start(exported, tmp_path):
    folder, workdir, _ = exported
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(radnet_jax.load(str(folder))(image), radnet_jax.load(str(workdir))(image))
    assert export(workdir, folder, formats=("safetensors", "npz")) == folder  # is there already
    with pytest.raises(UserError, match="holds another export"):
        export(workdir, folder, formats=("npz",))
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("radnet_jax.json", "SHA256SUMS"):
        (copy / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(UserError, match=r"arrays\.npz is missing"):
        radnet_jax.load(str(copy))
    data = bytearray((folder / "arrays.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "arrays.npz").write_bytes(data)
    with pytest.raises(UserError, match="was changed"):
        radnet_jax.load(str(copy))


def test_metrics_stand_in_the_card_with_their_intervals(exported, tmp_path):
    _, workdir, _ = exported
    start = find_start(str(workdir))
    rng = np.random.default_rng(0)
    labels = np.eye(2, dtype=np.float32)[rng.integers(0, 2, 60)]
    scores = np.clip(labels * 0.3 + rng.uniform(0, 0.5, (60, 2)), 0.01, 0.9)
    scores = (scores / scores.sum(1, keepdims=True)).astype(np.float32)
    predictions = Predictions(
        ["test"] * 60, [f"c{i}" for i in range(60)], [f"p{i // 2}" for i in range(60)], scores, labels, np.ones((60, 2))
    )
    record = {key: {} for key in ledger._KEYS | ledger._JUDGED_KEYS} | {
        "kind": "linear_probe", "run_id": "a", "name": "probe", "seed": 0, "checkpoint": start.id, "task": "lesions",
        "protocol": "linear_probe", "start": "mine", "variant": "", "seed_varies": False, "primary_metric": "accuracy",
        "metrics": {}, "label_names": ["a", "b"], "task_kind": "single_label", "dataset": {"name": "x"},
    }  # fmt: skip
    ledger.write_run(tmp_path / "runs" / "probe", record, predictions=predictions)
    ledger.write_run(
        tmp_path / "runs" / "other", record | {"checkpoint": "other@1-0", "run_id": "b"}, predictions=predictions
    )
    folder = export(workdir, tmp_path / "out", formats=("npz",), evaluations=str(tmp_path / "runs"), licence="MIT")
    readme = (folder / "README.md").read_text()
    (row,) = re.findall(r"\| lesions \| linear_probe \| accuracy \| (0\.\d+|1\.000) \| (.*) \| 30 \|", readme)
    low, high = map(float, row[1].split(" to "))
    assert low < float(row[0]) <= high
    assert "license: MIT" in readme
    with pytest.raises(UserError, match="none of the 1 run"):
        export(workdir, tmp_path / "none", evaluations=str(tmp_path / "runs" / "other"), formats=("npz",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(layout="torchvison"), 'did you mean "torchvision"'),
        (dict(formats=("safetensor",)), 'did you mean "safetensors"'),
        (dict(run_dir=""), "run_dir is missing"),
        (dict(run_dir="/nothing/there"), "no checkpoint in /nothing/there"),
        (dict(evaluations="/nothing/there"), "no folder /nothing/there"),
    ],
)
def test_wrong_settings_are_one_line(exported, changes, message, tmp_path):
    config = {"run_dir": exported[1], "formats": ("npz",), **changes}
    with pytest.raises(UserError, match=message) as caught:
        export(config.pop("run_dir"), tmp_path / "out", **config)
    assert "\n" not in str(caught.value)


def test_stablehlo_is_the_network(tmp_path):
    pytest.importorskip("flatbuffers")
    section = dict(name="densenet121", **miniatures.SMALL["densenet"])
    workdir, arrays = starts.start(tmp_path, section)
    folder = export(workdir, tmp_path / "out", formats=("npz", "stablehlo"))
    image = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype(np.float32)
    reloaded = jax.export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))
    with np.load(folder / "arrays.npz") as archive:
        got = reloaded.call(dict(archive), image)
    module = MODELS.build(section["name"], {k: v for k, v in section.items() if k != "name"})
    want = module.apply(trees.nested(arrays), image, train=False)["pooled"]
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
    with pytest.raises(UserError, match="onnx is written of ResNets"):
        export(workdir, tmp_path / "no", formats=("onnx",))


@pytest.mark.parametrize(
    "section",
    [
        dict(name="resnet18", base_width=4, padding="same"),
        dict(name="resnet50", base_width=4, padding="fixed", norm_epsilon=1e-3),
        dict(name="resnet10", base_width=4, stem="conv3"),
        dict(name="resnet10", base_width=4),
    ],
)
def test_onnx_is_the_network(section):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    from radnet_jax.weights import onnx_resnet

    arrays = miniatures.ours(section)
    model = onnx_resnet.build(arrays, section, channels=3, size=(32, 32))
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).normal(size=(2, 36, 32, 3)).astype(np.float32)
    (got,) = session.run(["features"], {"image": image.transpose(0, 3, 1, 2)})
    module = MODELS.build(section["name"], {k: v for k, v in section.items() if k != "name"})
    want = module.apply(trees.nested(arrays), image, train=False)["pooled"]
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def test_fixed_positions_are_written(tmp_path):
    section = dict(name="vit_tiny", position="sincos", **miniatures.SMALL["vit"])
    arrays = miniatures.ours(section)
    assert "params/pos_embed" not in arrays
    state = exporting.theirs(arrays, section, "timm")
    learned = {k: v for k, v in section.items() if k != "position"}
    entries = layouts.entries(names.find("vit_tiny", "timm"), layouts.shapes_of(learned))
    ours = {e.ours: e.to_ours([state[n] for n in e.theirs]) for e in entries}
    image = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype(np.float32)

    def features(section, arrays):
        module = MODELS.build(section["name"], {k: v for k, v in section.items() if k != "name"})
        return module.apply(trees.nested(arrays), image, train=False)["pooled"]

    np.testing.assert_allclose(features(learned, ours), features(section, arrays), atol=1e-5)


def full(name):
    """All arrays of a full network, without their memory."""
    return {k: np.broadcast_to(np.float32(0), s) for k, s in layouts.shapes_of({"name": name}).items()}


HEADS = {
    "resnet": r"fc\..*", "vit": r"head\..*", "convnext": r"(classifier\.2|head\.fc)\..*", "swin": r"head\..*",
    "mobilenet": r"classifier\..*", "densenet": r"classifier\..*",
}  # fmt: skip
TIMM = {"vit": "{}_patch16_224", "swin": "{}_patch4_window7_224"}
ONE_OF_EACH = ["resnet18", "resnet50", "vit_small", "convnext_tiny", "swin_tiny", "mobilenet_v3_large", "densenet121"]


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_the_names_are_those_that_strict_loading_asks_for(name):
    torch = pytest.importorskip("torch")
    torchvision = pytest.importorskip("torchvision")
    timm = pytest.importorskip("timm")
    family = names.family_of(name)
    for layout in exporting.EXPORTED[family]:
        with torch.device("meta"):
            if layout == "torchvision":
                net = torchvision.models.get_model(model_card._TORCHVISION.get(name, name))
            elif layout.startswith("timm"):
                pool = {"global_pool": "avg"} if layout == "timm_mean" else {}
                net = timm.create_model(TIMM.get(family, "{}").format(name), **pool)
            else:
                continue
        wanted = {k: tuple(v.shape) for k, v in net.state_dict().items() if not re.fullmatch(HEADS[family], k)}
        state = exporting.theirs(full(name), {"name": name}, layout)
        assert {k: v.shape for k, v in state.items()} == wanted, layout


@pytest.mark.parametrize(
    ("name", "layout"), [("resnet18", "torchvision"), ("vit_tiny", "timm"), ("swin_tiny", "torchvision")]
)
def test_a_pytorch_user_loads_it_with_the_cards_own_lines(name, layout, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    pytest.importorskip("timm")
    pytest.importorskip("safetensors")
    workdir, arrays = starts.start(
        tmp_path, dict(name=name), dict(starts.PHOTO, size=(224, 224)), source=f"{layout}_file"
    )
    folder = export(workdir, tmp_path / "out", formats=("safetensors",))
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert "radnet" not in code
    monkeypatch.chdir(folder)
    scope: dict = {}
    exec(code, scope)
    for entry in layouts.entries(names.find(name, layout), layouts.shapes_of({"name": name})):
        state = scope["net"].state_dict()
        back = entry.to_ours([state[n].numpy() for n in entry.theirs])
        np.testing.assert_array_equal(back, arrays[entry.ours])
    with torch.no_grad():
        assert scope["net"](torch.zeros(1, 3, 224, 224)).shape == (1, MODELS.build(name).width)


@pytest.mark.parametrize(
    ("name", "layout", "channels"),
    [
        ("resnet10", "torchvision", 1),
        ("resnet10", "timm", 1),
        ("mobilenet_v3_small", "torchvision", 1),
        ("densenet121", "torchvision", 1),
        pytest.param("swin_tiny", "timm", 1, marks=pytest.mark.slow),
        pytest.param("resnet18", "hugging_face", 3, marks=pytest.mark.slow),
        pytest.param("resnet50", "hugging_face", 1, marks=pytest.mark.slow),
        ("vit_tiny", "hugging_face", 1),
        pytest.param("convnext_tiny", "hugging_face", 3, marks=pytest.mark.slow),
        pytest.param("swin_tiny", "hugging_face", 1, marks=pytest.mark.slow),
    ],
)
def test_the_lines_of_the_card_make_the_network(name, layout, channels, tmp_path, monkeypatch):
    """Of torchvision and timm at full size; of transformers, which takes any sizes, small and with its features."""
    torch = pytest.importorskip("torch")
    pytest.importorskip({"hugging_face": "transformers"}.get(layout, layout))
    files = pytest.importorskip("safetensors.torch")
    small = layout == "hugging_face"
    section = {"name": name, **(miniatures.SMALL[names.family_of(name)] if small else {})}
    shapes = layouts.shapes_of(section, channels)
    zero = {k: np.broadcast_to(np.float32(0), shape) for k, shape in shapes.items()}
    rng = np.random.default_rng(0)
    arrays = {k: (0.1 + 0.1 * rng.random(shape)).astype(np.float32) for k, shape in shapes.items()} if small else zero
    state = {k: torch.from_numpy(np.array(v)) for k, v in exporting.theirs(arrays, section, layout).items()}
    monkeypatch.setattr(files, "load_file", lambda path: state)
    scope: dict = {}
    exec("\n".join(model_card.snippet(section, layout, channels)), scope)
    if small:
        side = 128 if name.startswith("swin") else 32  # whose windows shrink with small images
        image = rng.normal(size=(1, side, side, channels)).astype(np.float32)
        with torch.no_grad():
            out = scope["net"](torch.from_numpy(image.transpose(0, 3, 1, 2).copy()))
        got = (out.last_hidden_state[:, 0] if name.startswith("vit") else out.pooler_output.flatten(1)).numpy()
        module = MODELS.build(name, {k: v for k, v in section.items() if k != "name"})
        want = module.apply(trees.nested(arrays), image, train=False)["pooled"]
        np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


def test_a_mean_of_the_patches_is_not_exported_as_a_class_token():
    mean, token = ({"name": "vit_tiny", "pool": pool} for pool in ("mean", "cls"))
    assert exporting._layout("", mean) == "timm_mean"
    assert exporting._layout("hugging_face", token) == "hugging_face"
    for layout, section in (("timm", mean), ("hugging_face", mean), ("timm_mean", token)):
        with pytest.raises(UserError, match=f"no names of '{layout}' for vit_tiny"):
            exporting._layout(layout, section)


def test_an_epsilon_that_others_do_not_have_is_a_limit():
    start = Start("x@0-0", {"name": "resnet18"}, ModelInput.from_json(starts.PHOTO), None)
    lines = model_card._limits({"name": "resnet18", "norm_epsilon": 1e-3}, "torchvision", start, [], None)
    assert "Its BatchNorms add 0.001 to the variance, those of other code 1e-05." in lines
    assert not [x for x in model_card._limits({"name": "resnet18"}, "torchvision", start, [], None) if "add" in x]
