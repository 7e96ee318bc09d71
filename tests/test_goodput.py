"""Where the time went: the parts add up, whatever happens inside, and a busy device makes a wait harmless."""

import contextlib
import threading
import time

import pytest

from radnet_jax.goodput import PARTS, Goodput, in_words, shares


class Clock:
    """Stands still until it is told."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def step(self, seconds):
        self.now += seconds


class Output:
    """What a device will have computed once `done` is called."""

    def __init__(self):
        self._event = threading.Event()
        self.done = self._event.set

    def block_until_ready(self):
        assert self._event.wait(10)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def goodput(clock):
    with_clock = Goodput(clock)
    yield with_clock
    with_clock.close()


def slow(clock, *seconds):
    for each in seconds:
        clock.step(each)
        yield "batch"


def test_the_parts_add_to_the_whole(goodput, clock):
    clock.step(1)
    with goodput.spent_on("compile"):
        clock.step(5)
    with goodput.spent_on("steps"):
        clock.step(10)
        with goodput.spent_on("save"):
            clock.step(2)
        with contextlib.suppress(RuntimeError), goodput.spent_on("evaluation"):
            clock.step(3)
            raise RuntimeError
        clock.step(4)
    seconds = goodput.seconds()
    expected = dict.fromkeys(PARTS, 0) | {"other": 1, "compile": 5, "steps": 14, "save": 2, "evaluation": 3}
    assert seconds == expected
    assert sum(shares(seconds).values()) == pytest.approx(1)
    assert in_words(seconds) == "56 % steps, 20 % compiling, 12 % evaluation, 8 % saving, 4 % other"


def test_intervals_add_to_the_whole(goodput, clock):
    goodput.add({"steps": 1000.0, "lost": 7.0})
    total = dict.fromkeys(PARTS, 0.0)
    for seconds in (1, 3):
        with goodput.spent_on("steps"):
            clock.step(seconds)
            spent = goodput.interval()  # inside a part
        assert spent["steps"] == seconds
        assert sum(shares(spent).values()) == pytest.approx(1)
        total = {part: total[part] + spent[part] for part in PARTS}
    assert goodput.seconds() == {part: total[part] + {"steps": 1000.0, "lost": 7.0}.get(part, 0) for part in PARTS}
    assert shares(goodput.interval()) == dict.fromkeys(PARTS, 0.0)  # no time has passed


def test_a_wait_is_the_inputs_where_the_device_is_idle(goodput, clock):
    batches = slow(clock, 3, 4)
    with goodput.spent_on("steps"):
        assert goodput.next(batches) == "batch"
        output = Output()
        goodput.dispatched(output)
        clock.step(1)
        output.done()
        goodput._done.result()
        goodput.next(batches)
    assert goodput.seconds()["input_wait"] == 3 + 4
    assert goodput.seconds()["steps"] == 1


def test_a_wait_costs_nothing_while_the_device_works(goodput, clock):
    with goodput.spent_on("steps"):
        output = Output()
        goodput.dispatched(output)
        goodput.next(slow(clock, 3))
        output.done()
    assert goodput.seconds()["input_wait"] == 0
    assert goodput.seconds()["steps"] == 3


def test_of_a_wait_that_outlasts_the_device_only_the_rest_counts(goodput, clock):
    output = Output()

    def batches():
        clock.step(2)
        output.done()
        goodput._done.result()
        clock.step(0.5)
        yield "batch"

    with goodput.spent_on("steps"):
        goodput.dispatched(output)
        goodput.next(batches())
    assert goodput.seconds()["input_wait"] == 0.5
    assert goodput.seconds()["steps"] == 2


def test_no_part_is_ever_negative(goodput, clock, monkeypatch):
    """The clock goes on while it is asked."""
    monkeypatch.setattr(Clock, "__call__", lambda self: self.step(1) or self.now)
    with goodput.spent_on("steps"):
        output = Output()
        goodput.dispatched(output)
        for _ in range(3):
            goodput.next(slow(clock, 0))
            assert goodput.interval()["input_wait"] == 0
        output.done()


def test_it_keeps_time_by_the_wall():
    goodput = Goodput()
    with goodput.spent_on("steps"):
        time.sleep(0.02)
    goodput.close()
    assert goodput.seconds()["steps"] >= 0.02
