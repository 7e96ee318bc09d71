"""Does the start know the test set? The audit before a run, and the datasets that a start comes from."""

import json
import logging

import pytest

from radnet_jax import checkpoint, identity_audit, probe, starts, train
from radnet_jax.data.dataset import open_split
from radnet_jax.errors import UserError
from radnet_jax.parts import assemble
from tests import tiny


@pytest.fixture(scope="module")
def everything(ct_dataset, tmp_path_factory):
    """The same images as the task's, all of them in train."""
    from data_prep.build import build

    out = tmp_path_factory.mktemp("everything") / "corpus"
    build("radnet", ct_dataset.parent / "source", out, size=24, splits=("train",))
    return out


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    from data_prep.build import build
    from data_prep.phantom import write_ct

    folder = tmp_path_factory.mktemp("others")
    write_ct(folder / "source", patients_per_region=2, slices=2, image_size=32, seed=5)
    build("radnet", folder / "source", folder / "others", size=24, splits=("train",))
    return folder / "others"


def config(dataset, **changes):
    changes = dict(total_steps=2, sweep=dict(field="", candidates=()), tags=tiny.TAGS) | changes
    return tiny.config("configs/finetune/body_region.py", "smoke,scratch,size=24", dataset, **changes)


def test_shared_files_are_refused_with_their_number_before_anything_is_trained(ct_dataset, everything, tmp_path):
    asked = config(ct_dataset, audit=dict(sources=(str(everything),), on_leak="refuse"))
    n = {split: len(open_split(ct_dataset, split)) for split in ("val", "test")}  # generated: of no patient
    told = rf"test: {n['test']} files.*; val: {n['val']} files.*on_leak=warn"
    with pytest.raises(UserError, match=told):
        train.run(asked, tmp_path)
    assert not (tmp_path / "checkpoints").exists()
    made = json.loads((tmp_path / "audit.json").read_text())
    assert not made["found"]["clean"]
    ids = set(open_split(ct_dataset, "test").manifest()["patient"].to_pylist())
    assert not any(name in (tmp_path / "audit.json").read_text() for name in ids)


def test_a_warning_goes_on_and_stands_in_the_record(ct_dataset, everything, others, tmp_path, caplog):
    sources = (str(others), str(everything))
    with caplog.at_level(logging.WARNING):
        train.run(config(ct_dataset, audit=dict(sources=sources, on_leak="warn")), tmp_path)
    assert any("what the start has seen" in r.message for r in caplog.records)
    found = json.loads((tmp_path / "run.json").read_text())["audit"]
    assert not found["clean"]
    by_name = [told["shared"] for told in found["sources"].values()]
    assert by_name[0] == {}
    assert by_name[1]["test"]["file"] == len(open_split(ct_dataset, "test"))


def test_a_clean_source_is_looked_at_once(ct_dataset, others, tmp_path, monkeypatch):
    asked = config(ct_dataset, audit=dict(sources=(str(others),), on_leak="refuse"))
    parts = assemble(asked)
    found = identity_audit.run(asked, parts, tmp_path)
    assert found["clean"]
    monkeypatch.setattr(identity_audit, "audit", None)  # would raise
    assert identity_audit.run(asked, parts, tmp_path) == found
    assert identity_audit.run(config(ct_dataset), parts, tmp_path / "none") is None


def test_a_kill_leaves_no_half_of_what_was_found(ct_dataset, others, tmp_path, monkeypatch):
    asked = config(ct_dataset, audit=dict(sources=(str(others),), on_leak="refuse"))
    parts = assemble(asked)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(identity_audit.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            identity_audit.run(asked, parts, tmp_path)
    assert not (tmp_path / "audit.json").exists()
    assert identity_audit.run(asked, parts, tmp_path)["clean"]


def test_the_own_training_split_is_a_source_too(ct_dataset, tmp_path):
    asked = config(ct_dataset, audit=dict(sources=(str(ct_dataset),), on_leak="refuse"))
    assert identity_audit.run(asked, assemble(asked), tmp_path)["clean"]


def test_a_chain_says_what_it_was_trained_on_and_what_was_not_audited(ct_dataset, others, tmp_path, caplog):
    pretrain = ("configs/pretrain/supervised.py", "smoke,size=24")
    first = tiny.config(*pretrain, others, total_steps=3)
    train.run(first, tmp_path / "first")
    second = tiny.config(pretrain[0], "smoke,go_on", ct_dataset, total_steps=3, init_from=str(tmp_path / "first"))
    train.run(second, tmp_path / "second")
    lineage = starts.find_start(str(tmp_path / "second")).lineage
    cards = [open_split(d, "train").card for d in (others, ct_dataset)]
    assert lineage == tuple((c.name, c.fingerprint) for c in cards)
    asked = tiny.config(
        "configs/finetune/body_region.py", "smoke,probe=ridge", ct_dataset, init_from=str(tmp_path / "second")
    )
    with caplog.at_level(logging.WARNING):
        probe.run(asked, tmp_path / "probe")
    assert any("was not looked at" in r.message and "radnet" in r.message for r in caplog.records)
    record = json.loads((tmp_path / "probe" / "run.json").read_text())
    assert [d["fingerprint"] for d in record["lineage"]] == [c.fingerprint for c in cards]
    assert checkpoint.load_meta(checkpoint.latest_folder(tmp_path / "second"))["lineage"] == [
        {"name": cards[0].name, "fingerprint": cards[0].fingerprint}
    ]


def test_refusals(ct_dataset, tmp_path):
    for audit, message in (
        (dict(sources=(), on_leak="wran"), 'did you mean "warn"'),
        (dict(sources=(str(tmp_path / "none"),), on_leak="warn"), "no dataset in"),
    ):
        asked = config(ct_dataset, audit=audit)
        with pytest.raises(UserError, match=message):
            train.run(asked, tmp_path / "run")
