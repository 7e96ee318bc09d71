"""Records to host batches. The order is a pure function of (seed, batch number). Imports no jax."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
from typing import Any

import grain
import numpy as np

from radnet_jax.errors import UserError

Batch = dict[str, np.ndarray]


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Returns the number of whole batches in an epoch; a dataset smaller than one batch is refused."""
    if num_examples < batch_size:
        raise UserError(
            "the split is smaller than one batch",
            got=f"{num_examples} examples, batch_size {batch_size}",
            fix="lower config.batch_size, or build a larger dataset",
        )
    return num_examples // batch_size


def train_batches(
    source: Any,
    *,
    seed: int,
    batch_size: int,
    start: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 1,
    buffer: int = 4,
) -> Iterator[Batch]:
    """Yields this process's rows of global batch `start`, `start + 1`, ... without end.

    Every epoch is a new permutation with whole batches only, so that the batch number is the data position. Each
    process reads a block of the global batch, which is the same for any number of processes, row by row.

    Args:
      source: random access to examples (dict of arrays), with a length.
      seed: of the order.
      batch_size: global; divided by `process_count`.
      start: number of the first batch, which is the step to go on from.
      process_index: this process's number.
      process_count: number of processes.
      threads: of the reader.
      buffer: batches read ahead.
    """
    whole = steps_per_epoch(len(source), batch_size) * batch_size
    if batch_size % process_count:
        raise UserError("batch_size can't be divided over the processes", got=f"{batch_size} over {process_count}")
    order = grain.MapDataset.source(source).seed(seed).shuffle()[:whole].repeat()
    share = batch_size // process_count
    data = grain.MapDataset.source(_Rows(order, batch_size, share, process_index)).batch(share)[start:]
    return iter(data.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffer)))


@dataclasses.dataclass(frozen=True)
class _Rows:
    """One process's rows: a block of each global batch, so that row i of the batch is row i wherever it is computed."""

    order: Any
    batch_size: int
    share: int
    process_index: int

    def __len__(self) -> int:
        return len(self.order) // self.batch_size * self.share

    def __getitem__(self, index: int) -> Any:
        batch, row = divmod(int(index), self.share)
        return self.order[batch * self.batch_size + self.process_index * self.share + row]


def eval_batches(source: Any, *, batch_size: int, process_index: int = 0, process_count: int = 1) -> Iterator[Batch]:
    """Yields a split once, in record order; the last batch is filled up with row 0 and marked in `valid [b]`."""
    n = len(source)
    for first in range(0, n, batch_size):
        rows = np.split(np.arange(first, first + batch_size), process_count)[process_index]
        examples = [source[int(i) if i < n else 0] for i in rows]
        batch = {k: np.stack([e[k] for e in examples]) for k in examples[0]}
        batch["valid"] = (rows < n).astype(np.float32)
        yield batch
