"""Jobs that several processes work on: each is done once, whatever is killed, and failures say why."""

import concurrent.futures
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

from radnet_jax.errors import Preempted, UserError
from radnet_jax.study import finish
from radnet_jax.study.board import ATTEMPTS, CLAIMS, Board, reason_of
from tests import study_worker
from tests.tiny import ROOT

SECONDS = 60


def start(workdir, count):
    command = [sys.executable, "-m", "tests.study_worker", str(workdir), str(count)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def results(workdir, count):
    return {job.number: (job.place / "lines").read_text().split() for job in study_worker.jobs(workdir, count)}


def whole(count):
    return {number: [str(step) for step in range(study_worker.STEPS)] for number in range(count)}


def elsewhere(workdir, lease):
    """Makes a lease look like one of another machine, where it can't be known whether its process lives."""
    who = json.loads(lease.path.read_text()) | {"machine": "another"}
    lease.path.write_text(json.dumps(who))


def older(lease, seconds):
    then = lease.path.stat().st_mtime - seconds
    os.utime(lease.path, (then, then))


def test_of_many_that_claim_a_job_at_once_one_gets_it(tmp_path):
    many = [study_worker.claims(tmp_path) for _ in range(8)]
    for n in range(20):
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            got = list(pool.map(lambda claims, n=n: claims.claim(f"job-{n}"), many))
        assert sum(lease is not None for lease in got) == 1


@pytest.mark.parametrize("links", [True, False])
def test_a_claim_is_newer_than_what_it_takes_over(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError("no links here")))
    a, b = study_worker.claims(tmp_path), study_worker.claims(tmp_path)
    first = a.claim("x")
    assert a.newest()["x"].number == 1
    assert b.claim("x") is None
    second = b.claim("x", after=1)
    assert second.number == 2
    assert a.claim("x", after=1) is None
    assert not first.is_newest()
    assert second.is_newest()
    second.fail("because\nof this")
    assert a.newest()["x"].ended == "failed"
    assert a.reason("x", 2) == "because of this"
    assert a.claim("x", after=1) is None


def test_a_lease_is_held_by_heartbeats_and_by_the_file_times_of_the_file_system(tmp_path, monkeypatch):
    claims = study_worker.claims(tmp_path, heartbeat=0.05, missed=4)
    lease = claims.claim("x")
    elsewhere(tmp_path, lease)
    monkeypatch.setattr(time, "time", lambda: 0.0)  # clocks of machines don't matter
    with lease.keep():
        time.sleep(0.5)
        assert claims.is_held("x", claims.newest()["x"])
    time.sleep(0.4)
    assert not claims.is_held("x", claims.newest()["x"])
    assert not claims.is_gone("x", claims.newest()["x"])


def test_a_process_of_this_machine_that_has_ended_is_not_waited_for(tmp_path):
    claims = study_worker.claims(tmp_path, heartbeat=1000)
    lease = claims.claim("x")
    assert claims.is_held("x", claims.newest()["x"])
    who = json.loads(lease.path.read_text())
    ended = subprocess.Popen(["true"])
    ended.wait()
    for changed in (dict(pid=ended.pid), dict(began="1")):  # no such process; another one with its number
        lease.path.write_text(json.dumps(who | changed))
        assert not claims.is_held("x", claims.newest()["x"])
    lease.path.write_text(json.dumps(who | {"machine": "another", "pid": ended.pid}))
    assert claims.is_held("x", claims.newest()["x"])


def test_killed_at_any_moment_every_job_is_done_whole_and_counted_once(tmp_path):
    count, rng = 12, random.Random(0)
    workers = [start(tmp_path, count) for _ in range(2)]
    deadline = time.monotonic() + SECONDS
    for kill in range(3):
        log = tmp_path / "log"
        while not (log.is_file() and log.read_text().count("\n") > 2 * kill):  # never before the jobs have begun
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(rng.random() * 0.1)
        victim = workers.pop(0)
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        workers.append(start(tmp_path, count))
    for worker in workers:
        assert worker.wait(timeout=SECONDS) == 0, worker.stderr.read()
    assert results(tmp_path, count) == whole(count)
    done = [line.split()[0] for line in (tmp_path / "log").read_text().splitlines()]
    # A job whose process was killed between its last line and the rename is done again; all others once.
    assert set(done) == {str(n) for n in range(count)}
    assert len(done) <= count + 3
    assert not list((tmp_path / ATTEMPTS).iterdir())
    assert not [p for p in (tmp_path / CLAIMS).iterdir() if "@" in p.name]


