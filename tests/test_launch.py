"""What docs/launch.md says to copy: it parses, the flags that it uses exist, and the scripts do what they say."""

import os
from pathlib import Path
import re
import shlex
import signal
import socket
import subprocess
import sys
import time

from absl import flags
import pytest
import yaml

from radnet_jax import checkpoint, main
from radnet_jax.evaluation import ledger
from tests.tiny import ROOT

PAGE = ROOT / "docs" / "launch.md"
FILES = sorted((ROOT / "docs" / "launch").iterdir())
SLURM = ROOT / "docs" / "launch" / "slurm.sh"
KUBERNETES = ROOT / "docs" / "launch" / "kubernetes.yaml"
STUDY_SLURM = ROOT / "docs" / "launch" / "study_slurm.sh"
STUDY_KUBERNETES = ROOT / "docs" / "launch" / "study_kubernetes.yaml"


def test_the_page_names_each_file():
    assert {f"launch/{file.name}" for file in FILES} == set(re.findall(r"\]\((launch/[^)]+)\)", PAGE.read_text()))


@pytest.mark.parametrize("file", [f for f in FILES if f.suffix == ".sh"], ids=lambda f: f.name)
def test_scripts_parse_and_can_be_started(file):
    checked = subprocess.run(["bash", "-n", file], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert os.access(file, os.X_OK)


def commands(file):
    """The words after `radnet_jax.main` of each command in a file."""
    text = re.sub(r"\\\n#?\s*", " ", file.read_text())  # goes on in the next line, also in a comment
    if file.suffix == ".yaml":
        (container,) = job(file)["spec"]["template"]["spec"]["containers"]
        text = container["args"][0]
    for line in text.splitlines():
        for match in re.finditer(r"(?:radnet_jax\.main|slurm\.sh|tpu_pod\.sh) (--.*)", line):
            yield re.split(r" (?:\|\||&&)|[`\"']$", match[1])[0].strip("\"'")


@pytest.mark.parametrize("file", [PAGE, *FILES], ids=lambda f: f.name)
def test_every_flag_of_a_command_exists(file):
    found = list(commands(file))
    assert found
    for command in found:
        words = shlex.split(command)
        if "--doctor" not in words:
            main._resolve(["main", *words])  # the config, its variant and the names of all overrides
            assert any(word.startswith("--workdir=") for word in words)
        for word in words:
            name = word.removeprefix("--").partition("=")[0]
            assert word.startswith("--")
            assert name.partition(".")[0] in flags.FLAGS, word


def test_every_override_that_the_page_names_exists():
    config = main.load_config(ROOT / "configs" / "pretrain" / "simclr.py")
    names = set(re.findall(r"--config\.([\w.]+)=", PAGE.read_text()))
    assert {"mesh.replica", "fsdp", "data.shuffle_window"} <= names
    for name in names:
        main._check_override(config, name)


def job(file=KUBERNETES):
    *services, job = yaml.safe_load_all(file.read_text())
    assert [s["kind"] for s in services] == ["Service"] * (file == KUBERNETES)
    assert job["kind"] == "Job"
    return job


def test_the_job_fits_together():
    service, _ = yaml.safe_load_all(KUBERNETES.read_text())
    spec, name = job()["spec"], job()["metadata"]["name"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    (command,) = container["args"]
    values = dict(re.findall(r"--(\w+)=(\S+)", command))
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == int(values["num_processes"])
    assert values["process_id"] == "$JOB_COMPLETION_INDEX"
    assert values["coordinator"] == f"{name}-0.{pod['subdomain']}:{container['ports'][0]['containerPort']}"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": name}
    assert service["spec"]["clusterIP"] == "None"
    assert command.startswith("exec ")  # else bash gets the signal
    assert pod["restartPolicy"] == "Never"  # what podFailurePolicy needs
    by_action = [(rule["action"], rule["onExitCodes"]) for rule in spec["podFailurePolicy"]["rules"][:2]]
    assert by_action[0][0] == "FailJob"
    assert by_action[0][1]["values"] == [main._EXIT_USER_ERROR]
    assert by_action[1][0] == "Ignore"
    assert by_action[1][1]["values"] == [main.EXIT_PREEMPTED]
    assert {codes["containerName"] for _, codes in by_action} == {container["name"]}
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    assert values["workdir"].startswith(container["volumeMounts"][0]["mountPath"])


def test_the_job_of_a_study_fits_together():
    spec, pod = job(STUDY_KUBERNETES)["spec"], job(STUDY_KUBERNETES)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (command,) = container["args"]
    values = dict(re.findall(r"--([\w.]+)=(\S+)", command))
    assert values["config.job"] == "$JOB_COMPLETION_INDEX"
    study = spec_of_study(values["config"])
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["maxFailedIndexes"] == len(study)
    assert command.startswith("exec ")  # else bash gets the signal
    assert pod["restartPolicy"] == "Never"  # what podFailurePolicy needs
    rules = [(rule["action"], rule["onExitCodes"]["values"]) for rule in spec["podFailurePolicy"]["rules"][:2]]
    assert rules == [("FailIndex", [main._EXIT_USER_ERROR]), ("Ignore", [main.EXIT_PREEMPTED])]
    assert spec["backoffLimitPerIndex"] > 0  # what FailIndex needs
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    assert values["workdir"].startswith(container["volumeMounts"][0]["mountPath"])


def spec_of_study(config):
    from radnet_jax.study import run, spec

    return run.all_runs(spec.read(main.load_config(ROOT / config)), Path("study"))


def executable(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)
    return path


# Starts its processes as Slurm does, and gives their highest exit code.
SRUN = """
while [[ $1 == --* ]]; do shift; done
export SLURM_NTASKS=$FAKE_TASKS SLURM_STEP_NUM_TASKS=$FAKE_TASKS SLURM_STEP_NUM_NODES=$FAKE_TASKS
export SLURM_STEP_NODELIST=localhost SLURM_LOCALID=0
for ((i = 0; i < FAKE_TASKS; i++)); do
  SLURM_PROCID=$i "$@" &
  echo $! >> pids
done
code=0
for pid in $(jobs -p); do
  wait $pid
  last=$?
  ((last > code)) && code=$last
done
exit $code
"""


@pytest.fixture
def cluster(tmp_path):
    """A folder with a `srun` and a `scontrol` of ours, and the environment of a batch script that finds them."""
    tools = tmp_path / "tools"
    tools.mkdir()
    executable(tools / "srun", SRUN)
    executable(tools / "scontrol", 'echo "$@" >> requeued')
    with socket.socket() as s:  # jax makes a port of the job's number
        while True:
            number = int.from_bytes(os.urandom(2), "big") % 2**12
            try:
                s.bind(("localhost", 2**16 - 2**12 + number))
            except OSError:
                continue
            break
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "XLA_FLAGS"))}
    env = kept | {"PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_ID": str(number), "PYTHONPATH": str(ROOT)}
    return tmp_path, env


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (1, False), (2, False), (75, True), (138, False)])
def test_a_job_that_saved_goes_back_into_the_queue(cluster, code, requeued):
    folder, env = cluster
    python = executable(folder / "python", f'[[ "$*" == *--doctor* ]] && exit 0\necho "$@" >> asked\nexit {code}')
    env |= {"RADNET_JAX_PYTHON": str(python), "FAKE_TASKS": "2"}
    done = subprocess.run(["bash", SLURM, "--workdir=a folder"], cwd=folder, env=env, timeout=60, check=False)
    assert done.returncode == code
    assert (folder / "asked").read_text().splitlines() == ["-m radnet_jax.main --workdir=a folder"] * 2
    assert (folder / "requeued").is_file() == requeued
    if requeued:
        assert (folder / "requeued").read_text() == f"requeue {env['SLURM_JOB_ID']}\n"


