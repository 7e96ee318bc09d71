"""TensorBoard and Weights & Biases: what they are given, over several sittings; what is refused; what may fail."""

import importlib.util
import logging
import struct
import sys
import time

import pytest

from radnet_jax import sinks
from radnet_jax.errors import UserError

CONFIG = {"batch_size": 16, "data": {"dir": "dataset"}}


def opened(name, workdir, start=0, logged=0):
    (sink,) = sinks.open_sinks([name], workdir, start=start, logged=logged, label="simclr ct", config=CONFIG)
    return sink


@pytest.fixture
def warnings():
    records = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: records.append(record.getMessage())
    logging.getLogger("absl").addHandler(handler)
    yield records
    logging.getLogger("absl").removeHandler(handler)


def events(folder):
    """The events of a TensorBoard folder, oldest file first."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.iterdir(), key=lambda p: p.stat().st_mtime_ns):
        data, place = path.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack("<Q", data[place : place + 8])
            yield Event.FromString(data[place + 12 : place + 12 + length])
            place += 16 + length


def test_tensorboard_files_hold_each_step_once_for_their_reader(tmp_path):
    pytest.importorskip("tensorboardX")
    for start, steps in ((0, (5, 10, 15, 20)), (10, (15, 20, 25))):  # killed after 20, saved at 10
        sink = opened("tensorboard", tmp_path, start=start, logged=20 if start else 0)
        for step in steps:
            sink.write(step, {"loss": 1.0 / step, "share_steps": 0.5})
        sink.close()
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    seen = {}
    for event in events(tmp_path / "tensorboard"):
        if event.session_log.status == event.session_log.START:  # the reader forgets what is not before it
            seen = {step: v for step, v in seen.items() if step < event.step}
        for value in event.summary.value:
            seen.setdefault(event.step, {})[value.tag] = value.simple_value
    assert sorted(seen) == [5, 10, 15, 20, 25]
    assert seen[25] == pytest.approx({"loss": 0.04, "share_steps": 0.5})


def test_what_is_written_is_on_disk_at_once(tmp_path):
    pytest.importorskip("tensorboardX")
    sink = opened("tensorboard", tmp_path)
    sink.write(5, {"loss": 1.0})
    assert any(event.step == 5 for event in events(tmp_path / "tensorboard"))
    sink.close()


class FakeRun:
    def __init__(self, fails_at=None):
        self.rows, self.fails_at, self.finished = [], fails_at, False

    def log(self, values, step):
        if step == self.fails_at:
            raise ConnectionError("the service has gone\nand more")
        self.rows.append((step, values["loss"]))

    def finish(self):
        self.finished = True


@pytest.fixture
def fake_wandb(monkeypatch):
    """A module in place of wandb, which notes what it is asked for."""

    class Module:
        class Error(Exception):
            pass

        run, asked = FakeRun(), []

        @staticmethod
        def Settings(**settings):  # noqa: N802
            return settings

        @classmethod
        def init(cls, **arguments):
            cls.asked.append(arguments)
            return cls.run

    Module.__spec__ = importlib.util.spec_from_loader("wandb", None, origin="here")
    monkeypatch.setitem(sys.modules, "wandb", Module)
    return Module


def test_weights_and_biases_is_given_no_step_twice_and_goes_on_with_one_run(tmp_path, fake_wandb):
    for start, logged, steps in ((0, 0, (5, 10, 15)), (5, 15, (10, 15, 20))):
        sink = opened("wandb", tmp_path, start=start, logged=logged)
        for step in steps:
            sink.write(step, {"loss": float(step)})
        sink.close()
    assert [step for step, _ in fake_wandb.run.rows] == [5, 10, 15, 20]
    first, second = fake_wandb.asked
    assert first["id"] == second["id"]
    assert first["resume"] == "allow"
    assert first["config"] == CONFIG
    assert fake_wandb.run.finished
    other = tmp_path / "other"
    other.mkdir()
    opened("wandb", other).close()
    assert fake_wandb.asked[2]["id"] != first["id"]


def test_a_sink_that_fails_warns_once_and_the_run_goes_on(tmp_path, fake_wandb, warnings):
    fake_wandb.run = FakeRun(fails_at=10)
    sink = opened("wandb", tmp_path)
    for step in (5, 10, 15):
        sink.write(step, {"loss": 1.0})
    sink.close()
    assert fake_wandb.run.rows == [(5, 1.0)]
    assert len(warnings) == 1
    assert "sink wandb failed (ConnectionError: the service has gone) and is left out" in warnings[0]


def test_a_sink_that_cannot_be_opened_warns_and_the_run_goes_on(tmp_path, warnings):
    pytest.importorskip("tensorboardX")
    (tmp_path / "tensorboard").write_text("a file stands in the way")
    sink = opened("tensorboard", tmp_path)
    sink.write(5, {"loss": 1.0})
    sink.close()
    assert len(warnings) == 1
    assert "sink tensorboard failed" in warnings[0]


def test_offline_weights_and_biases_tells_of_no_place_and_no_machine(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(sys, "argv", ["main", "--config.data.dir=/archive/smith_john"])
    workdir = tmp_path / "smith_john"
    workdir.mkdir()
    sinks.check(["wandb"])
    sink = opened("wandb", workdir)
    sink.write(5, {"loss": 0.25})
    sink.close()
    (file,) = workdir.glob("wandb/offline-run-*/*.wandb")  # what `wandb sync` uploads
    deadline = time.monotonic() + 60
    while b"loss" not in file.read_bytes():  # its service writes when it gets to it
        assert time.monotonic() < deadline
        time.sleep(0.1)
    uploaded = file.read_bytes() + b"".join(p.read_bytes() for p in file.parent.glob("files/*"))
    assert b"simclr ct" in uploaded
    assert b"smith" not in uploaded
    assert str(tmp_path).encode() not in uploaded


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["tensorbord"], r'did you mean "tensorboard"'),
        (
            ["absent"],
            "config.sinks has 'absent', and the package .* is not installed; pip install 'radnet_jax.absent.'",
        ),
    ],
)
def test_sinks_that_are_not_there_are_refused(names, message, monkeypatch):
    monkeypatch.setitem(sinks.PACKAGES, "absent", "a_package_that_nobody_has")
    with pytest.raises(UserError, match=message) as caught:
        sinks.check(names)
    assert "\n" not in str(caught.value)


def test_a_folder_of_that_name_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "a_sink").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sinks.PACKAGES, "folder", "a_sink")
    with pytest.raises(UserError, match="not installed"):
        sinks.check(["folder"])


def test_nobody_logged_in_is_refused_and_offline_is_not(fake_wandb, monkeypatch):
    fake_wandb.login = staticmethod(lambda prompt: False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with pytest.raises(UserError, match=r"nobody is logged in.*WANDB_MODE=offline"):
        sinks.check(["wandb"])
    monkeypatch.setenv("WANDB_MODE", "offline")
    sinks.check(["wandb"])

    def no_network(prompt):
        raise fake_wandb.Error

    monkeypatch.delenv("WANDB_MODE")
    fake_wandb.login = staticmethod(no_network)
    sinks.check(["wandb"])  # told when it is opened