def test_a_process_that_stood_still_beyond_its_lease_comes_back_and_changes_nothing(tmp_path):
    slow = start(tmp_path, 2)
    deadline = time.monotonic() + SECONDS
    while not list(tmp_path.glob(f"{ATTEMPTS}/*@1/lines")) and time.monotonic() < deadline:
        time.sleep(0.002)
    slow.send_signal(signal.SIGSTOP)
    try:
        ids = ["count-0", "count-1"]
        states = study_worker.board(tmp_path, 2).work(ids)  # after missed heartbeats
        assert [states[id].kind for id in ids] == ["finished", "finished"]
        made = {p: p.stat().st_mtime_ns for p in (tmp_path / "results").rglob("lines")}
    finally:
        slow.send_signal(signal.SIGCONT)
    assert slow.wait(timeout=SECONDS) == 0, slow.stderr.read()
    assert results(tmp_path, 2) == whole(2)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "results").rglob("lines")} == made
    assert study_worker.board(tmp_path, 2).states()["count-0"].kind == "finished"


def test_an_overtaken_process_changes_nothing(tmp_path):
    board = study_worker.board(tmp_path, 1)
    lease = study_worker.claims(tmp_path).claim("count-0")
    slow = tmp_path / ATTEMPTS / "count-0@1"  # of a machine that is cut off
    slow.mkdir(parents=True)
    (slow / "lines").write_text("0\n1\n")
    elsewhere(tmp_path, lease)
    older(lease, 100)
    board.work(["count-0"])
    assert results(tmp_path, 1) == whole(1)
    before = (tmp_path / "results" / "0" / "lines").read_text()
    (job,) = study_worker.jobs(tmp_path, 1)
    slow.mkdir(exist_ok=True)
    job.run(slow)  # it comes back, and finishes
    board._publish(job, slow)
    assert (tmp_path / "results" / "0" / "lines").read_text() == before
    board._failed(job, lease, ValueError("too late"))
    assert board.states()["count-0"].kind == "finished"


def test_a_failed_job_says_why_and_is_tried_again_when_asked(tmp_path, capsys):
    (tmp_path / "fail-1").touch()
    ids = [f"count-{n}" for n in range(3)]
    states = study_worker.board(tmp_path, 3).work(ids)
    assert [states[id].kind for id in ids] == ["finished", "failed", "finished"]
    assert states["count-1"].text.startswith("ValueError")
    assert "PATIENT" not in "".join(p.read_text() for p in (tmp_path / CLAIMS).glob("*@*"))
    assert study_worker.board(tmp_path, 3).work(ids)["count-1"].kind == "failed"
    assert study_worker.board(tmp_path, 3, retry=True).work(ids)["count-1"].kind == "failed"  # once, not for ever
    (tmp_path / "fail-1").unlink()
    assert study_worker.board(tmp_path, 3, retry=True).work(ids)["count-1"].kind == "finished"


def test_what_needs_a_failed_job_is_left_out(tmp_path):
    (tmp_path / "fail-0").touch()
    states = study_worker.board(tmp_path, 2).work(["count-0", "count-1"])
    assert [s.kind for s in states.values()] == ["failed", "blocked"]


def test_a_job_that_was_given_back_is_taken_at_once(tmp_path):
    class Stopped(study_worker.Counting):
        def run(self, folder):
            (folder / "lines").write_text("0\n1\n2\n")
            raise Preempted("asked to stop")

    claims = study_worker.claims(tmp_path, heartbeat=1000)
    with pytest.raises(Preempted):
        Board(tmp_path, [Stopped(0, tmp_path)], claims, print).work(["count-0"])
    study_worker.board(tmp_path, 1, heartbeat=1000).work(["count-0"])
    assert results(tmp_path, 1) == whole(1)


def test_it_waits_for_a_job_of_another_process(tmp_path):
    lease = study_worker.claims(tmp_path).claim("count-0")
    waiting = threading.Thread(target=lambda: study_worker.board(tmp_path, 2).work(["count-1"]))
    with lease.keep():
        waiting.start()
        time.sleep(0.5)
        assert not (tmp_path / "log").is_file()
        lease.release()
    waiting.join(timeout=SECONDS)
    assert results(tmp_path, 2) == whole(2)


