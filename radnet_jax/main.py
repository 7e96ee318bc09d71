"""Command line: `python -m radnet_jax.main --config=configs/quickstart.py --workdir=DIR`. Flags, start-up, dispatch."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import logging as python_logging
import os
from pathlib import Path
import re
import sys
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from radnet_jax import distributed, xla_flags
from radnet_jax.errors import EXIT_PREEMPTED, Preempted, UserError, nearest

_CONFIG = config_flags.DEFINE_config_file("config", None, "What to run: a file of configs/, as path[:variant].")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; a run that is there already goes on.")
_DOCTOR = flags.DEFINE_boolean("doctor", False, "Say what of this machine works, and how to mend what does not.")
_DETERMINISTIC = flags.DEFINE_boolean(
    "deterministic", False, "The same bits in each run on a GPU too; slower. Goes on only where it was set before."
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0; Slurm, MPI and TPU pods say it.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of the run, with --coordinator.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process, with --coordinator.")

_BUILTIN = Path(__file__).parent / "configs"  # where an installed package keeps configs/
_NAMED_PARTS = ("backbone", "objective", "augment", "optimizer", "schedule")  # sections with the arguments of a part
_arguments: list[tuple[str, Any]] = []  # of this command line
_EXIT_USER_ERROR = 2
_RUNNERS = {  # by config.run
    "train": "radnet_jax.train",
    "probe": "radnet_jax.probe",
    "study": "radnet_jax.study.run",
    "compare": "radnet_jax.evaluation.compare_run",
    "predict": "radnet_jax.predict",
    "import": "radnet_jax.weights.importing",
    "export": "radnet_jax.weights.exporting",
    "embed": "radnet_jax.weights.embedding",
    "analyze": "radnet_jax.analysis.command",
}


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code.

    0: done; 1: --doctor found a problem; 2: one line on stderr says what to mend; 75: asked to stop, and the same
    command goes on.
    """
    argv = list(sys.argv if argv is None else argv)
    try:
        if not {"--help", "-h", "--helpfull", "--helpshort", "--doctor"} & set(argv):
            argv, _arguments[:] = _resolve(argv)
            sys.argv = argv  # where ml_collections looks for overrides
        app.run(_dispatch, argv=argv, flags_parser=_parse)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return _EXIT_USER_ERROR
    except Preempted as stopped:
        print(f"stopped: {stopped}; the same command goes on from there", file=sys.stderr)
        return EXIT_PREEMPTED
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    return 0


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"command line: {error}", fix="see --help") from error


