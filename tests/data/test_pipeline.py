import itertools

import numpy as np
import pytest

from radnet_jax.data.pipeline import eval_batches, train_batches
from radnet_jax.errors import UserError


class Numbers:
    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return {"index": np.int32(i)}


def take(n, *args, **kwargs):
    return [b["index"] for b in itertools.islice(train_batches(*args, **kwargs), n)]


def test_each_epoch_is_a_new_permutation_of_whole_batches():
    batches = take(6, Numbers(35), seed=0, batch_size=10)
    epochs = [np.concatenate(batches[:3]), np.concatenate(batches[3:])]
    for epoch in epochs:
        assert len(set(epoch)) == 30
    assert (epochs[0] != epochs[1]).any()


@pytest.mark.parametrize("start", [1, 3, 8])
def test_any_batch_can_be_started_from(start):
    np.testing.assert_array_equal(
        take(3, Numbers(35), seed=4, batch_size=10, start=start),
        take(start + 3, Numbers(35), seed=4, batch_size=10)[start:],
    )


@pytest.mark.parametrize("processes", [2, 4])
def test_the_global_batch_is_the_same_for_any_number_of_processes(processes):
    whole = take(7, Numbers(50), seed=1, batch_size=8)
    shares = [
        take(7, Numbers(50), seed=1, batch_size=8, process_index=i, process_count=processes) for i in range(processes)
    ]
    for number in range(7):
        np.testing.assert_array_equal(whole[number], np.concatenate([s[number] for s in shares]))


def test_seeds_order_differently():
    assert (take(1, Numbers(50), seed=1, batch_size=50)[0] != take(1, Numbers(50), seed=2, batch_size=50)[0]).any()


def test_a_split_smaller_than_a_batch_is_refused():
    with pytest.raises(UserError, match="smaller than one batch"):
        train_batches(Numbers(5), seed=0, batch_size=6)


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