def test_a_claim_holds_where_links_are_not_counted(tmp_path, monkeypatch):
    """As on some file servers, which always tell of one link."""
    claims, stat = study_worker.claims(tmp_path), os.stat

    def one_link(*args, **kwargs):
        found = stat(*args, **kwargs)
        return os.stat_result((*found[:3], 1, *found[4:10]))

    monkeypatch.setattr(os, "stat", one_link)
    assert claims.claim("x") is not None
    assert claims.claim("x") is None


def test_a_repeated_request_that_was_done_is_a_claim(tmp_path, monkeypatch):
    """As on NFS: the first request made the link, its answer was lost, and the second hears that it is there."""
    claims, link = study_worker.claims(tmp_path), os.link

    def twice(old, new):
        link(old, new)
        link(old, new)

    monkeypatch.setattr(os, "link", twice)
    assert claims.claim("x") is not None
    assert claims.claim("x") is None


def test_what_is_left_of_an_earlier_attempt_ends_no_new_one(tmp_path):
    claims = study_worker.claims(tmp_path)
    claims.claim("x").fail("because")
    lease = tmp_path / "claims" / "x@1.lease"
    lease.unlink()  # `forget` was cut short
    assert claims.newest()["x"].ended == "failed"
    again = claims.claim("x", after=claims.newest()["x"].number)
    assert again.number == 2
    assert claims.is_held("x", claims.newest()["x"])


def test_a_finished_job_has_not_failed_whatever_is_left_of_its_claims(tmp_path):
    (tmp_path / "fail-0").touch()
    study_worker.board(tmp_path, 1).work(["count-0"])
    (tmp_path / "fail-0").unlink()
    (job,) = study_worker.jobs(tmp_path, 1)
    job.place.mkdir(parents=True)
    job.run(job.place)  # the second attempt published, and its process was killed while it removed the claims
    assert study_worker.board(tmp_path, 1).states()["count-0"].kind == "finished"


def test_a_process_of_another_user_that_can_not_be_seen_is_not_dead(tmp_path, monkeypatch):
    claims = study_worker.claims(tmp_path, heartbeat=1000)
    claims.claim("x")
    monkeypatch.setattr("radnet_jax.study.claims._status", lambda pid: ("", ""))  # /proc with hidepid
    monkeypatch.setattr(os, "kill", lambda *_: (_ for _ in ()).throw(PermissionError("not yours")))
    assert claims.is_held("x", claims.newest()["x"])
    monkeypatch.setattr(os, "kill", lambda *_: (_ for _ in ()).throw(ProcessLookupError("no such process")))
    assert not claims.is_held("x", claims.newest()["x"])


def test_an_attempt_takes_the_place_of_one_of_an_earlier_time(tmp_path):
    old = tmp_path / ATTEMPTS / "count-0@2"  # the job was finished once, and its result removed
    old.mkdir(parents=True)
    (old / "lines").write_text("of another time")
    (tmp_path / ATTEMPTS / "count-0@1").mkdir()
    study_worker.claims(tmp_path).claim("count-0").release()
    assert study_worker.board(tmp_path, 1).work(["count-0"])["count-0"].kind == "finished"
    assert results(tmp_path, 1) == whole(1)


def test_a_report_is_written_anew_after_a_kill(tmp_path, monkeypatch):
    monkeypatch.setattr(finish.Report, "_of", lambda self: "of these runs")
    monkeypatch.setattr(finish, "write", lambda study, workdir, runs, folder: (folder / "index.html").touch())
    report = finish.Report(None, tmp_path, ())
    folder = tmp_path / ATTEMPTS / "report@1"
    for made in (folder, folder.with_name("report@1-before"), report.place):
        made.mkdir(parents=True)
        (made / "index.html").touch()
    report.run(folder)
    assert not report.place.exists()
    assert (folder / "of.json").read_text() == "of these runs"


def test_reasons_tell_no_value_of_the_data():
    def reason(error):
        try:
            raise error
        except type(error) as raised:
            return reason_of(raised)

    assert reason(UserError("batch_size", got=3)) == "batch_size; got 3"
    assert "DOE" not in reason(KeyError("DOE^JANE"))
    assert reason(FileNotFoundError(2, "No such file", "/data/DOE^JANE.dcm")) == (
        "the file system refused (No such file)"
    )
