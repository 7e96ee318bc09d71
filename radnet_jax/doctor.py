"""`python -m radnet_jax.main --doctor`: what of this machine works, one line each, and how to mend what does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import fcntl
import importlib.metadata
import json
import os
from pathlib import Path
import platform
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import tomllib
from typing import Any, NamedTuple

from radnet_jax import codecs, distributed, machine, xla_flags
from radnet_jax.errors import UserError

TIMEOUT = 180  # seconds for the devices to answer: drivers of absent or broken accelerators can wait for ever
_GIB = 2**30
_PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"  # of a checkout
_CACHE = ".radnet_jax_cache"


class Finding(NamedTuple):
    """One line: "ok", "warning" (works, with a drawback) or "problem" (a run will fail), what, and how to mend it."""

    level: str
    what: str
    fix: str = ""


Findings = Iterator[Finding]


def run(workdir: Path, launch: tuple[str | None, int | None, int | None]) -> int:
    """Prints a line for each thing that was looked at; returns 1 where a problem is among them, else 0.

    Args:
      workdir: where a run is to be written; need not exist.
      launch: the flags of a run of several processes; each of them looks at its own machine.
    """
    several = any(x is not None for x in launch) or distributed.several_processes(os.environ)
    host = f"{socket.gethostname()}: " if several else ""
    answer = _ask_devices(launch)  # looks while the rest is checked
    checks: list[tuple[str, Callable[[], Findings]]] = [
        ("packages", packages),
        ("codecs", image_codecs),
        ("memory", memory),
        ("open files", open_files),
        ("workdir", lambda: folder(workdir)),
        ("compilation cache", lambda: compilation_cache(workdir)),
        ("cache of remote datasets", dataset_cache),
        ("salt", salt),
        ("XLA flags", compiler_flags),
        ("devices", lambda: devices(answer, TIMEOUT)),
    ]
    count = {"ok": 0, "warning": 0, "problem": 0}
    for name, check in checks:
        try:
            findings = list(check())
        except Exception as error:
            findings = [Finding("problem", f"{name}: could not be looked at ({type(error).__name__}: {error})")]
        for found in findings:
            count[found.level] += 1
            line = f"{found.level:8}{host}{found.what}" + (f"; {found.fix}" if found.fix else "")
            print(" ".join(line.splitlines()), flush=True)
    level = "problem" if count["problem"] else "ok"
    verdict = "mend the problems before you start a run" if count["problem"] else "a run can start"
    print(f"{level:8}{host}{verdict} ({count['problem']} problem(s), {count['warning']} warning(s))", flush=True)
    return int(count["problem"] > 0)


def packages() -> Findings:
    """Versions against the lowest that `pyproject.toml`, or the installed package's own metadata, asks for."""
    right = []
    for requirement in _requirements():
        match = re.match(r"([\w.-]+)(?:>=([\d.]+))?$", requirement)
        assert match is not None, requirement
        name, lowest = match[1], match[2] or "0"
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding("problem", f"package {name} is not installed", f"pip install '{requirement}'")
            continue
        if _numbers(version) < _numbers(lowest):
            yield Finding("problem", f"package {name} {version} is older than {lowest}", f"pip install '{requirement}'")
        else:
            right.append(name)
    shown = ", ".join(f"{n} {importlib.metadata.version(n)}" for n in ("jax", "jaxlib", "flax", "optax") if n in right)
    yield Finding("ok", f"packages: Python {platform.python_version()}, {len(right)} as needed, among them {shown}")


def _requirements() -> list[str]:
    if _PYPROJECT.is_file():
        stated = tomllib.loads(_PYPROJECT.read_text())["project"]["dependencies"]
    else:
        stated = [r for r in importlib.metadata.requires("radnet_jax") or [] if "extra ==" not in r]
    return [*stated, "jaxlib"]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version.split("+")[0])[:3])


def image_codecs() -> Findings:
    """The decoders of compressed pixels."""
    works = []
    for name, fault, fix in codecs.check():
        if fault:
            yield Finding("problem", f"codec {name} ({fault})", fix)
        else:
            works.append(name)
    yield Finding("ok", f"codecs: {', '.join(works) or 'none'}")


def memory() -> Findings:
    """What this job may use, which is less than the machine has under Slurm or Kubernetes; and shared memory."""
    free, limit, total = machine.memory()
    of = f"{free / _GIB:.1f} of {limit / _GIB:.1f} GiB free" + (" (the limit of this job)" if limit < total else "")
    if free < 4 * _GIB:
        yield Finding("warning", f"memory: {of}", "ask for 8 GiB or more for each process")
    else:
        yield Finding("ok", f"memory: {of}")
    shared = Path("/dev/shm")
    room = shutil.disk_usage(shared).free if shared.is_dir() else 0
    if room < _GIB:
        fix = "several GPUs need it (NCCL): docker run --shm-size=8g, or an emptyDir with medium: Memory at /dev/shm"
        yield Finding("warning", f"shared memory: {room / _GIB:.2f} GiB at /dev/shm", fix)
    else:
        yield Finding("ok", f"shared memory: {room / _GIB:.1f} GiB")


