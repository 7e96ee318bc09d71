"""Files of weights of each kind: what is in them comes out; what is damaged or malicious is one clear error."""

from collections import OrderedDict
import pickle
import zipfile
import zlib

import ml_dtypes
import numpy as np
import pytest

from radnet_jax.errors import UserError
from radnet_jax.weights import containers
from radnet_jax.weights.containers import safetensors
from radnet_jax.weights.containers.crc32c import crc32c
from tests.weights import files
from tests.weights.files import Call, Global

KINDS = ("torch", "torch_legacy", "safetensors", "npz", "tf", "pickle")


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "conv1.weight": rng.normal(size=(4, 3, 2, 2)).astype(np.float32),
        "bn1.running_var": rng.uniform(size=7).astype(np.float32),
        "bn1.num_batches_tracked": np.array(5, np.int64),
        "empty": np.zeros((0, 3), np.float32),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_written_is_read(kind, tmp_path):
    path = files.write(kind, tmp_path / "weights", arrays())
    contents = containers.read(path)
    assert contents.kind == kind
    assert set(contents.tree) == set(arrays())
    for name, array in arrays().items():
        assert contents.tree[name].dtype == array.dtype
        np.testing.assert_array_equal(contents.tree[name], array)


def test_a_checkpoint_of_tensorflow_is_named_by_any_of_its_files(tmp_path, monkeypatch):
    prefix = files.write("tf", tmp_path / "model.ckpt-7", arrays())
    prefix.with_name("model.ckpt-7.meta").write_bytes(b"graph")
    monkeypatch.chdir(tmp_path)
    for name in ("model.ckpt-7", "model.ckpt-7.index", "model.ckpt-7.meta", "model.ckpt-7.data-00000-of-00001", "."):
        assert set(containers.read(name).tree) == set(arrays())
    (tmp_path / "model.ckpt-7.index").unlink()
    with pytest.raises(UserError, match=r"no file model.ckpt-7.index, which belongs to model.ckpt-7.meta"):
        containers.read("model.ckpt-7.meta")
    with pytest.raises(UserError, match="folder without a TensorFlow checkpoint"):
        containers.read(".")


@pytest.mark.parametrize("kind", ["torch", "torch_legacy", "safetensors", "tf"])
def test_half_precision(kind, tmp_path):
    halves = {
        "half": np.arange(6, dtype=np.float16).reshape(2, 3),
        "brain": np.arange(6).astype(ml_dtypes.bfloat16).reshape(3, 2),
    }
    tree = containers.read(files.write(kind, tmp_path / "weights", halves)).tree
    for name, array in halves.items():
        assert tree[name].dtype == array.dtype
        np.testing.assert_array_equal(tree[name], array)


@pytest.mark.parametrize("kind", ["torch", "torch_legacy"])
def test_views_share_a_storage(kind, tmp_path):
    base = np.arange(24, dtype=np.float32)
    grid = base.reshape(4, 6)
    views = OrderedDict(all=base, transposed=grid.T, strided=grid[1:, ::2], one=base[5:6].reshape(()))
    path = files.write(kind, tmp_path / "weights", views)
    assert path.stat().st_size < 2000
    tree = containers.read(path).tree
    for name, array in views.items():
        np.testing.assert_array_equal(tree[name], array)


def test_a_tensor_beyond_its_storage_is_refused(tmp_path):
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    for offset, shape, strides in ((0, (3, 3), (3, 1)), (5, (4,), (1,)), (0, (10**9,), (0,)), (-1, (2,), (1,))):
        storages = {}
        files._tensors(np.zeros(8, np.float32), storages)
        (storage,) = storages.values()
        tensor = Call(rebuild, storage, offset, shape, strides, False, OrderedDict())
        path = tmp_path / "weights"
        files.write_torch(path, OrderedDict(ok=np.zeros(8, np.float32)))
        _replace_pickle(path, files.pickled(OrderedDict(bad=tensor)))
        with pytest.raises(UserError, match=r"beyond its storage|impossible shape"):
            containers.read(path)


def _replace_pickle(path, data):
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["archive/data.pkl"] = data
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)


def test_objects_keep_their_values_and_lose_their_code(tmp_path):
    namespace = Call(Global("copyreg", "__newobj__"), Global("argparse", "Namespace"), state={"lr": 0.03})
    tree = {"opt": Call(Global("argparse", "Namespace"), state={"lr": 0.03}), "epoch": 200, "model": arrays()}
    path = tmp_path / "weights.pkl"
    path.write_bytes(files.pickled(tree))
    assert containers.read(path).tree["opt"] == {"lr": 0.03}
    path.write_bytes(files.pickled({"opt": namespace}))
    with pytest.raises(UserError, match=r"copyreg\.__newobj__"):
        containers.read(path)