def _dispatch(argv: list[str]) -> int:
    if len(argv) > 1:
        raise UserError(
            "command line: arguments without a flag", got=" ".join(argv[1:]), expected="--config, --workdir"
        )
    launch = (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    if _DOCTOR.value:
        _set_up_logging(quiet=True)
        xla_flags.set_flags(os.environ, deterministic=_DETERMINISTIC.value)
        return importlib.import_module("radnet_jax.doctor").run(Path(_WORKDIR.value or "run").resolve(), launch)
    config: ConfigDict = _CONFIG.value
    for place, value in _arguments:
        *sections, key = place.split(".")
        section = functools.reduce(lambda outer, name: outer[name], sections, config)
        with section.unlocked():
            section[key] = value
    if not _WORKDIR.value:
        raise UserError("--workdir is missing", expected="the folder that the run is written to")
    _set_up_logging(quiet=config.run == "study")
    workdir = Path(_WORKDIR.value).resolve()
    if config.run not in _RUNNERS:
        raise UserError(
            f"unknown config.run {config.run!r}{nearest(config.run, _RUNNERS)}", expected=", ".join(_RUNNERS)
        )
    xla_flags.set_flags(os.environ, deterministic=_DETERMINISTIC.value)  # before anything imports jax
    distributed.start(*launch)
    _use_compilation_cache(workdir)
    runner = importlib.import_module(_RUNNERS[config.run])  # slow: after the command line was found to be right
    try:
        runner.run(config, workdir)
    except OSError as error:
        if error.errno is None or (error.filename is None and not error.strerror):
            raise
        raise UserError(
            f"the file system refused ({error.strerror}) while writing {error.filename or workdir}",
            fix="free space or permissions there, then start the same command again: it goes on from its last save",
        ) from error
    return 0


def _use_compilation_cache(workdir: Path) -> None:
    """Keeps compiled programs beside the workdir, so that every run of a study and every restart finds them."""
    import jax

    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = workdir.parent / ".radnet_jax_cache"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = workdir / ".radnet_jax_cache"  # the parent can't be written
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def _set_up_logging(*, quiet: bool) -> None:
    """Shows what our own code says, and only errors of the storage library's internals; a study has its own lines."""
    logging.set_verbosity(logging.WARNING if quiet else logging.INFO)
    handler = logging.get_absl_handler()
    handler.setFormatter(_LogFormat())
    package = str(Path(__file__).parent)
    handler.addFilter(lambda record: record.levelno >= python_logging.ERROR or record.pathname.startswith(package))


class _LogFormat(logging.PythonFormatter):
    def format(self, record: Any) -> str:
        return f"{record.levelname.lower()}: {record.getMessage()}"


def _resolve(argv: list[str]) -> tuple[list[str], list[tuple[str, Any]]]:
    """Finds the config file, makes its `configs` package importable, and checks the names of all overrides.

    Returns:
      The command line for the flags' parser, and what is to be set that the config does not list: arguments of named
      parts, as (place, value).
    """
    out, config_arg = [], None
    tokens = iter(argv)
    for token in tokens:
        if token in ("--config", "-config"):
            token = f"--config={next(tokens, '')}"
        if match := re.fullmatch(r"--?config=(.*)", token):
            config_arg = match[1]
            continue
        out.append(token)
    if not config_arg:
        raise UserError("--config is missing", expected="a file such as configs/quickstart.py")
    resolved = resolve_config(config_arg)
    out.insert(1, f"--config={resolved}")  # the flags' parser wants it before its overrides
    path, _, variant = resolved.partition(":")
    config = load_config(path, variant)
    left, arguments = [], []
    tokens = iter(out)
    for token in tokens:
        if (match := re.fullmatch(r"--?config\.([\w.]+)", token)) and _is_argument(config, match[1]):
            token = f"{token}={next(tokens, '')}"
        if (match := re.fullmatch(r"--?config\.([\w.]+)=(.*)", token)) and _is_argument(config, match[1]):
            arguments.append((match[1], _value(match[2])))
            continue
        if match := re.match(r"--?(?:no)?config\.([^=]+)", token):
            _check_override(config, match[1])
        left.append(token)
    return left, arguments


def _is_argument(config: ConfigDict, place: str) -> bool:
    """Whether a place is an argument of a named part (`backbone.dtype`) that its section does not list.

    The part's own signature says whether there is such an argument, when the run starts.
    """
    *sections, section, key = ("", *place.split("."))
    for name in (*sections[1:], section):
        if not isinstance(config, ConfigDict) or name not in config:
            return False
        config = config[name]
    return section in _NAMED_PARTS and isinstance(config, ConfigDict) and key not in config


def _value(text: str) -> Any:
    """Reads a number, a tuple, a truth value or a text, as Python writes them."""
    try:
        return ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError):
        return text


def resolve_config(config_arg: str) -> str:
    """Returns the config argument with a path that exists: as given, or the package's own file of that name."""
    path, colon, variant = config_arg.partition(":")
    relative = Path(path).relative_to("configs") if Path(path).parts[:1] == ("configs",) else Path(path)
    for candidate in (Path(path), _BUILTIN / relative):
        if candidate.is_file():
            _register_configs(candidate.absolute())
            return f"{candidate}{colon}{variant}"
    folder = Path(path).parent if Path(path).parent.is_dir() else _BUILTIN / relative.parent
    names = [str(Path(path).parent / p.name) for p in sorted(folder.glob("*.py")) if p.name != "__init__.py"]
    raise UserError(
        f"no config file {path}{nearest(path, names)}", expected=f"one of {', '.join(names) or 'configs/*.py'}"
    )


def _register_configs(file: Path) -> None:
    """Lets config files say `from configs import common`, wherever the command is started and the package installed."""
    roots = [p for p in file.parents if p.name == "configs" and (p / "__init__.py").is_file()]
    root = roots[-1] if roots else _BUILTIN
    if "configs" in sys.modules or not root.is_dir():
        return
    spec = importlib.util.spec_from_file_location(
        "configs", root / "__init__.py", submodule_search_locations=[str(root)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["configs"] = module
    spec.loader.exec_module(module)


def load_config(path: str | Path, variant: str = "") -> ConfigDict:
    """Calls a config file's `get_config`, with its variant where there is one."""
    _register_configs(Path(path).absolute())
    spec = importlib.util.spec_from_file_location("radnet_jax_config", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant) if variant else module.get_config()


def _check_override(config: ConfigDict, name: str) -> None:
    section: Any = config
    for i, key in enumerate(re.split(r"[.\[]", name.replace("]", ""))):
        parent = ".".join(["config", *name.split(".")[:i]])
        if isinstance(section, ConfigDict):
            if key not in section:
                raise UserError(
                    f"--config.{name}: {parent} has no field {key!r}{nearest(key, section.keys())}",
                    expected=f"one of {', '.join(section.keys())}",
                )
            section = section[key]
        elif isinstance(section, list | tuple) and key.isdigit() and int(key) < len(section):
            section = section[int(key)]
        else:
            raise UserError(f"--config.{name}: {parent} is a value, not a section", got=repr(section))


if __name__ == "__main__":
    sys.exit(main())