def open_files() -> Findings:
    """Each shard of a dataset stays open: up to 900 a split, of which a run opens three."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        level = "problem" if hard < 512 else "warning"
        yield Finding(
            level, f"open files: at most {hard} for a process", "raise the hard limit to 4096 or more (ulimit -Hn)"
        )
    else:
        yield Finding("ok", f"open files: {'no limit' if hard == resource.RLIM_INFINITY else f'at most {hard}'}")


def folder(workdir: Path) -> Findings:
    """Whether runs can be written there: files, atomic renames, records, locks, room."""
    place = next(p for p in (workdir, *workdir.parents) if p.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=".radnet_jax_doctor", dir=place) as scratch:
            yield from _trial(Path(scratch), place)
    except OSError as error:
        yield Finding("problem", f"folder {place}: can't be written ({error.strerror})", "choose another --workdir")
        return
    free = shutil.disk_usage(place).free
    level = "problem" if free < _GIB else "warning" if free < 20 * _GIB else "ok"
    fix = "checkpoints of a ResNet-50 take 0.3 GiB each, a dataset of a million slices 50" if level != "ok" else ""
    yield Finding(level, f"room: {free / _GIB:.1f} GiB free at {place}", fix)


def _trial(scratch: Path, place: Path) -> Findings:
    from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

    with (scratch / "a").open("wb") as file:
        file.write(b"1" * 4096)
        os.fsync(file.fileno())
    os.replace(scratch / "a", scratch / "b")
    writer = ArrayRecordWriter(str(scratch / "records"), "group_size:1")
    writer.write(b"1" * 4096)
    writer.close()
    if ArrayRecordReader(str(scratch / "records")).read([0]) != [b"1" * 4096]:
        yield Finding("problem", f"folder {place}: a record that was written is read otherwise")
    yield Finding("ok", f"folder {place}: files and records can be written and read")
    try:
        with (scratch / "b").open("w") as one, (scratch / "b").open("w") as other:
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = False
            except BlockingIOError:
                held = True
    except OSError:
        held = False
    if held:
        yield Finding("ok", "file locks: work")
    else:
        fix = "take care yourself that no two commands write one workdir"
        yield Finding("warning", "file locks: not on this file system", fix)


def dataset_cache() -> Findings:
    """Where datasets that lie on an object store are copied to."""
    from radnet_jax.data.cache import CACHE_VARIABLE, cache_folder

    place = cache_folder()
    above = next(p for p in (place, *place.absolute().parents) if p.exists())
    if os.access(above, os.W_OK | os.X_OK) and above.is_dir():
        yield Finding("ok", f"cache of remote datasets: {place}, {shutil.disk_usage(above).free / _GIB:.1f} GiB free")
    else:
        fix = f"set {CACHE_VARIABLE} to a folder on a local disk, where datasets are at URLs"
        yield Finding("warning", f"cache of remote datasets: {place} can't be written", fix)


def compilation_cache(workdir: Path) -> Findings:
    """Where compiled programs are kept: a restart then takes seconds and not minutes."""
    named = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    place = Path(named or workdir.parent / _CACHE)
    above = next(p for p in (place, *place.absolute().parents) if p.exists())
    if "://" in str(named):
        yield Finding("ok", f"compilation cache: {named} (not tried)")
    elif os.access(above, os.W_OK | os.X_OK) and above.is_dir():
        yield Finding("ok", f"compilation cache: {place}")
    else:
        fix = "set JAX_COMPILATION_CACHE_DIR to a folder that all hosts share"
        yield Finding("warning", f"compilation cache: {place} can't be written", fix)


def salt() -> Findings:
    """The secret under which identifiers are hashed when a dataset is built."""
    from data_prep.hashing import RECIPE, SALT_VARIABLE, given_salt

    try:
        given = given_salt(None)
    except UserError as error:
        yield Finding("problem", f"salt: {error}")
        return
    if given is None:
        fix = f"building a dataset of patients asks for it: {RECIPE}, and name the file there"
        yield Finding("warning", f"salt: {SALT_VARIABLE} is not set", fix)
    elif (file := Path(os.environ[SALT_VARIABLE])).is_file() and file.stat().st_mode & 0o077:
        yield Finding("warning", f"salt: others can read the file of {SALT_VARIABLE}", "chmod 600 FILE")
    else:
        yield Finding("ok", f"salt: the file of {SALT_VARIABLE}")


def compiler_flags() -> Findings:
    """What XLA is told, by us (see `xla_flags`) and by the user."""
    told, kind = xla_flags.in_effect(os.environ), xla_flags.platform(os.environ)
    yield Finding("ok", f"XLA flags for {kind}: {' '.join(told) or 'none'}")
    if kind == "gpu" and not xla_flags.is_deterministic(told):
        yield Finding("ok", "resume: exact but for the order of sums on GPUs; --deterministic makes it bit for bit")


def _ask_devices(launch: tuple[str | None, int | None, int | None]) -> subprocess.Popen[str]:
    """Starts a process that connects with the others and uses the devices; it can be ended when it hangs."""
    path = os.pathsep.join(p or os.getcwd() for p in sys.path)
    return subprocess.Popen(
        [sys.executable, "-m", "radnet_jax.doctor", json.dumps(launch)],
        env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def devices(answer: subprocess.Popen[str], timeout: float) -> Findings:
    """What jax sees and can use, and what it misses."""
    try:
        out, errors = answer.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(answer.pid, signal.SIGKILL)
        fix = "is a driver broken, or did the other processes not come? JAX_PLATFORMS=cpu goes without accelerators"
        yield Finding("problem", f"devices: no answer in {timeout:.0f} s", fix)
        return
    if answer.returncode:
        asked = f"JAX_PLATFORMS={os.environ['JAX_PLATFORMS']}" if "JAX_PLATFORMS" in os.environ else ""
        said = [line for line in errors.splitlines() if ": " in line] or [asked or f"exit code {answer.returncode}"]
        reason = re.sub(r"^[\w.]*(Error|Exception): ", "", said[-1].strip())[:300]
        yield Finding("problem", f"devices: can't be used ({reason})", _missed(""))
        return
    seen = json.loads(out.strip().splitlines()[-1])
    kinds = f"{seen['devices']} x {seen['kind']} ({seen['platform']})"
    room = f", {seen['memory'] / _GIB:.0f} GiB each" if seen["memory"] else ""
    yield Finding("ok", f"devices: {kinds}{room}; a convolution on each and a sum over all of them are right")
    if fix := _missed(seen["platform"]):
        yield Finding("problem" if "JAX_PLATFORMS" not in os.environ else "warning", "devices: not all are used", fix)
    elif seen["platform"] == "cpu":
        yield Finding("warning", "devices: no accelerator", "fit for the quickstart and probes, slow for pretraining")
    if seen["devices"] != seen["local"] * seen["processes"]:
        fix = "a run needs as many on each"
        yield Finding("problem", f"processes: this one has {seen['local']} of {seen['devices']} devices", fix)
    number = f"this is {seen['process']} of {seen['processes']}" if seen["processes"] > 1 else "one"
    yield Finding("ok", f"processes: {number}, with {seen['local']} device(s)")


def _missed(platform_: str) -> str:
    """How to use the accelerators that this machine has and jax does not see; "" where it has none."""
    asked = f" (JAX_PLATFORMS={os.environ['JAX_PLATFORMS']} is set)" if "JAX_PLATFORMS" in os.environ else ""
    if platform_ not in ("gpu", "cuda") and xla_flags.nvidia_driver():
        return f"there is an NVIDIA driver{asked}: pip install 'radnet_jax[cuda]'"
    if platform_ != "tpu" and xla_flags.tpu_chips():
        return f"there is a TPU{asked}: pip install 'radnet_jax[tpu]'"
    return ""


def _use_devices(launch: tuple[str | None, int | None, int | None]) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    from radnet_jax import sharding

    distributed.start(*launch)
    mesh = sharding.make_mesh()
    rows = mesh.size

    def convolved() -> jax.Array:
        image = jax.lax.with_sharding_constraint(jnp.ones((rows, 8, 8, 4)), sharding.batch_sharding(mesh))
        return jax.lax.conv_general_dilated(
            image, jnp.ones((3, 3, 4, 4)), (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        ).sum(axis=(1, 2, 3))

    each = jax.jit(convolved, out_shardings=sharding.batch_sharding(mesh))()
    total = float(jax.jit(jnp.sum, out_shardings=sharding.replicated(mesh))(each))
    expected = rows * 6 * 6 * 4 * 3 * 3 * 4
    if total != expected:
        raise ValueError(f"a sum over all devices is {total} and not {expected}")
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    return {
        "platform": device.platform,
        "kind": device.device_kind,
        "devices": rows,
        "local": jax.local_device_count(),
        "process": jax.process_index(),
        "processes": jax.process_count(),
        "memory": stats.get("bytes_limit", 0),
    }


if __name__ == "__main__":
    print(json.dumps(_use_devices(tuple(json.loads(sys.argv[1])))))