def test_a_byol_pickle(tmp_path):
    params = {"res_net50/~/initial_conv": {"w": np.ones((7, 7, 3, 4), np.float32)}}
    state = {"res_net50/~/initial_batchnorm/~/mean_ema": {"average": np.zeros((1, 1, 1, 4), np.float32)}}
    files.write_byol(tmp_path / "byol.pkl", params, state)
    online, _, read_state, _, optimizer = containers.read(tmp_path / "byol.pkl").tree["experiment_state"]
    np.testing.assert_array_equal(online["res_net50/~/initial_conv"]["w"], 1)
    assert set(read_state) == set(state)
    assert optimizer == {"momentum": 0.9}


MALICIOUS = {
    "os.system": Call(Global("os", "system"), "touch {}"),
    "posix.system": Call(Global("posix", "system"), "touch {}"),
    "builtins.eval": Call(Global("builtins", "eval"), "open('{}', 'w')"),
    "builtins.getattr": Call(Global("builtins", "getattr"), Global("collections", "OrderedDict"), "fromkeys"),
    "torch.hub.load": Call(Global("torch.hub", "load"), "x"),
    "torch._utils.os.system": Call(Global("torch._utils", "os.system"), "touch {}"),
    "numpy.ndarray": Call(Global("numpy", "ndarray"), (2,)),
}


@pytest.mark.parametrize("name", MALICIOUS)
@pytest.mark.parametrize("kind", ["torch", "torch_legacy", "pickle"])
def test_a_malicious_pickle_is_refused_and_named(kind, name, tmp_path):
    call = MALICIOUS[name]
    touched = tmp_path / "touched"
    call = Call(call.function, *(a.format(touched) if isinstance(a, str) else a for a in call.args))
    path = files.write(kind, tmp_path / "weights", OrderedDict(payload=call))
    with pytest.raises(UserError, match=f"refused: its pickle asks for {name}") as caught:
        containers.read(path)
    assert "\n" not in str(caught.value)
    assert not touched.exists()


def test_attributes_of_what_the_reader_hands_out_are_not_set(tmp_path):
    path = tmp_path / "weights.pkl"
    encode = b"\x80\x02c_codecs\nencode\n}U\x05stateK\x01sb."
    path.write_bytes(encode)
    with pytest.raises(UserError, match="to set attributes of a function"):
        containers.read(path)


@pytest.mark.parametrize("opcode", [b"\x82\x01", b"(i__main__\nX\n", b"\x97", b"\x96" + b"\xff" * 8])
def test_opcodes_that_reach_further_are_refused(opcode, tmp_path):
    path = tmp_path / "weights.pkl"
    path.write_bytes(b"\x80\x02" + opcode + b".")
    with pytest.raises(UserError, match="damaged"):
        containers.read(path)


