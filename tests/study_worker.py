"""A process that works on jobs which only write files: what tests of claims start and kill.

    python -m tests.study_worker WORKDIR JOBS [RETRY]

Job k writes a line for each of its steps into its attempt's folder, and goes on from the lines that are there. Job 0 is
needed by all others.
"""

import dataclasses
import os
from pathlib import Path
import sys
import time

from radnet_jax.study.board import Board
from radnet_jax.study.claims import Claims

STEPS = 6


@dataclasses.dataclass(frozen=True)
class Counting:
    number: int
    workdir: Path

    @property
    def id(self):
        return f"count-{self.number}"

    name = id

    @property
    def place(self):
        return self.workdir / "results" / str(self.number)

    @property
    def needs(self):
        return ("count-0",) if self.number else ()

    def is_finished(self):
        return (self.place / "done").is_file()

    def run(self, folder):
        if (self.workdir / f"fail-{self.number}").exists():
            raise ValueError("PATIENT^NAME")
        lines = folder / "lines"
        done = len(lines.read_text().split()) if lines.is_file() else 0
        with lines.open("a") as file:
            for step in range(done, STEPS):
                file.write(f"{step}\n")
                file.flush()
                time.sleep(0.02)
        (folder / "done").write_text(f"{self.number}")
        with (self.workdir / "log").open("a") as log:
            log.write(f"{self.number} {os.getpid()}\n")
        return f"{self.id} done"


def jobs(workdir, count):
    return [Counting(number, Path(workdir)) for number in range(count)]


def claims(workdir, **changes):
    return Claims(Path(workdir) / "claims", **{"heartbeat": 0.1, "missed": 8} | changes)


def board(workdir, count, *, retry=False, **changes):
    return Board(Path(workdir), jobs(workdir, count), claims(workdir, **changes), lambda line: None, retry=retry)


if __name__ == "__main__":
    states = board(sys.argv[1], int(sys.argv[2])).work([f"count-{n}" for n in range(int(sys.argv[2]))])
    sys.exit(any(state.kind != "finished" for state in states.values()))
