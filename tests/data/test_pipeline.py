import contextlib
import gc
import itertools
import os
from pathlib import Path
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax.data.dataset import open_split
from radnet_jax.data.pipeline import eval_batches, train_batches
from radnet_jax.errors import UserError


class Numbers:
    """Examples that are their own number."""

    def __init__(self, n, delay=0.0):
        self.n, self.delay, self.reads, self.allocated = n, delay, 0, 0

    def __len__(self):
        return self.n

    def allocate(self, size):
        self.allocated += 1
        return {"index": np.full(size, -1, np.int32)}

    def read_into(self, batch, first, indices):
        time.sleep(self.delay)
        self.reads += 1
        batch["index"][first : first + len(indices)] = indices


def take(n, *args, **kwargs):
    with contextlib.closing(train_batches(*args, **kwargs)) as batches:
        return [b["index"] for b in itertools.islice(batches, n)]


def input_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("input")]


MIXTURE = ((0, 20, 0.25), (20, 50, 0.75))
ORDERS = [{}, {"shuffle_window": 16}, {"members": MIXTURE}, {"indices": [3, 40, *range(10, 30)]}]
ORDERS += [{"members": MIXTURE, "indices": range(5, 45), "shuffle_window": 8}]


def test_each_epoch_is_a_new_permutation_of_whole_batches():
    batches = take(6, Numbers(35), seed=0, batch_size=10)
    epochs = [np.concatenate(batches[:3]), np.concatenate(batches[3:])]
    for epoch in epochs:
        assert len(set(epoch)) == 30
    assert (epochs[0] != epochs[1]).any()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("start", [1, 8])
def test_any_batch_can_be_started_from(start, order):
    np.testing.assert_array_equal(
        take(3, Numbers(50), seed=4, batch_size=10, start=start, **order),
        take(start + 3, Numbers(50), seed=4, batch_size=10, **order)[start:],
    )


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("processes", [2, 4])
def test_the_global_batch_is_the_same_for_any_number_of_processes(processes, order):
    whole = take(7, Numbers(50), seed=1, batch_size=8, **order)
    shares = [
        take(7, Numbers(50), seed=1, batch_size=8, process_index=i, process_count=processes, **order)
        for i in range(processes)
    ]
    for number in range(7):
        np.testing.assert_array_equal(whole[number], np.concatenate([s[number] for s in shares]))


@pytest.mark.parametrize("threads", [1, 3, 16])
def test_the_order_does_not_depend_on_the_threads(threads):
    np.testing.assert_array_equal(
        take(5, Numbers(1000, delay=0.001), seed=1, batch_size=300, threads=threads),
        take(5, Numbers(1000), seed=1, batch_size=300, threads=2),
    )


def test_seeds_order_differently():
    assert (take(1, Numbers(50), seed=1, batch_size=50)[0] != take(1, Numbers(50), seed=2, batch_size=50)[0]).any()


def test_a_subset_is_all_there_is():
    chosen = np.random.default_rng(0).permutation(1000)[:35]
    batches = take(6, Numbers(1000), seed=0, batch_size=10, indices=chosen)
    for epoch in (batches[:3], batches[3:]):
        assert len(set(np.concatenate(epoch))) == 30
        assert set(np.concatenate(epoch)) <= set(chosen)
    np.testing.assert_array_equal(batches, take(6, Numbers(1000), seed=0, batch_size=10, indices=sorted(chosen)))


def test_a_subset_smaller_than_a_batch_is_gone_through_evenly():
    batches = take(5, Numbers(1000), seed=0, batch_size=10, indices=[7, 70, 700])
    counts = [np.unique(batches[:n], return_counts=True)[1] for n in (1, 2, 3, 5)]
    assert all(len(c) == 3 and c.max() - c.min() <= 1 for c in counts)
    assert (batches[0][:3] != batches[0][3:6]).any() or (batches[1] != batches[0]).any()


