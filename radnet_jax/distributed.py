"""Start-up of runs of several processes: one process a host (TPU pods, Slurm, MPI), or as the flags say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import os

from absl import logging

from radnet_jax import xla_flags
from radnet_jax.errors import UserError

_TPU = "the TPU"
_TIMEOUT = 300  # seconds for all processes to come


def several_processes(environment: Mapping[str, str]) -> str:
    """Names the launcher that started this process as one of several; "" for a process of its own.

    Looked for are the variables that only a process of a job step has: an interactive `salloc` shell, whose job has
    many tasks too, must not wait for them.
    """
    if int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1 and "SLURM_PROCID" in environment:
        return "Slurm"
    if int(environment.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        return "Open MPI"
    if int(environment.get("PMI_SIZE", 1)) > 1:
        return "MPI (mpi4py)"
    if environment.get("TPU_WORKER_HOSTNAMES", "").count(",") or "MEGASCALE_COORDINATOR_ADDRESS" in environment:
        return "TPU pod"
    return ""


def _tpu() -> str:
    """A TPU's hosts are known by Google's metadata server, which jax asks, and not always by the environment."""
    return _TPU if xla_flags.platform(os.environ) == "tpu" else ""


def owns_gpus(environment: Mapping[str, str]) -> bool:
    """Whether all GPUs that this process can see are its own: it is alone on its host, or was given one of its own.

    Under Slurm and Open MPI jax takes for granted that there is a process for each GPU of a host and that all see all:
    a process that is alone on a host would use the first of its GPUs only, and one that sees just its own would look
    for one that is not there.
    """
    if environment.get("JAX_LOCAL_DEVICE_IDS"):
        return False  # the user has said which
    alone = environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1" or (
        "SLURM_STEP_NUM_TASKS" in environment
        and environment["SLURM_STEP_NUM_TASKS"] == environment.get("SLURM_STEP_NUM_NODES")
    )
    given = environment.get("CUDA_VISIBLE_DEVICES", "")
    return alone or (given != "" and "," not in given)


def start(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Connects this process with the others; does nothing for a process of its own.

    Args:
      coordinator: "host:port" of process 0; with it the other two are needed. None: as Slurm, Open MPI or the TPU pod
        says.
      num_processes: of the run.
      process_id: of this process, 0 to num_processes - 1.

    Raises:
      UserError: flags that do not fit together, or processes that did not come.
    """
    given = (coordinator, num_processes, process_id)
    if any(g is not None for g in given):
        if None in given or not 0 <= (process_id or 0) < (num_processes or 0) or ":" not in (coordinator or ""):
            raise UserError(
                "flags of a run of several processes",
                got=f"--coordinator={coordinator} --num_processes={num_processes} --process_id={process_id}",
                expected="all three: --coordinator=HOST:PORT --num_processes=N --process_id=0..N-1",
            )
        launcher = "the flags"
    elif not (launcher := several_processes(os.environ) or _tpu()):
        return
    import jax

    try:
        if launcher == "MPI (mpi4py)":
            jax.distributed.initialize(cluster_detection_method="mpi4py", initialization_timeout=_TIMEOUT)
        else:
            jax.distributed.initialize(coordinator, num_processes, process_id, initialization_timeout=_TIMEOUT)
    except Exception as error:  # gRPC and cluster detection raise many types
        if launcher == _TPU and "coordinator_address should be defined" in str(error):
            logging.info("no other host of this TPU is known")
            return
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"process could not join the others as {launcher} says ({reason})",
            fix="see that all processes were started and can reach the first one's port",
        ) from error
    if owns_gpus(os.environ):
        jax.config.update("jax_cuda_visible_devices", "all")
        jax.config.update("jax_rocm_visible_devices", "all")
    logging.info("process %d of %d, started by %s", jax.process_index(), jax.process_count(), launcher)


def is_first() -> bool:
    """Whether this process writes what is written once."""
    import jax

    return jax.process_index() == 0


def as_first(steps: Sequence[int]) -> list[int]:
    """Returns the first process's list of at most 1,000 numbers: each may see another state of a shared folder."""
    import jax
    from jax.experimental import multihost_utils
    import numpy as np

    if jax.process_count() == 1:
        return list(steps)
    padded = np.full(1000, -1, np.int64)
    padded[: len(steps)] = steps
    return [int(step) for step in multihost_utils.broadcast_one_to_all(padded) if step >= 0]


def everywhere(here: bool) -> bool:
    """Whether something holds in every process; waits until each has said whether it does there."""
    import jax
    from jax.experimental import multihost_utils
    import numpy as np

    return bool(np.all(multihost_utils.process_allgather(np.asarray(here)))) if jax.process_count() > 1 else here


def wait_for_all(what: str) -> None:
    """Waits until every process is here; `what` names the place, and differs from place to place."""
    import jax
    from jax.experimental import multihost_utils

    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)
