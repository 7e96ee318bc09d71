"""`--config.data.synthetic`: the same step without input."""

import json

import pytest

from radnet_jax import sharding, train
from radnet_jax.errors import UserError
from radnet_jax.writer import METRICS_FILE
from tests import tiny


def pretraining(dataset, synthetic):
    config = tiny.config("configs/pretrain/simclr.py", "smoke,size=24", dataset, total_steps=4, log_every=1)
    return tiny.change(config, data=config.data.to_dict() | {"synthetic": synthetic})


def rows(workdir):
    return [json.loads(line) for line in (workdir / METRICS_FILE).read_text().splitlines()]


def test_one_batch_is_read_and_put_on_the_device_once(ct_dataset, tmp_path, monkeypatch):
    put = []

    def counted_put(batch, mesh, original=sharding.put_batch):
        put.append(batch)
        return original(batch, mesh)

    monkeypatch.setattr(train.sharding, "put_batch", counted_put)
    train.run(pretraining(ct_dataset, False), tmp_path / "real")
    assert len(put) == 4
    put.clear()
    train.run(pretraining(ct_dataset, True), tmp_path / "synthetic")
    assert len(put) == 1
    real, synthetic = rows(tmp_path / "real"), rows(tmp_path / "synthetic")
    assert synthetic[0]["loss"] == real[0]["loss"]  # the same first step; augmentation still draws anew in the others
    assert len({row["loss"] for row in synthetic}) == 4


def test_such_a_run_is_not_judged(ct_dataset, tmp_path):
    config = tiny.config("configs/finetune/classification.py", "smoke,scratch,size=24", ct_dataset)
    config = tiny.change(config, data=config.data.to_dict() | {"synthetic": True})
    with pytest.raises(UserError, match=r"nothing to judge.*judge=\(\)"):
        train.run(config, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_negative_window_is_refused_at_once(ct_dataset, tmp_path):
    config = pretraining(ct_dataset, False)
    with pytest.raises(UserError, match="shuffle_window"):
        train.run(tiny.change(config, data=config.data.to_dict() | {"shuffle_window": -1}), tmp_path)
