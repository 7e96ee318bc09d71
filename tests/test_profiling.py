"""A profile of chosen steps of a real run, and the steps that are refused."""

import gzip
import json
import logging as python_logging

from absl import logging
import jax
import pytest

from radnet_jax import train
from radnet_jax.errors import UserError
from radnet_jax.profiling import Profile
from tests import tiny


def pretraining(dataset, start, steps, **changes):
    profile = dict(start=start, steps=steps)
    return tiny.config(
        "configs/pretrain/simclr.py", "smoke,size=24", dataset, total_steps=4, profile=profile, **changes
    )


def traces(workdir):
    return [json.loads(gzip.decompress(p.read_bytes())) for p in workdir.rglob("perfetto_trace.json.gz")]


def steps_in(trace):
    return {int(e["args"]["step_num"]) for e in trace["traceEvents"] if e.get("name") == "train"}


def test_the_chosen_steps_are_in_the_trace_and_the_user_is_told_where(ct_dataset, tmp_path, monkeypatch):
    told = []
    handler = python_logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())
    monkeypatch.setattr(python_logging.getLogger("absl"), "handlers", [handler])
    before = logging.get_verbosity()
    logging.set_verbosity(logging.INFO)
    try:
        train.run(pretraining(ct_dataset, 1, 2), tmp_path)
    finally:
        logging.set_verbosity(before)
    (trace,) = traces(tmp_path / "profile")
    assert steps_in(trace) == {1, 2}
    (path,) = tmp_path.rglob("perfetto_trace.json.gz")
    (line,) = [t for t in told if "profile of steps 1 to 2" in t]
    assert str(path) in line
    assert f"xprof --logdir={tmp_path / 'profile'}" in line


def test_a_sitting_that_ends_in_the_middle_leaves_what_it_has(ct_dataset, tmp_path):
    profile = Profile(pretraining(ct_dataset, 1, 3), tmp_path)
    for step in (0, 1, 2):
        with profile.step(step):
            out = jax.numpy.ones(3) + step
        profile.end(step, out)
    assert not traces(tmp_path)
    profile.close()
    (trace,) = traces(tmp_path)
    assert steps_in(trace) == {1, 2}


@pytest.mark.parametrize(
    ("start", "steps", "message"),
    [
        (-1, 2, "start=-1"),
        (0, -1, "steps=-1"),
        (0, 101, "to 100"),
        (3, 2, "steps that the run does not have; got steps 3 to 4; expected steps from 0 to 3"),
    ],
)
def test_steps_that_are_not_there_are_refused(ct_dataset, tmp_path, start, steps, message):
    with pytest.raises(UserError, match=message):
        train.run(pretraining(ct_dataset, start, steps), tmp_path / "run")
    assert not (tmp_path / "run").exists()
