"""XLA's flags, all in one place: which are set on what kind of accelerator, why, and whose advice that is.

`main` calls `set_flags` before jax is imported. The compiler reads XLA_FLAGS (and the TPU's own library
LIBTPU_INIT_ARGS) when it starts, and ends the process over a flag that it does not know; hence the tables are short,
and flags are first tried in a process of their own. What the user has put into these variables wins. Nothing is set on
CPU, where it is not asked for.

None of this was measured by us: no GPU or TPU was at hand. The flags were seen to be accepted by jaxlib 0.10.2 and
libtpu 0.0.42.1. Left at XLA's defaults on purpose: asynchronous collectives (on by now), Triton matrix products
(autotuned), the sizes up to which collectives are combined, pipelined collectives (for loops over layers, of which
there are none here), NCCL's variables (its own choice follows the machine).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
import importlib.metadata
from pathlib import Path
import shutil
import subprocess
import sys
from typing import NamedTuple

from absl import logging

from radnet_jax.errors import UserError


class Flag(NamedTuple):
    """One flag: name without dashes, value, why it is set, where that is from."""

    name: str
    value: str
    why: str
    source: str

    def __str__(self) -> str:
        return f"--{self.name}={self.value}"


GPU = (
    Flag(
        "xla_gpu_enable_latency_hiding_scheduler",
        "true",
        "sends gradients between GPUs while the rest is computed; off by default",
        "docs.jax.dev/en/latest/gpu_performance_tips.html; set in NVIDIA's own JAX images",
    ),
)
DETERMINISTIC = (
    Flag(
        "xla_gpu_deterministic_ops",
        "true",
        "sums in a fixed order, in convolutions and products too; a scatter adds one entry after the other, so that "
        "steps have none that adds (tests/test_gpu_programs.py)",
        "openxla.org/xla/determinism; xla/debug_options_flags.cc: run-to-run determinism on GPU",
    ),
    Flag(
        "xla_gpu_autotune_level",
        "0",
        "each start would time the kernels anew, and may choose others",
        "openxla.org/xla/determinism: compilation is deterministic only without a new autotuning",
    ),
)
TPU = (
    Flag(
        "xla_tpu_enable_async_collective_fusion_fuse_all_reduce",
        "true",
        "sums gradients over the chips while the rest is computed; off by default, where its other half is on",
        "openxla.org/xla/flags_guidance, which suggests it for v5e",
    ),
)
TABLES = {"gpu": GPU, "tpu": TPU, "cpu": ()}
LIBTPU = "0.0.42."  # versions that were seen to accept TPU's flags: trying them would occupy the chips

XLA_FLAGS, LIBTPU_ARGS = "XLA_FLAGS", "LIBTPU_INIT_ARGS"


def platform(environment: Mapping[str, str]) -> str:
    """Says what jax is about to use, without importing it: "gpu", "tpu" or "cpu"."""
    if asked := environment.get("JAX_PLATFORMS", "").split(",")[0]:
        return {"cuda": "gpu", "rocm": "gpu"}.get(asked, asked if asked in TABLES else "cpu")
    plugins = {point.name for point in importlib.metadata.entry_points(group="jax_plugins")}
    if nvidia_driver() and any("cuda" in name for name in plugins):
        return "gpu"
    if Path("/dev/kfd").exists() and any("rocm" in name for name in plugins):
        return "gpu"
    return "tpu" if tpu_chips() and _version("libtpu") else "cpu"


def nvidia_driver() -> bool:
    """Whether this machine has a driver for NVIDIA GPUs."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def tpu_chips() -> bool:
    """Whether this machine has TPU chips."""
    return bool(list(Path("/dev").glob("accel*")) or list(Path("/dev/vfio").glob("[0-9]*")))


def set_flags(environment: MutableMapping[str, str], *, deterministic: bool) -> None:
    """Adds the flags of this machine's kind to the environment; call it before jax is imported.

    Args:
      environment: `os.environ`.
      deterministic: also those with which a GPU gives the same bits in each run. They are set whatever the machine is:
        other compilers pass over them, and a GPU that was not recognised must not do without.

    Raises:
      UserError: `deterministic`, and the flags for it can't be set.
    """
    kind = platform(environment)
    wanted = (GPU if kind == "gpu" else ()) + (DETERMINISTIC if deterministic else ())
    given = _parse(environment.get(XLA_FLAGS, ""))
    is_file = bool(environment.get(XLA_FLAGS)) and not environment[XLA_FLAGS].lstrip().startswith("-")
    if deterministic:
        _check_deterministic(given, environment.get(XLA_FLAGS, "") if is_file else "")
    new = [flag for flag in wanted if flag.name not in given]
    if new and not is_file:
        if accepted(new):
            _add(environment, XLA_FLAGS, new)
        elif deterministic:
            raise UserError(
                "--deterministic: this version of XLA does not know its flags",
                got=f"jaxlib {_version('jaxlib')}",
                expected=" ".join(map(str, DETERMINISTIC)),
                fix="put what they are called now into XLA_FLAGS, and leave --deterministic out",
            )
        else:
            logging.warning("jaxlib %s does not know all of %s: none is set", _version("jaxlib"), _names(new))
    if kind == "tpu":
        new = [flag for flag in TPU if flag.name not in _parse(environment.get(LIBTPU_ARGS, ""))]
        if _version("libtpu").startswith(LIBTPU):
            _add(environment, LIBTPU_ARGS, new)
        else:
            logging.info("libtpu %s: %s was not tried with it: not set", _version("libtpu"), _names(new))


def accepted(flags: Iterable[Flag]) -> bool:
    """Whether XLA starts with these flags; tried on the CPU in a process of its own, in a second or two."""
    code = f"import os; os.environ.update(JAX_PLATFORMS='cpu', {XLA_FLAGS}={_text(flags)!r}); import jax; jax.devices()"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def in_effect(environment: Mapping[str, str]) -> list[str]:
    """Returns the flags that are set, as "name=value", without those that name a file: paths can carry names."""
    given = _parse(environment.get(XLA_FLAGS, "")) | _parse(environment.get(LIBTPU_ARGS, ""))
    return [f"{name}={value}" for name, value in sorted(given.items()) if "/" not in value]


def is_deterministic(flags: Iterable[str]) -> bool:
    """Whether a GPU with these flags ("name=value") gives the same bits in each run."""
    return {f"{flag.name}={flag.value}" for flag in DETERMINISTIC} <= set(flags)


def _check_deterministic(given: Mapping[str, str], file: str) -> None:
    for flag in DETERMINISTIC:
        if file or given.get(flag.name, flag.value) != flag.value:
            raise UserError(
                f"--deterministic, and {XLA_FLAGS} says otherwise",
                got=f"the file {file}" if file else f"--{flag.name}={given[flag.name]}",
                expected=str(flag),
                fix=f"take it out of {XLA_FLAGS}",
            )


def _add(environment: MutableMapping[str, str], variable: str, flags: Iterable[Flag]) -> None:
    environment[variable] = f"{environment.get(variable, '')} {_text(flags)}".strip()


def _text(flags: Iterable[Flag]) -> str:
    return " ".join(map(str, flags))


def _names(flags: Iterable[Flag]) -> str:
    return ", ".join(flag.name for flag in flags)


def _parse(text: str) -> dict[str, str]:
    """Reads "--a=b --c" as {"a": "b", "c": "true"}; {} for the name of a file, which XLA takes too."""
    words = [word.lstrip("-").partition("=") for word in text.split() if word.startswith("-")]
    return {name: value.lower() if equals else "true" for name, equals, value in words}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
