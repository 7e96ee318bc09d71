"""The command line of `data_prep.build`: flags, the help of each dataset, one line for what the user can mend."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
import inspect
import os
import sys
from typing import Any

from data_prep.flags import Flags
from data_prep.guard import DEFAULT_BYTES, DEFAULT_SECONDS
from data_prep.shards import COMPRESSIONS, DEFAULT_COMPRESSION
from data_prep.spec import DATASETS
from radnet_jax.errors import UserError, nearest


def parser() -> argparse.ArgumentParser:
    """The flags that every dataset has."""
    flags = Flags(
        "python -m data_prep.build",
        description="Raw files -> a TFDS dataset of array records (array_record, card.json, manifest.parquet).",
        add_help=False,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("--dataset", help=f"one of {', '.join(DATASETS.names())}")
    flags.add_argument("--source", metavar="DIR", help="folder of the raw files, or its URL; for table: the CSV file")
    flags.add_argument("--out", metavar="DIR", help="folder or URL of the dataset: new, empty, or an unfinished build")
    flags.add_argument("--size", type=int, default=72, help="height and width of stored images (default 72)")
    flags.add_argument("--splits", default="train,val,test", help="some of train,val,test (default all three)")
    flags.add_argument("--split_fractions", metavar="0.7,0.1,0.2", help="one for each split")
    flags.add_argument("--seed", type=int, default=0, help="seed of the splits (default 0)")
    flags.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    flags.add_argument("--salt_file", metavar="FILE", help="secret for hashed ids; else $RADNET_JAX_SALT_FILE")
    flags.add_argument(
        "--time_limit", type=float, default=DEFAULT_SECONDS, help="seconds a file may take (default %(default)g)"
    )
    flags.add_argument(
        "--memory_limit", type=float, default=DEFAULT_BYTES / 2**30, help="GiB a file may take (default %(default)g)"
    )
    flags.add_argument(
        "--compression",
        default=DEFAULT_COMPRESSION,
        help=f"of the records: {', '.join(COMPRESSIONS)} (default %(default)s)",
    )
    flags.add_argument("--runner", default="local", help="local: processes of this machine; beam: Apache Beam")
    flags.add_argument(
        "--beam_options", default="", metavar="FLAGS", help="of Beam, in quotes: '--runner=FlinkRunner ...'"
    )
    flags.add_argument(
        "-h", "--help", action="store_true", help="this text; with --dataset, what its source looks like"
    )
    return flags


def run(build: Callable[..., Any], arguments: Sequence[str] | None) -> int:
    """Parses `arguments`, calls `build`; returns 0, or 2 after one line on stderr that tells what to mend."""
    flags = parser()
    try:
        known, rest = flags.parse_known_args(arguments)
        if known.help:
            print(_help(flags, known.dataset))
            return 0
        for name in ("dataset", "source", "out"):
            if not getattr(known, name):
                raise UserError(f"--{name} is missing", fix="see python -m data_prep.build --help")
        build(
            known.dataset,
            known.source,
            known.out,
            size=known.size,
            splits=tuple(known.splits.split(",")),
            split_fractions=_fractions(known.split_fractions),
            seed=known.seed,
            workers=known.workers,
            salt_file=known.salt_file,
            time_limit=known.time_limit,
            memory_limit=known.memory_limit,
            compression=known.compression,
            runner=known.runner,
            beam_options=known.beam_options,
            **_dataset_options(flags, known.dataset, rest),
        )
    except UserError as error:
        print(f"data_prep.build: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("data_prep.build: interrupted; the same command goes on where it was", file=sys.stderr)
        return 130
    return 0


def _fractions(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UserError("--split_fractions", got=text, expected="numbers such as 0.7,0.1,0.2") from error


def _own_options(dataset: str) -> Mapping[str, inspect.Parameter]:
    parameters = inspect.signature(DATASETS.get(dataset)).parameters
    return {name: p for name, p in parameters.items() if name not in ("source", "size")}


def _dataset_options(flags: argparse.ArgumentParser, dataset: str, rest: Sequence[str]) -> dict[str, Any]:
    """Flags that only this dataset has: the keyword arguments of its factory, converted as their defaults are."""
    own = _own_options(dataset)
    common = [a.dest for a in flags._actions]
    options: dict[str, Any] = {}
    for text in rest:
        name, equals, value = text.removeprefix("--").partition("=")
        if not text.startswith("--") or name not in own:
            raise UserError(f"unknown flag {text!r} for {dataset}{nearest(name, [*common, *own])}")
        if not equals:
            raise UserError(f"--{name} needs a value", expected=f"--{name}=VALUE")
        kind = type(own[name].default)
        try:
            options[name] = kind(value)
        except ValueError as error:
            raise UserError(f"--{name}", got=repr(value), expected=kind.__name__) from error
    return options


def _help(flags: argparse.ArgumentParser, dataset: str | None) -> str:
    names = [dataset] if dataset else DATASETS.names()
    texts = [f"--dataset={name}\n  {inspect.getdoc(DATASETS.get(name))}".replace("\n", "\n  ") for name in names]
    return flags.format_help() + "\nwhat the source must look like:\n\n" + "\n\n".join(texts)
