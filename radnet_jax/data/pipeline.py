"""Records to host batches. The order is a pure function of (seed, batch number). Imports no jax.

Batches are read ahead by threads, not processes: decompression, PNG and JPEG decoding and the copy of the pixels all
let go of the GIL. So there is nothing to be orphaned, to be sent between processes or to be left in shared memory.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
import contextlib
import itertools
from typing import Protocol
import weakref

from jaxtyping import Int
import numpy as np

from radnet_jax import machine
from radnet_jax.data.order import Range, apportion, fold, mixed, shuffled
from radnet_jax.errors import UserError

Batch = dict[str, np.ndarray]
_BATCHES_AHEAD = 2
_ROWS_AT_ONCE = 32  # of a thread: few enough to share a batch evenly, many enough that handing them out costs nothing


class Source(Protocol):
    """Random access to examples; several threads at once may call `read_into`, which fills rows from `first` on."""

    def __len__(self) -> int: ...

    def allocate(self, size: int) -> Batch: ...

    def read_into(self, batch: Batch, first: int, indices: Sequence[int]) -> None: ...


class Ordered:
    """A source whose examples stand in another order."""

    def __init__(self, source: Source, order: Int[np.ndarray, " n"]):
        self._source, self._order = source, order

    def __len__(self) -> int:
        return len(self._order)

    def allocate(self, size: int) -> Batch:
        return self._source.allocate(size)

    def read_into(self, batch: Batch, first: int, indices: Sequence[int]) -> None:
        self._source.read_into(batch, first, self._order[np.asarray(indices)].tolist())


def steps_per_epoch(num_examples: int, batch_size: int, *, subset: bool = False) -> int:
    """Returns the number of whole batches in an epoch; a dataset smaller than one batch is refused.

    A declared subset is not: a batch is then several epochs long, so that one batch size serves all fractions.
    """
    if num_examples < batch_size:
        if subset:
            return 1
        raise UserError(
            "the split is smaller than one batch",
            got=f"{num_examples} examples, batch_size {batch_size}",
            fix="lower config.batch_size, or build a larger dataset",
        )
    return num_examples // batch_size


def train_batches(
    source: Source,
    *,
    seed: int,
    batch_size: int,
    start: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    indices: Int[np.ndarray, " m"] | Sequence[int] | None = None,
    members: Sequence[Range] = (),
    shuffle_window: int = 0,
    synthetic: bool = False,
    threads: int | None = None,
) -> Iterator[Batch]:
    """Yields this process's rows of global batch `start`, `start + 1`, ... without end.

    Every epoch is a new permutation with whole batches only, so that the batch number is the data position. Each
    process reads a block of the global batch, which is the same for any number of processes, row by row. Close the
    iterator to end its threads.

    Args:
      source: the examples.
      seed: of the order.
      batch_size: global; divided by `process_count`.
      start: number of the first batch, which is the step to go on from.
      process_index: this process's number.
      process_count: number of processes.
      indices: the records that there are for this run (a label fraction, k shots); an epoch is once through these. Of
        fewer than a batch has rows, a batch is several epochs long.
      members: (first record, one past the last, weight) of the parts of a mixture. In every 10,000 examples each part
        has exactly its share, and it is shuffled through epochs of its own.
      shuffle_window: 0 shuffles a whole epoch. A number of records reads blocks of `shuffle_window // 64` neighbours
        in random order and shuffles within the window only, for records where a seek is dear.
      synthetic: whether to read one batch and yield it for ever, to see how fast all is without input.
      threads: that read; one a core by default.

    Raises:
      UserError: sizes that do not fit each other, and whatever is wrong with the records.
    """
    place_records = _order(len(source), seed, batch_size, indices, members, shuffle_window)
    if batch_size % process_count:
        raise UserError("batch_size can't be divided over the processes", got=f"{batch_size} over {process_count}")
    share = batch_size // process_count
    rows = np.arange(process_index * share, (process_index + 1) * share)

    def numbers() -> Iterator[np.ndarray]:
        batch = start
        while True:
            yield place_records(batch * batch_size + rows)
            batch += 1

    batches = _read_ahead(source, numbers(), threads)
    return _first(batches) if synthetic else batches


def _first(batches: Generator[Batch]) -> Iterator[Batch]:
    with contextlib.closing(batches):
        batch = next(batches)
    yield from itertools.repeat(batch)


def eval_batches(
    source: Source, *, batch_size: int, process_index: int = 0, process_count: int = 1, threads: int | None = None
) -> Iterator[Batch]:
    """Yields a split once, in record order; the last batch is filled up with row 0 and marked in `valid [b]`."""
    n = len(source)

    def rows(first: int) -> Int[np.ndarray, " b"]:
        return np.split(np.arange(first, first + batch_size), process_count)[process_index]

    firsts = range(0, n, batch_size)
    numbers = (np.where(rows(first) < n, rows(first), 0) for first in firsts)
    with contextlib.closing(_read_ahead(source, numbers, threads)) as batches:
        for first, batch in zip(firsts, batches):
            yield batch | {"valid": (rows(first) < n).astype(np.float32)}


def _order(
    n: int,
    seed: int,
    batch_size: int,
    indices: Int[np.ndarray, " m"] | Sequence[int] | None,
    members: Sequence[Range],
    window: int,
) -> Callable[[Int[np.ndarray, " p"]], Int[np.ndarray, " p"]]:
    """Returns the function from places of the endless stream to record numbers."""
    if window < 0:
        raise UserError("shuffle_window", got=window, expected="0 (a full shuffle) or a number of records")
    chosen = None if indices is None else _checked(indices, n)
    m = n if chosen is None else len(chosen)
    # Whole batches; of a subset smaller than one all records.
    epoch = min(m, steps_per_epoch(m, batch_size, subset=chosen is not None) * batch_size)
    key = fold(seed, 0)
    if chosen is not None:  # what follows speaks of places in `chosen`
        n = m
        members = [
            (int(np.searchsorted(chosen, first)), int(np.searchsorted(chosen, stop)), weight)
            for first, stop, weight in members
        ]
    for number, (first, stop, _) in enumerate(members):
        if not 0 <= first < stop <= n:
            raise UserError(
                f"member {number} of the mixture", got=f"records {first} to {stop}", expected=f"some of {n}"
            )
    if members:
        apportion([weight for _, _, weight in members])

    def records(places: Int[np.ndarray, " p"]) -> Int[np.ndarray, " p"]:
        if members:
            numbers = mixed(places, members, key, window=window)
        else:
            numbers = shuffled(places, n, key, epoch=epoch, window=window)
        return numbers if chosen is None else chosen[numbers]

    return records


def _checked(indices: Int[np.ndarray, " m"] | Sequence[int], n: int) -> Int[np.ndarray, " m"]:
    chosen = np.sort(np.asarray(indices))
    if chosen.ndim != 1 or not len(chosen) or chosen.dtype.kind not in "iu":
        raise UserError(
            "indices of a subset", got=f"{chosen.dtype} {chosen.shape}", expected="a list of record numbers"
        )
    if chosen[0] < 0 or chosen[-1] >= n or not np.diff(chosen).all():
        raise UserError("indices of a subset", expected=f"each of them once, in 0 to {n - 1}")
    return chosen.astype(np.int64)


def _read_ahead(source: Source, numbers: Iterable[Int[np.ndarray, " b"]], threads: int | None) -> Generator[Batch]:
    """Yields a batch for each array of record numbers, in order.

    A batch is divided over all threads, so that the first comes soon and little has to be held ready.
    """
    pool = ThreadPoolExecutor(threads or machine.cores(), thread_name_prefix="input")
    ahead: deque[tuple[Batch, list[Future[None]]]] = deque()
    spare: dict[int, list[Batch]] = defaultdict(list)

    def finished() -> Batch:
        batch, parts = ahead.popleft()
        for part in parts:
            part.result()
        return batch

    try:
        for rows in numbers:
            unused = spare[len(rows)]
            batch = _lent(unused.pop() if unused else source.allocate(len(rows)), unused)
            parts = [
                pool.submit(source.read_into, batch, first, rows[first : first + _ROWS_AT_ONCE].tolist())
                for first in range(0, len(rows), _ROWS_AT_ONCE)
            ]
            ahead.append((batch, parts))
            if len(ahead) > _BATCHES_AHEAD:
                yield finished()
        while ahead:
            yield finished()
    finally:
        pool.shutdown(cancel_futures=True)


class _Loan:
    """Memory that arrays borrow: NumPy keeps this object for as long as there is an array or a view of one on it."""

    def __init__(self, block: np.ndarray, batch: object):
        self.__array_interface__ = block.__array_interface__
        self.batch = batch


class _LoanedBatch:
    """What the loans of a batch hold on to, so that it ends with the last of them."""


def _lent(batch: Batch, spare: list[Batch]) -> Batch:
    """Returns arrays on the memory of `batch`, which comes to `spare` when nobody has any of them any more.

    NumPy gives large arrays back to the system, which clears their pages before it hands them out again: a tenth to a
    fifth of the processor time of reading a large batch.
    """
    whole = _LoanedBatch()
    weakref.finalize(whole, spare.append, batch).atexit = False
    return {k: np.asarray(_Loan(v, whole)) for k, v in batch.items()}