@pytest.mark.parametrize(("by_number", "given"), [("0", []), ("1", ["--config.job=5"])])
@pytest.mark.parametrize(("code", "requeued"), [(0, False), (2, False), (75, True)])
def test_a_task_of_a_study_does_its_job_or_what_is_left(cluster, by_number, given, code, requeued):
    folder, env = cluster
    python = executable(folder / "python", f'for word in "$@"; do echo "$word" >> asked; done\nexit {code}')
    env |= {"RADNET_JAX_PYTHON": str(python), "FAKE_TASKS": "1", "SLURM_ARRAY_TASK_ID": "5", "BY_NUMBER": by_number}
    done = subprocess.run(["bash", STUDY_SLURM, "--workdir=a folder"], cwd=folder, env=env, timeout=60, check=False)
    assert done.returncode == code
    assert (folder / "asked").read_text().splitlines() == ["-m", "radnet_jax.main", "--workdir=a folder", *given]
    assert (folder / "requeued").is_file() == requeued


def test_a_node_with_a_problem_ends_the_job_before_the_run(cluster):
    folder, env = cluster
    python = executable(folder / "python", '[[ "$*" == *--doctor* ]] && exit 1\ntouch started')
    env |= {"RADNET_JAX_PYTHON": str(python), "FAKE_TASKS": "2"}
    assert subprocess.run(["bash", SLURM], cwd=folder, env=env, timeout=60, check=False).returncode == 1
    assert not (folder / "started").exists()
    assert not (folder / "requeued").exists()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_the_slurm_script_stops_by_signal_and_goes_on(cluster, ct_dataset, processes):
    folder, env = cluster
    command = ["bash", SLURM, f"--config={ROOT}/configs/pretrain/simclr.py:smoke,size=24", "--workdir=run"]
    command += [f"--config.data.dir={ct_dataset}", "--config.log_every=1", "--config.total_steps=40"]
    command += ["--config.backbone.name=resnet10", "--config.backbone.base_width=4"]
    env |= {"RADNET_JAX_PYTHON": sys.executable, "FAKE_TASKS": str(processes), "SLURM_RESTART_COUNT": "1"}
    env |= {"JAX_NUM_CPU_DEVICES": str(4 // processes)}
    job = subprocess.Popen(command, cwd=folder, env=env)
    deadline = time.monotonic() + 250
    log = folder / "run" / "metrics.jsonl"
    while not (log.is_file() and log.read_text().count("\n") > 3):
        assert job.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for pid in (folder / "pids").read_text().split():  # as --signal=USR1@300: to all processes at once
        os.kill(int(pid), signal.SIGUSR1)
    assert job.wait(timeout=120) == 75
    assert (folder / "requeued").is_file()
    stopped = int(checkpoint.latest_folder(folder / "run").name)
    assert 3 < stopped < 40
    done = subprocess.run(command, cwd=folder, env=env, timeout=250, check=False)
    assert done.returncode == 0
    assert ledger.read_run(folder / "run").timings["first_step"] == stopped
    assert [row["step"] for row in ledger.read_curves(folder / "run")] == list(range(1, 41))
