"""A small generated source in the raw layout of a dataset: what the real one must look like.

    python -m data_prep.miniature --dataset=chestxray14 --out=DIR

Its images are generated, of no patient; `data_prep.build` takes the folder as it takes the real one.
"""

from __future__ import annotations

from collections.abc import Sequence
import sys

from data_prep.flags import Flags
from data_prep.miniatures import MINIATURES, write_miniature
from radnet_jax.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    flags = Flags(
        "python -m data_prep.miniature",
        description="Writes a small generated source, to see what the source of a dataset must look like.",
        allow_abbrev=False,
    )
    flags.add_argument("--dataset", required=True, help=f"one of {', '.join(MINIATURES.names())}")
    flags.add_argument("--out", required=True, metavar="DIR", help="new or empty folder")
    flags.add_argument("--seed", type=int, default=0, help="of the pixels and drawn values (default 0)")
    try:
        known = flags.parse_args(arguments)
        if known.seed < 0:
            raise UserError("--seed", got=known.seed, expected="0 or more")
        write_miniature(known.dataset, known.out, known.seed)
    except UserError as error:
        print(f"data_prep.miniature: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