def test_arrays_of_objects_are_refused(tmp_path):
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"x": np.array([{}, []], dtype=object)}))
    with pytest.raises(UserError, match="refused"):
        containers.read(path)
    with (tmp_path / "x.npz").open("wb") as file:
        np.savez(file, x=np.array([{}, []], dtype=object))
    with pytest.raises(UserError, match="allow_pickle"):
        containers.read(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"  <html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x89HDF\r\n\x1a\n", "Keras"),
        (b"\x1f\x8b\x08", "unpack it first"),
        (b"\0" * 257 + b"ustar\0" + b"\0" * 250, "tar archive"),
        (b"random bytes that are nothing", "no file of weights that is known"),
        (b"PK\x03\x04 and no more", "damaged"),
    ],
)
def test_other_files_are_told_apart(data, message, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        containers.read(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_an_empty_folder(tmp_path):
    for path in (tmp_path / "nothing.pth", tmp_path):
        with pytest.raises(UserError, match=r"no file|without a TensorFlow checkpoint"):
            containers.read(path)


def test_a_missing_data_file_of_tensorflow_is_named(tmp_path):
    files.write("tf", tmp_path / "model.ckpt", arrays())
    (tmp_path / "model.ckpt.data-00000-of-00001").unlink()
    with pytest.raises(UserError, match=r"model.ckpt.data-00000-of-00001"):
        containers.read(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_fuzzed_files_give_one_error_or_the_same_names(kind, tmp_path):
    """Cut short or with bytes changed, a file is refused in one line; where it has checksums, always."""
    path = files.write(kind, tmp_path / "weights", arrays())
    target = tmp_path / "weights.index" if kind == "tf" else path
    whole = target.read_bytes()
    rng = np.random.default_rng(zlib.crc32(kind.encode()))
    refused = 0
    for trial in range(150):
        data = bytearray(whole)
        if trial % 3 == 0:
            data = data[: rng.integers(len(data))]
        else:
            for _ in range(rng.integers(1, 4)):
                data[rng.integers(len(data))] = rng.integers(256)
        if data == whole:
            continue
        target.write_bytes(data)
        try:
            containers.read(path)
        except UserError as error:
            refused += "\n" not in str(error)
    assert refused >= (140 if kind == "tf" else 60)


@pytest.mark.parametrize("kind", ["torch", "tf", "npz"])
def test_a_changed_weight_is_noticed(kind, tmp_path):
    path = files.write(kind, tmp_path / "weights", arrays())
    target = tmp_path / "weights.data-00000-of-00001" if kind == "tf" else path
    data = bytearray(target.read_bytes())
    at = data.index(arrays()["conv1.weight"].tobytes())
    data[at + 5] ^= 1
    target.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        containers.read(path)


def test_the_checksum_is_the_published_one():
    # RFC 3720, appendix B.4.
    assert crc32c(np.zeros(32, np.uint8)) == 0x8A9136AA
    assert crc32c(np.full(32, 255, np.uint8)) == 0x62A8AB43
    assert crc32c(np.arange(32, dtype=np.uint8)) == 0x46DD794E
    assert crc32c(np.frombuffer(b"123456789", np.uint8)) == 0xE3069283


@pytest.mark.parametrize("size", [0, 63, 64, 4096 * 64 + 17, 2**20 + 5])
def test_lanes_do_not_change_the_checksum(size):
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    table = [*range(256)]
    for i in range(256):
        for _ in range(8):
            table[i] = table[i] >> 1 ^ (0x82F63B78 if table[i] & 1 else 0)
    register = 0xFFFFFFFF
    for byte in data.tolist():
        register = register >> 8 ^ table[(register ^ byte) & 255]
    assert crc32c(data) == register ^ 0xFFFFFFFF


def test_safetensors_reads_ours_and_we_read_its(tmp_path):
    theirs = pytest.importorskip("safetensors.numpy")
    sample = {k: v for k, v in arrays().items()} | {"view": np.arange(12, dtype=np.float32).reshape(3, 4).T}
    safetensors.write(tmp_path / "ours", sample, {"format": "pt"})
    read = theirs.load_file(tmp_path / "ours")
    theirs.save_file({k: np.ascontiguousarray(v) for k, v in sample.items()}, tmp_path / "theirs")
    again = containers.read(tmp_path / "theirs").tree
    for name, array in sample.items():
        np.testing.assert_array_equal(read[name], array)
        np.testing.assert_array_equal(again[name], array)


@pytest.mark.parametrize("legacy", [False, True])
def test_files_of_pytorch(legacy, tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    weight = torch.randn(6, 4)
    tree = {
        "state_dict": OrderedDict(weight=weight, transposed=weight.t(), part=weight[1:3, ::2]),
        "half": weight.half(),
        "brain": weight.bfloat16(),
        "long": torch.arange(3),
        "bool": torch.tensor([True, False]),
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "scalar": torch.tensor(2.5),
        "module": torch.nn.BatchNorm2d(3).state_dict(),
        "epoch": 7,
        "name": "resnet50",
        "float": np.float64(1.5),
    }
    torch.save(tree, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    contents = containers.read(tmp_path / "x.pth")
    assert contents.kind == ("torch_legacy" if legacy else "torch")

    def check(ours, theirs):
        if isinstance(theirs, dict):
            assert list(ours) == list(theirs)
            for key in theirs:
                check(ours[key], theirs[key])
        elif isinstance(theirs, torch.Tensor):
            if theirs.dtype == torch.bfloat16:
                assert ours.dtype == ml_dtypes.bfloat16
                ours, theirs = ours.astype(np.float32), theirs.float()
            assert ours.dtype == theirs.detach().numpy().dtype
            np.testing.assert_array_equal(ours, theirs.detach().numpy())
        else:
            assert ours == theirs

    check(contents.tree, tree)
