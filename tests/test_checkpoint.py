import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax import checkpoint, sharding
from radnet_jax.checkpoint import Checkpoints, load_arrays
from radnet_jax.errors import OtherRunError, UserError

# A restore that fails leaves coroutines of the storage library behind, which complain when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def mesh():
    return sharding.make_mesh()


def state(mesh, value):
    tree = {"params": {"w": jnp.full((64, 8), value), "b": jnp.arange(5.0)}, "step": jnp.int32(value), "aux": {}}
    return sharding.replicate(tree, mesh)


@pytest.fixture
def saved(tmp_path, mesh):
    """A workdir with checkpoints 1, 2 and 3."""
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (1, 2, 3):
        checkpoints.save(step, state(mesh, step), {"config": {"a": step}})
    checkpoints.wait()
    checkpoints.close()
    return tmp_path


def restore(folder, mesh, check=lambda meta: None):
    checkpoints = Checkpoints(folder, keep=3)
    try:
        return checkpoints.restore_latest(state(mesh, 0), check)
    finally:
        checkpoints.close()


def test_restores_the_newest(saved, mesh):
    restored, meta = restore(saved, mesh)
    assert meta["config"] == {"a": 3}
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(state(mesh, 3)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.sharding.is_equivalent_to(b.sharding, a.ndim)


def test_restores_on_another_number_of_devices(saved):
    restored, _ = restore(saved, sharding.make_mesh(2))
    assert len(restored["params"]["w"].sharding.device_set) == 2


def largest_file(folder):
    """The file with the most array bytes (flipped bytes of the descriptions beside it may change nothing)."""
    return max((p for p in folder.rglob("d/*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip(folder):
    path = largest_file(folder / "state")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(bytes(data))


def truncate(folder):
    path = largest_file(folder / "state")
    path.write_bytes(path.read_bytes()[:100])


def change_value(folder):
    """What a flipped bit in a stored value amounts to: a folder that reads well and holds something else."""
    meta = folder / "meta" / "metadata"
    other = folder.parent / "1" / "state"
    shutil.rmtree(folder / "state")
    shutil.copytree(other, folder / "state")
    assert meta.is_file()


def foreign(folder):
    (folder / "meta" / "metadata").write_text('{"format": 99}')


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def without_meta(folder):
    shutil.rmtree(folder / "meta")


def without_state(folder):
    shutil.rmtree(folder / "state")


@pytest.mark.parametrize("damage", [flip, truncate, change_value, foreign, empty, without_meta, without_state])
def test_a_damaged_checkpoint_is_moved_aside_and_the_one_before_is_used(saved, mesh, damage):
    damage(saved / "checkpoints" / "3")
    restored, meta = restore(saved, mesh)
    assert int(restored["step"]) == 2
    assert meta["step"] == 2
    assert [p.name for p in (saved / "checkpoints").glob("3*")] == ["3.unusable"]


def of_another_run(meta, *foreign):
    if meta["step"] in foreign:
        raise OtherRunError(f"step {meta['step']} is of another run")


def test_a_checkpoint_of_another_run_among_this_ones_is_moved_aside(saved, mesh):
    truncate(saved / "checkpoints" / "2")
    restored, _ = restore(saved, mesh, lambda meta: of_another_run(meta, 3))
    assert int(restored["step"]) == 1
    assert sorted(p.name for p in (saved / "checkpoints").iterdir()) == ["1", "2.unusable", "3.unusable"]


def test_a_workdir_of_another_run_is_left_as_it_is(saved, mesh):
    truncate(saved / "checkpoints" / "2")
    with pytest.raises(OtherRunError, match="step 3 is of another run"):
        restore(saved, mesh, lambda meta: of_another_run(meta, 1, 3))
    assert sorted(p.name for p in (saved / "checkpoints").iterdir()) == ["1", "2", "3"]


def test_what_is_refused_for_another_reason_is_not_passed_over(saved, mesh):
    def check(meta):
        if meta["step"] == 3:
            raise UserError("made with --deterministic")

    with pytest.raises(UserError, match="deterministic"):
        restore(saved, mesh, check)
    assert sorted(p.name for p in (saved / "checkpoints").iterdir()) == ["1", "2", "3"]


def test_a_save_that_was_cut_short_does_not_count_and_is_cleared_away(saved, mesh):
    """What SIGKILL inside a save leaves: the folder that the storage layer renames when it is whole."""
    whole = saved / "checkpoints" / "3"
    for half in ("4.orbax-checkpoint-tmp", "5.orbax-checkpoint-tmp-1700000000"):
        shutil.copytree(whole, saved / "checkpoints" / half)
        truncate(saved / "checkpoints" / half)
    (saved / "checkpoints" / "notes.txt").write_text("left by someone")
    restored, meta = restore(saved, mesh)
    assert int(restored["step"]) == meta["step"] == 3
    deadline = time.monotonic() + 20  # they are cleared away in the background
    while list((saved / "checkpoints").glob("*tmp*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sorted(p.name for p in (saved / "checkpoints").iterdir()) == ["1", "2", "3", "notes.txt"]


def test_goes_on_saving_after_a_damaged_one(saved, mesh):
    truncate(saved / "checkpoints" / "3")
    checkpoints = Checkpoints(saved, keep=3)
    checkpoints.restore_latest(state(mesh, 0))
    checkpoints.save(3, state(mesh, 30), {"config": {}})
    checkpoints.wait()
    checkpoints.close()
    assert int(restore(saved, mesh)[0]["step"]) == 30


def test_no_usable_checkpoint_stops_the_run(saved, mesh):
    for step in ("1", "2", "3"):
        truncate(saved / "checkpoints" / step)
    for _ in range(2):  # also when it is tried again, now with nothing but what was moved aside
        with pytest.raises(UserError, match=r"no checkpoint in .* is usable"):
            restore(saved, mesh)


def test_nothing_saved_is_no_error(tmp_path, mesh):
    assert restore(tmp_path, mesh) is None


def test_arrays_load_to_the_host_by_name(saved):
    arrays, meta = load_arrays(saved / "checkpoints" / "2")
    assert sorted(arrays) == ["params/b", "params/w", "step"]
    assert arrays["params/w"].shape == (64, 8)
    assert meta["step"] == 2


@pytest.mark.parametrize(
    ("damage", "message"),
    [(truncate, "can't be read"), (foreign, "can't be read"), (change_value, r"changed on disk \(params/w\)")],
)
def test_a_damaged_start_is_refused_in_one_line(saved, damage, message):
    damage(saved / "checkpoints" / "3")
    with pytest.raises(UserError, match=message) as caught:
        load_arrays(saved / "checkpoints" / "3")
    assert "\n" not in str(caught.value)


def test_a_step_that_another_process_can_not_read_is_no_step(saved, mesh, monkeypatch):
    """Else one process would go on from step 3 and the others from step 2."""
    answers = iter([False, True, True])
    asked = []

    def everywhere(here):
        asked.append(here)
        return next(answers)

    monkeypatch.setattr(checkpoint.distributed, "everywhere", everywhere)
    _, meta = restore(saved, mesh)
    assert asked == [True, True, True]
    assert meta["step"] == 2
    assert (saved / "checkpoints" / "3.unusable").is_dir()


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(24, "too many open files"), ValueError("RESOURCE_EXHAUSTED: no memory")]
)
def test_an_error_of_the_machine_spoils_no_checkpoint(saved, mesh, monkeypatch, error):
    def read(folder):
        raise error

    monkeypatch.setattr(checkpoint, "read_meta", read)
    with pytest.raises(type(error)):
        restore(saved, mesh)
    assert not list((saved / "checkpoints").glob("*.unusable"))
