"""Parameters, and what goes with them, divided over devices by rule: the same losses in less memory on each."""

import shutil
import types

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from radnet_jax import checkpoint, sharding, train, trees
from radnet_jax.errors import UserError
from radnet_jax.evaluation import ledger
from radnet_jax.parts import assemble, make_objective, make_recipe, make_tx
from tests import every_objective, tiny

FSDP = ((r"stem_conv", "replicated"), (r".*kernel", "largest"))


@pytest.fixture(scope="module", autouse=True)
def small_networks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "SMALL", 2**10)
        yield


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(8, replica=2)


def leaf(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


@pytest.mark.parametrize(
    ("name", "shape", "spec"),
    [
        ("params/backbone/stage4/conv1/kernel", (3, 3, 128, 256), (None, None, None, "data")),
        ("opt_state/0/trace/backbone/stage4/conv1/kernel", (3, 3, 256, 128), (None, None, "data")),
        ("aux/average/params/backbone/stage4/conv1/kernel", (1, 1, 256, 256), (None, None, None, "data")),
        ("params/projector/linear1/kernel", (512, 514), ("data",)),  # 4 does not divide 514
        ("params/projector/linear1/kernel", (515, 514), ()),
        ("params/backbone/stem_conv/kernel", (7, 7, 64, 64), ()),  # by an earlier rule
        ("params/backbone/stage4/conv1/kernel", (3, 3, 8, 8), ()),  # small
        ("params/backbone/stage4/norm1/scale", (2**20,), ()),  # by no rule
        ("step", (), ()),
    ],
)
def test_a_leaf_lives_where_the_first_rule_of_its_name_says(mesh, name, shape, spec):
    assert sharding._sharding(name, shape, mesh, FSDP).spec == PartitionSpec(*spec)


def test_no_rules_or_one_device_replicate_everything(mesh):
    kernel = ("params/kernel", (3, 3, 128, 256))
    assert sharding._sharding(*kernel, mesh, ()).spec == PartitionSpec()
    assert sharding._sharding(*kernel, sharding.make_mesh(1), FSDP).spec == PartitionSpec()


def test_a_checkpoint_goes_on_under_other_rules_and_on_other_devices(tmp_path, mesh):
    rng = np.random.default_rng(0)
    params = {"backbone": {"conv1": {"kernel": rng.random((3, 3, 32, 64))}}, "head": {"kernel": rng.random((8, 2))}}
    params = jax.tree.map(jnp.asarray, params)
    state = {"step": jnp.int32(2), "params": params, "opt_state": ({"trace": jax.tree.map(jnp.negative, params)},)}
    checkpoints = checkpoint.Checkpoints(tmp_path)
    checkpoints.save(2, sharding.place(state, mesh, FSDP), {})
    checkpoints.wait()
    for devices, replica, rules in ((1, 1, ()), (8, 1, ()), (8, 1, FSDP), (2, 1, FSDP), (4, 2, FSDP)):
        template = sharding.place(
            jax.tree.map(jnp.zeros_like, state), sharding.make_mesh(devices, replica=replica), rules
        )
        restored, _ = checkpoints.restore_latest(template)
        for (name, a), b, c in zip(trees.named_leaves(state), jax.tree.leaves(restored), jax.tree.leaves(template)):
            np.testing.assert_array_equal(a, b, err_msg=name)
            assert b.sharding == c.sharding
    checkpoints.close()


def test_whole_runs_with_a_divided_state(ct_dataset, tmp_path):
    """Pretraining, then fine-tuning from it, judged; finished under other rules, as the same run."""
    train.run(every_objective.config("simclr", ct_dataset, batch_size=16, fsdp=FSDP), tmp_path / "pretraining")
    changes = dict(total_steps=4, fsdp=FSDP, init_from=str(tmp_path / "pretraining"), tags=tiny.TAGS, average=0.5)
    config = tiny.config("configs/finetune/classification.py", "smoke", ct_dataset, **changes)
    parts = assemble(config)
    objective, recipe, (tx, _) = make_objective(config, parts), make_recipe(config, parts), make_tx(config)
    state = train.initial_state(config, parts, objective, tx, recipe)
    arrays, _ = checkpoint.load_arrays(checkpoint.latest_folder(tmp_path / "pretraining"))
    for name, value in trees.named_leaves({"params": {"backbone": state.params["backbone"]}}):
        np.testing.assert_array_equal(value, arrays[name])
    kernel = state.params["backbone"]["stage4_block1"]["conv2"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 8
    workdir = tmp_path / "fine_tuning"
    train.run(config, workdir)
    first = ledger.read_run(workdir)
    (workdir / "run.json").unlink()
    shutil.rmtree(workdir / "checkpoints" / "4")
    train.run(tiny.change(config, fsdp=()), workdir)
    second = ledger.read_run(workdir)
    assert second.timings["first_step"] == 2
    assert second.record["run_id"] == first.record["run_id"]
    np.testing.assert_allclose(second.predictions.scores, first.predictions.scores, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            dict(fsdp=(("conv9", "largest"),)),
            r"matches nothing; got 'conv9'; expected a regex on names such as 'params",
        ),
        (dict(fsdp=((".*kernel", "biggest"),)), "unknown rule 'biggest'"),
        (dict(fsdp=((".*kernel", "largst"),)), 'did you mean "largest"'),
        (dict(fsdp=(("*", "largest"),)), "not a regular expression"),
        (dict(fsdp=(".*kernel", "largest")), r"\(regex, rule\) pairs"),
        (dict(fsdp=FSDP, mesh=dict(replica=3)), "3 over 8 device.*one of 1, 2, 4, 8"),
        (dict(fsdp=FSDP, mesh=dict(replica=0)), "0 over 8 device"),
        (dict(mesh=dict(replica=2)), "changes nothing where config.fsdp divides nothing"),
    ],
)
def test_rules_that_make_no_sense_are_refused_before_training(ct_dataset, tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        train.run(every_objective.config("simclr", ct_dataset, **changes), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_the_devices_of_a_process_stand_together(monkeypatch):
    """A TPU pod's mesh follows its wires, not its hosts; each host's rows are to be one block of the batch."""
    devices = [types.SimpleNamespace(id=i, process_index=p) for i, p in enumerate((0, 1, 0, 1, 1, 0, 1, 0))]
    near = types.SimpleNamespace(devices=np.array(devices))
    monkeypatch.setattr(sharding.jax, "devices", lambda: devices)
    monkeypatch.setattr(sharding.jax, "make_mesh", lambda *_, **__: near)
    monkeypatch.setattr(sharding, "Mesh", lambda array, *_, **__: array)
    mesh = sharding.make_mesh(replica=2)
    assert mesh.shape == (2, 4)
    assert [d.id for d in mesh.flat] == [0, 2, 5, 7, 1, 3, 4, 6]
