"""Rows and sinks: one interval late, no step twice over all sittings, shares that add to 1."""

import json

import jax.numpy as jnp
import pytest

from radnet_jax.goodput import Goodput
from radnet_jax.writer import METRICS_FILE, Writer
from tests.test_goodput import Clock


class Kept:
    def __init__(self):
        self.rows, self.closed = [], False

    def write(self, step, values):
        self.rows.append((step, values))

    def close(self):
        self.closed = True


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make(tmp_path, clock):
    def make(start=0, **changes):
        goodput = Goodput(clock)
        return Writer(tmp_path, total_steps=100, batch_size=8, goodput=goodput, start=start, **changes), goodput

    return make


def rows(tmp_path):
    return [json.loads(line) for line in (tmp_path / METRICS_FILE).read_text().splitlines()]


def test_values_are_written_one_interval_late(make, tmp_path):
    kept = Kept()
    writer, _ = make(open_sinks=lambda logged: [kept])
    writer.write(10, {"loss": jnp.float32(2)})
    assert rows(tmp_path) == kept.rows == []
    writer.write(20, {"loss": jnp.float32(1), "rare": jnp.nan})
    assert [r["step"] for r in rows(tmp_path)] == [10]
    writer.close()
    assert [(r["step"], r["loss"]) for r in rows(tmp_path)] == [(10, 2), (20, 1)]
    assert rows(tmp_path)[1]["rare"] is None
    assert [step for step, _ in kept.rows] == [10, 20]
    assert kept.rows[0][1]["loss"] == 2
    assert "rare" not in kept.rows[1][1]
    assert kept.closed


def test_each_row_says_where_its_time_went(make, tmp_path, clock):
    writer, goodput = make()
    for part, seconds in (("steps", 6), ("input_wait", 3), ("save", 1)):
        with goodput.spent_on(part):
            clock.step(seconds)
    writer.write(10, {})
    with goodput.spent_on("evaluation"):
        clock.step(5)
    writer.write(20, {})
    writer.close()
    first, second = rows(tmp_path)
    assert (first["share_steps"], first["share_input_wait"], first["share_save"]) == (0.6, 0.3, 0.1)
    assert second["share_evaluation"] == 1
    assert [r["seconds"] for r in (first, second)] == [10, 15]
    for row in (first, second):
        assert sum(v for k, v in row.items() if k.startswith("share_")) == pytest.approx(1)


def test_what_was_done_after_the_last_save_is_dropped_and_counted_as_lost(make, tmp_path, clock):
    writer, goodput = make()
    for step in (10, 20, 30):
        with goodput.spent_on("steps"):
            clock.step(10)
        writer.write(step, {"loss": step})
        if step == 10:
            saved = goodput.seconds()
    writer.flush()
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"step": 40, "lo')  # killed
    asked = []
    later = Goodput(clock)
    later.add(saved)
    writer = Writer(
        tmp_path,
        total_steps=100,
        batch_size=8,
        goodput=later,
        start=10,
        open_sinks=lambda logged: asked.append(logged) or [],
    )
    assert asked == [30]
    with later.spent_on("steps"):
        clock.step(5)
    writer.write(20, {"loss": 20})
    writer.close()
    assert [r["step"] for r in rows(tmp_path)] == [10, 20]
    seconds = later.seconds()
    assert (seconds["steps"], seconds["lost"]) == (15, 20)
    assert rows(tmp_path)[-1]["seconds"] == 35
    assert rows(tmp_path)[-1]["share_steps"] == 1


def test_a_fresh_run_has_lost_nothing(make):
    writer, goodput = make(open_sinks=lambda logged: [] if logged == 0 else pytest.fail("nothing was logged"))
    writer.close()
    assert goodput.seconds()["lost"] == 0
