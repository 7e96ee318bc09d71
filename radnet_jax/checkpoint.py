"""Atomic step folders: state, meta and a digest; nothing else is needed to go on exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import errno
import json
from pathlib import Path
from typing import Any

from absl import logging
import jax
from jaxtyping import PyTree
import numpy as np
import orbax.checkpoint as ocp

from radnet_jax import distributed, trees
from radnet_jax.errors import OtherRunError, UserError

FORMAT = 1
FOLDER = "checkpoints"
_CHANGED = "its values are not those that were saved"
_OF_THE_MACHINE = {errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT, errno.EINTR}
_digest = jax.jit(trees.digest)


class Checkpoints:
    """The checkpoints of one workdir. A save is one folder that appears whole or not at all.

    The folder holds `state` (sharded arrays) and `meta` (JSON: config, step, topology, contract, digest). Bytes that
    change on disk are not noticed by the storage layer, hence the digest, which is checked at each restore.
    """

    def __init__(self, workdir: str | Path, *, keep: int = 2):
        self.folder = Path(workdir).absolute() / FOLDER
        self._keep = _Keep(keep)
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                cleanup_tmp_directories=True,
                preservation_policy=self._keep,
                enable_async_checkpointing=True,
            ),
        )

    def save(self, step: int, state: PyTree, meta: Mapping[str, Any], *, keep_too: int | None = None) -> None:
        """Writes a step folder in the background; returns as soon as the state was copied off the devices.

        The newest `keep` steps stay, and step `keep_too`.
        """
        self._keep.too = keep_too
        full = {"format": FORMAT, "step": step, "digest": _digest_of(state), **meta}
        self._manager.save(
            step, args=ocp.args.Composite(state=ocp.args.PyTreeSave(state), meta=ocp.args.JsonSave(full))
        )

    def steps(self) -> list[int]:
        """Returns the steps that have a complete folder, oldest first."""
        return sorted(self._manager.all_steps())

    def restore_latest(
        self, template: PyTree, check: Callable[[dict[str, Any]], None] = lambda meta: None
    ) -> tuple[PyTree, dict[str, Any]] | None:
        """Restores the newest usable step into the shapes and shardings of `template`.

        `check` sees a step's meta first, and raises an OtherRunError where the checkpoint is sound but of another run.

        A step that is truncated, foreign or changed on disk is moved aside (`N.unusable`), with a warning, and the one
        before is used. Where all that are sound are of another run, so is the workdir: nothing is moved.

        Returns:
          (state, meta), or None where there is no checkpoint at all.

        Raises:
          UserError: if there are checkpoints and none is usable: starting afresh would lose the run silently. And what
            else `check` raises.
        """
        unusable: list[tuple[int, str]] = []
        foreign: OtherRunError | None = None
        for step in reversed(distributed.as_first(self.steps())):
            read, why = None, "another process can't read it"
            try:
                read = _read(self.folder / str(step), template, check)
            except OtherRunError as error:
                foreign, why = foreign or error, f"it is not of this run: {error}"
            except UserError:
                raise
            except Exception as error:  # storage layers raise many types for damaged files
                if _is_of_the_machine(error):
                    raise
                why = _first_line(error)
            if distributed.everywhere(read is not None):  # all go on from one step, or none
                assert read is not None
                state, meta = read
                if distributed.everywhere(_digest_of(state) == meta["digest"]):
                    self._move_aside(unusable)
                    return read
                why = _CHANGED
            unusable.append((step, why))
        if not distributed.everywhere(foreign is None):
            raise foreign or UserError(f"another process found checkpoints of another run in {self.folder}")
        self._move_aside(unusable)
        if unusable or any(self.folder.glob("*.unusable*")):
            raise UserError(
                f"no checkpoint in {self.folder} is usable",
                got=f"{len(list(self.folder.glob('*.unusable*')))} unusable one(s)",
                fix="restore the folder from a backup, name N.unusable N again if it is whole, or delete the workdir "
                "to start afresh",
            )
        return None

    def _move_aside(self, unusable: Sequence[tuple[int, str]]) -> None:
        for step, why in unusable:
            logging.warning("checkpoint %d is not usable (%s): moved aside, the one before is used", step, why)
            if distributed.is_first():
                (self.folder / str(step)).rename(_free_name(self.folder / f"{step}.unusable"))
        if unusable:
            distributed.wait_for_all(f"unusable {unusable[0][0]} moved")
            self._manager.reload()

    def restore(self, step: int, template: PyTree) -> tuple[PyTree, dict[str, Any]]:
        """Restores one step into the shapes and shardings of `template`; a UserError where it is damaged."""
        try:
            state, meta = _read(self.folder / str(step), template, lambda meta: None)
            if _digest_of(state) != meta["digest"]:
                raise ValueError(_CHANGED)
            return state, meta
        except Exception as error:  # storage layers raise many types for damaged files
            raise UserError(
                f"checkpoint {step} in {self.folder} is not usable ({_first_line(error)})",
                fix="restore it from a backup, or delete the workdir to start afresh",
            ) from error

    def wait(self) -> None:
        """Waits for the save that is under way."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()