def test_a_mixture_of_a_subset_keeps_to_both():
    records = np.concatenate(
        take(1000, Numbers(50), seed=0, batch_size=10, members=MIXTURE, indices=[1, 2, *range(20, 30)])
    )
    assert set(records) == {1, 2, *range(20, 30)}
    assert np.count_nonzero(records < 20) == 2500


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 6}, "smaller than one batch"),
        ({"indices": [1, 5]}, "0 to 4"),
        ({"indices": [-1, 2]}, "0 to 4"),
        ({"indices": [2, 2]}, "each of them once"),
        ({"indices": []}, "a list of record numbers"),
        ({"indices": [0.5, 1.0]}, "a list of record numbers"),
        ({"members": ((0, 3, 1.0), (3, 9, 1.0))}, "member 1 of the mixture"),
        ({"members": ((0, 3, 1.0), (3, 5, 1.0)), "indices": [0, 1]}, "member 1 of the mixture"),
        ({"members": ((0, 3, 1.0), (3, 5, 0.0))}, "weights of a mixture"),
        ({"shuffle_window": -1}, "shuffle_window"),
        ({"process_count": 3}, "divided over the processes"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_read(arguments, message):
    with pytest.raises(UserError, match=message):
        train_batches(Numbers(5), **({"seed": 0, "batch_size": 1} | arguments))


def test_eval_batches_of_processes_are_blocks_of_the_whole():
    whole = list(eval_batches(Numbers(10), batch_size=4))
    shares = [list(eval_batches(Numbers(10), batch_size=4, process_index=i, process_count=2)) for i in range(2)]
    for number, batch in enumerate(whole):
        np.testing.assert_array_equal(batch["index"], np.concatenate([s[number]["index"] for s in shares]))


def test_eval_batches_visit_each_record_once_in_order():
    batches = list(eval_batches(Numbers(10), batch_size=4))
    index = np.concatenate([b["index"] for b in batches])
    valid = np.concatenate([b["valid"] for b in batches])
    assert index.shape == (12,)
    np.testing.assert_array_equal(index[valid > 0], np.arange(10))
    assert not input_threads()


def test_batches_are_read_ahead_but_not_without_end():
    source = Numbers(64)
    batches = train_batches(source, seed=0, batch_size=32)
    next(batches)
    time.sleep(0.2)
    assert source.reads == 3  # one handed out, two waiting
    batches.close()


@pytest.mark.parametrize(
    "keep", [lambda x: x, lambda x: x[3:9:2], lambda x: memoryview(x.reshape(4, -1)), jax.device_put, jnp.asarray]
)
def test_what_is_kept_of_a_batch_is_never_written_again(keep):
    batches = train_batches(Numbers(4096), seed=0, batch_size=2048)
    kept = [(keep(b["index"]), np.array(keep(b["index"]))) for b in itertools.islice(batches, 20)]
    batches.close()
    gc.collect()
    assert all((np.array(held) == copy).all() for held, copy in kept)


def test_memory_of_batches_that_nobody_has_is_used_again():
    source = Numbers(64)
    batches = train_batches(source, seed=0, batch_size=32)
    for _ in range(50):
        next(batches)
    batches.close()
    assert source.allocated <= 4


def test_closing_leaves_no_threads():
    batches = train_batches(Numbers(500, delay=0.01), seed=0, batch_size=200)
    next(batches)
    assert input_threads()
    batches.close()
    assert not input_threads()
    forgotten = eval_batches(Numbers(500, delay=0.01), batch_size=100)
    next(forgotten)
    del forgotten
    gc.collect()
    assert not input_threads()


def test_synthetic_input_is_the_first_batch_again_and_again():
    source = Numbers(500)
    batches = train_batches(source, seed=0, batch_size=32, start=7, synthetic=True)
    first, *others = itertools.islice(batches, 50)
    assert not input_threads()
    assert all(batch is first for batch in others)
    np.testing.assert_array_equal(first["index"], take(1, Numbers(500), seed=0, batch_size=32, start=7)[0])
    assert source.reads <= 3


def test_an_error_of_the_source_is_raised_and_leaves_no_threads():
    class Broken(Numbers):
        def read_into(self, batch, first, indices):
            if 17 in indices:
                raise UserError("record 17")
            super().read_into(batch, first, indices)

    batches = train_batches(Broken(64), seed=0, batch_size=16)
    with pytest.raises(UserError, match="record 17"):
        list(itertools.islice(batches, 4))
    assert not input_threads()


READER = """
import sys
from radnet_jax.data.dataset import open_split
from radnet_jax.data.pipeline import train_batches
for batch in train_batches(open_split(sys.argv[1], "train"), seed=0, batch_size=64):
    print("read", flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_reader_leaves_nothing_behind(ct_dataset, how):
    process = subprocess.Popen(
        [sys.executable, "-c", READER, str(ct_dataset)], stdout=subprocess.PIPE, start_new_session=True,
        cwd=Path(__file__).parent.parent.parent,
    )  # fmt: skip
    for _ in range(20):
        assert process.stdout.readline() == b"read\n"
    session = process.pid
    process.send_signal(how)
    assert process.wait(timeout=10) == -how
    process.stdout.close()
    with pytest.raises(ProcessLookupError):  # nobody of its session is left
        os.killpg(session, 0)


def test_reading_needs_neither_jax_nor_tfds(ct_dataset):
    code = READER.replace('    print("read", flush=True)', "    break") + (
        "print(sorted({'jax', 'grain', 'tensorflow_datasets', 'tensorflow'} & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(ct_dataset)], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parent.parent.parent,
    )  # fmt: skip
    assert out.stdout == "[]\n"


def test_batches_of_records_are_the_records(ct_dataset):
    split = open_split(ct_dataset, "train")
    with contextlib.closing(train_batches(split, seed=3, batch_size=16, threads=3)) as batches:
        for batch in itertools.islice(batches, 3):
            for row, index in enumerate(batch["index"]):
                for name, value in split[index].items():
                    np.testing.assert_array_equal(batch[name][row], value)
