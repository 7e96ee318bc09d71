"""Plateaus of the loss of val: the factor of the learning rate, and the early end of a run."""

import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax import selection, sharding, starts, train
from radnet_jax.errors import UserError
from radnet_jax.evaluation import ledger
from radnet_jax.state import TrainState
from tests import tiny

LOSSES = [1.0, 0.9, 0.89995, 0.95, 0.91, 0.92, 0.89994, 0.5, 0.6, 0.7, 0.6, 0.65, 0.6, 0.61, 0.62]


def config(dataset="", **changes):
    asked = dict(total_steps=6, schedule=dict(name="constant", base_lr=1e-3), sweep=dict(field="", candidates=()))
    asked |= dict(select=dict(every=1, split="val"), tags=tiny.TAGS, average=0.0) | changes
    return tiny.config("configs/finetune/body_region.py", "smoke,scratch,size=24", dataset, **asked)


def plateau(**changes):
    return dict(patience=2, factor=0.5, threshold=1e-4, stop=0) | changes


def follow(losses, **changes):
    """The factors and whether the run has ended, after each selection."""
    asked = config(plateau=plateau(**changes), select_by="loss")
    state = selection.begin(asked, TrainState(jnp.zeros((), jnp.int32), {}, {}, {}, (), {}))
    mesh, out = sharding.make_mesh(1), []
    for loss in losses:
        state = selection.after(asked, state, {"val_loss": loss}, mesh)
        out.append((float(state.aux["plateau"]["factor"]), selection.stopped(asked, state)))
    return out


def test_the_rate_falls_after_more_than_so_many_selections_without_progress():
    # 0.89995 is less than 1e-4 below 0.9, relatively: no progress. Third without: half, and counted anew.
    factors = [factor for factor, _ in follow(LOSSES)]
    assert factors == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125, 0.125]


def test_it_falls_as_torchs_does():
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2, threshold=1e-4)
    losses = np.random.default_rng(0).uniform(0.5, 1, 60).cumsum() * -0.01 + np.random.default_rng(1).normal(size=60)
    expected = []
    for loss in losses + 10:
        theirs.step(loss)
        expected.append(optimizer.param_groups[0]["lr"])
    assert [factor for factor, _ in follow(losses + 10)] == expected
    assert expected[-1] < 0.1


def test_a_metric_is_waited_for_where_it_selects():
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max", factor=0.5, patience=2, threshold=1e-2)
    asked = config(plateau=plateau(threshold=1e-2, stop=4))
    state = selection.begin(asked, TrainState(jnp.zeros((), jnp.int32), {}, {}, {}, (), {}))
    values = [0.5, 0.6, 0.603, 0.605, 0.604, 0.7, 0.69, 0.7, 0.7, 0.7, 0.7]
    ended = []
    for value in values:
        theirs.step(value)
        state = selection.after(asked, state, {"val_accuracy": value}, sharding.make_mesh(1))
        assert float(state.aux["plateau"]["factor"]) == optimizer.param_groups[0]["lr"]
        ended.append(selection.stopped(asked, state))
    assert ended == [False] * 10 + [True]  # the fifth without a better one than 0.7; 0.605 had put it off


def test_any_lower_loss_puts_off_the_end():
    # Since the lowest, 0.9 then 0.89995: four without at the sixth; 0.89994 is lower; since 0.5 four at the twelfth.
    ended = [end for _, end in follow(LOSSES, stop=3)]
    assert ended.index(True) == 11
    assert not any(end for _, end in follow(LOSSES))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(plateau=plateau(), select=dict(every=0, split="val")), "set config.select.every"),
        (dict(plateau=plateau(factor=0.0)), "config.plateau"),
        (dict(plateau=plateau(patience=-1)), "config.plateau"),
        (dict(select_by="lose"), "primary_metric or loss"),
        (dict(views=dict(select="whole", judge="tencrop")), 'did you mean "ten_crop"'),
    ],
)
def test_refusals(ct_dataset, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train.run(config(ct_dataset, **({"judged_weights": "last"} | changes)), tmp_path)


def test_a_run_ends_early_with_the_weights_of_the_lowest_loss(ct_dataset, tmp_path, monkeypatch):
    losses = iter([0.9, 0.5, 0.6, 0.7, 0.1, 0.1])
    monkeypatch.setattr(selection, "cross_entropy", lambda *args, **kwargs: next(losses))
    asked = config(
        ct_dataset,
        select_by="loss",
        plateau=plateau(patience=1, stop=1),
        views=dict(select="center_crop", judge="ten_crop"),
    )
    train.run(asked, tmp_path)
    run, rows = ledger.read_run(tmp_path), ledger.read_curves(tmp_path)
    assert [r["val_loss"] for r in rows] == [0.9, 0.5, 0.6, 0.7]  # ended after the second without a lower one
    assert [r["learning_rate"] for r in rows] == pytest.approx([1e-3, 1e-3, 1e-3, 5e-4])
    assert run.record["best"] == {"step": 2, "value": -0.5}
    assert run.record["steps"] == 4
    assert "@2-" in starts.find_start(str(tmp_path)).id  # what another run would start from
    (tmp_path / "run.json").unlink()
    train.run(asked, tmp_path)  # killed before it was judged: it does not go on training
    assert ledger.read_run(tmp_path).record["steps"] == 4


def test_the_loss_of_val_is_the_mean_over_what_is_known():
    rng = np.random.default_rng(0)
    scores, labels = rng.uniform(size=(5, 3)), (rng.uniform(size=(5, 3)) < 0.5).astype(float)
    mask = (rng.uniform(size=(5, 3)) < 0.6).astype(float)
    each = -np.where(labels > 0, np.log(scores), np.log(1 - scores))
    got = selection.cross_entropy(scores, labels, mask, task="multi_label")
    assert got == pytest.approx((each * mask).sum() / mask.sum())
    p, one = scores / scores.sum(1, keepdims=True), np.eye(3)[[0, 1, 2, 0, 1]]
    known = np.repeat([[1.0], [1], [0], [1], [1]], 3, axis=1)
    got = selection.cross_entropy(p, one, known, task="single_label")
    assert got == pytest.approx(-np.mean([np.log(p[i, [0, 1, 2, 0, 1][i]]) for i in (0, 1, 3, 4)]))