class _Keep(ocp.checkpoint_managers.PreservationPolicy):
    """Keeps the newest steps, and one more where it is named."""

    def __init__(self, newest: int):
        self.newest = newest
        self.too: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        first = len(checkpoints) - self.newest
        return [i >= first or info.step == self.too for i, info in enumerate(checkpoints)]


def _free_name(path: Path) -> Path:
    number = 0
    while (candidate := path.with_name(f"{path.name}{number or ''}")).exists():
        number += 1
    return candidate


def _digest_of(state: PyTree) -> dict[str, int]:
    leaves = trees.named_leaves(state)
    if all(isinstance(leaf, np.ndarray) for _, leaf in leaves):  # nothing is to be compiled for arrays of the host
        return {name: trees.host_digest(leaf) for name, leaf in leaves}
    names = [name for name, _ in leaves]
    return dict(zip(names, np.asarray(_digest(state)).tolist(), strict=True))


def _read(folder: Path, template: PyTree, check: Callable[[dict[str, Any]], None]) -> tuple[PyTree, dict[str, Any]]:
    """Reads a step; the digest is for the caller to compare, who may have to wait for other processes before."""
    meta = read_meta(folder)
    check(meta)
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), template)
    # Without the storage library's barriers: in them the others would wait for a process that can't read.
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"read_{me}"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
        state = checkpointer.restore(
            folder / "state",
            args=ocp.args.PyTreeRestore(abstract, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract)),
        )
    return state, meta


def _is_of_the_machine(error: Exception) -> bool:
    """Whether an error says nothing of the file that was read: no memory, no more open files, a lost connection."""
    if isinstance(error, OSError):
        return error.errno in _OF_THE_MACHINE
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def read_meta(folder: str | Path) -> dict[str, Any]:
    """Reads the meta of one step folder."""
    meta = json.loads(Path(folder, "meta", "metadata").read_text())
    if meta.get("format") != FORMAT:
        raise ValueError(f"its format is {meta.get('format')}, expected {FORMAT}")
    return meta


def load_meta(folder: str | Path) -> dict[str, Any]:
    """Reads the meta of one step folder; a UserError where it is damaged or of another format."""
    try:
        return read_meta(folder)
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"checkpoint {folder} can't be read ({_first_line(error)})", fix="use another checkpoint of that run"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def latest_folder(workdir: str | Path) -> Path:
    """Returns the newest step folder of a workdir; a UserError where there is none."""
    folder = Path(workdir).absolute() / FOLDER
    steps = sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit()) if folder.is_dir() else []
    if not steps:
        raise UserError(
            f"no checkpoint in {workdir}",
            expected="the workdir of a run that has saved at least once",
            fix="check init_from, or finish the pretraining first",
        )
    return folder / str(steps[-1])


def load_arrays(folder: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Loads a step folder to the host: flat names to arrays, and the meta; a UserError where it is damaged."""
    try:
        meta = read_meta(folder)
        with ocp.PyTreeCheckpointer() as checkpointer:
            tree = checkpointer.metadata(Path(folder) / "state").item_metadata.tree
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            state = checkpointer.restore(Path(folder) / "state", args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    except Exception as error:  # storage layers raise many types for damaged files
        raise UserError(
            f"checkpoint {folder} can't be read ({_first_line(error)})", fix="use another checkpoint of that run"
        ) from error
    arrays = {name: np.asarray(leaf) for name, leaf in trees.named_leaves(state)}
    if (changed := _changed(arrays, meta["digest"])) is not None:
        raise UserError(
            f"checkpoint {folder} was changed on disk ({changed})", fix="use another checkpoint of that run"
        )
    return arrays, meta


def _changed(arrays: Mapping[str, np.ndarray], saved: Mapping[str, int]) -> str | None:
    """Returns the name of an array that is not what was saved, or None."""
    found = _digest_of({name: arrays[name] for name in sorted(arrays)})
    return next((name for name in sorted({*found, *saved}) if found.get(name) != saved.get(name)), None)
