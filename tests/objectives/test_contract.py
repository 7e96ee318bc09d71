"""What every pretraining config must hold; a new file in configs/pretrain is found by itself.

The same losses and states on one and on eight devices, with the state divided and in several processes, and the work
of each device are in tests/test_partitioning.py.
"""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax import checkpoint, sharding, train
from radnet_jax.objectives import OBJECTIVES
from radnet_jax.parts import assemble, make_objective, make_recipe, make_tx
from radnet_jax.phases import Phases
from radnet_jax.step import MADE, compiled_prepare, compiled_step
from tests import every_objective
from tests.objectives import references

BATCH = 16
# Where the loss on one batch can't fall far, as a queue is full of that batch's keys, the two views of each image must
# find each other. DINO is judged in test_learning.py alone: its loss holds the entropy of the teacher, which rises as
# the centre takes away what all images share, and sixteen images give the centre nothing else to hold on to.
BY_NEIGHBOURS = ("moco_v1", "moco_v2", "pcl_v1", "pcl_v2")
CONFIGS = every_objective.marked(quick=every_objective.one_for_each_objective())


class Case:
    """The parts of a config, a batch of views, and states at step 0 and some steps later."""

    def __init__(self, name, dataset, steps=2, **changes):
        self.config = every_objective.config(name, dataset, batch_size=BATCH, total_steps=50, **changes)
        self.parts = assemble(self.config, sharding.make_mesh(1))
        self.objective = make_objective(self.config, self.parts)
        self.recipe = make_recipe(self.config, self.parts)
        self.tx, _ = make_tx(self.config)
        phases = Phases(self.config, self.parts, self.objective)
        start = train.initial_state(self.config, self.parts, self.objective, self.tx, self.recipe)
        batches = train.train_batches(self.parts.split, seed=0, batch_size=BATCH)
        wanted = {"image"} | (self.objective.requires - MADE)
        prepare = compiled_prepare(self.objective.requires, self.parts.adapter, self.recipe, self.parts.mesh)
        self.step = compiled_step(self.objective, self.tx, self.parts.mesh)
        self.compiled = jax.jit(self.objective.loss)
        state = start
        self.states, self.batches = [], []
        for number in range(steps + 1):
            state, _ = phases.run(state, number)
            raw = next(batches)
            raw = sharding.put_batch({k: raw[k] for k in wanted}, self.parts.mesh)
            self.batches.append(prepare(raw, 0, number))
            self.states.append(jax.tree.map(jnp.copy, state))  # the step uses its argument up
            state, _ = self.step(state, self.batches[-1], 0, number)
        batches.close()

    def loss(self, number, **changes):
        """Of a state, with fields of it changed."""
        state = self.states[number].replace(**changes)
        return self.compiled(state.params, state, self.batches[number], jax.random.key(number))

    def reference(self, number):
        """The same loss, written out."""
        name, key = self.config.objective.name, jax.random.key(number)
        return references.loss(name, self.objective, self.states[number], self.batches[number], key)

    def chance(self):
        return references.module_of(self.config.objective.name).chance(self.objective, BATCH)


@pytest.fixture(scope="module")
def case(ct_dataset):
    cases = {}

    def of(name):
        if name not in cases:
            cases.clear()  # one at a time in memory
            cases[name] = Case(name, ct_dataset)
        return cases[name]

    return of


def test_each_registered_objective_has_a_config_and_a_reference():
    named = {every_objective.load(name).objective.name for name in every_objective.NAMES}
    assert named == {*OBJECTIVES.names()} - {"segmentation"}  # pretrains nothing; tests/objectives/test_segmentation.py
    for name in named:
        module = references.module_of(name)
        assert callable(module.reference)
        assert callable(module.chance)


@pytest.mark.parametrize("name", CONFIGS, scope="class")  # all tests of a config, then the next: it is compiled once
class TestOneState:
    def test_the_loss_is_that_of_the_formula(self, case, name):
        case = case(name)
        for number in (0, 2):
            loss, aux = case.loss(number)
            expected = case.reference(number)
            np.testing.assert_allclose(float(loss), expected, rtol=1e-5, atol=1e-6)
            assert all(np.isfinite(v) for v in jax.tree.leaves(aux.metrics))

    def test_starts_at_chance(self, case, name):
        case = case(name)
        chance = case.chance()
        if chance is None:
            pytest.skip(f"{name} has no loss at chance")
        loss, aux = case.loss(0)
        queue = case.states[0].objective_state.get("queue")
        if isinstance(
            queue, dict
        ):  # of random directions at first: a network that learns nothing fills it with its keys
            keys = jnp.tile(aux.embedding[:, 1], (len(queue["keys"]) // BATCH, 1))
            loss, aux = case.loss(0, objective_state=case.states[0].objective_state | {"queue": queue | {"keys": keys}})
        # Embeddings of a random network say little, but not nothing: 16 images at low temperatures spread the loss. The
        # next test has those that say nothing.
        assert chance * 0.5 < float(loss) < chance * 1.6
        if "loss_at_chance" in aux.metrics:
            np.testing.assert_allclose(float(aux.metrics["loss_at_chance"]), chance, rtol=1e-5)

    def test_networks_that_say_nothing_are_at_chance(self, case, name):
        """Embeddings, logits and keys that are 0, whatever the image: only what the loss counts is left."""
        case = case(name)
        chance = case.chance()
        if chance is None:
            pytest.skip(f"{name} has no loss at chance")
        start = case.states[0]
        zeros = {k: jax.tree.map(lambda x: 0 * x, v) for k, v in start.objective_state.items() if k == "target"}
        params = jax.tree.map(lambda x: 0 * x, start.params)
        loss, aux = case.loss(0, params=params, objective_state=start.objective_state | zeros)
        np.testing.assert_allclose(float(loss), chance, rtol=1e-5)
        if "loss_at_chance" in aux.metrics:
            np.testing.assert_allclose(float(aux.metrics["loss_at_chance"]), chance, rtol=1e-5)

    def test_nothing_that_is_remembered_gets_a_gradient(self, case, name):
        case = case(name)
        state = case.states[2]

        def loss(remembered):
            seen = state.replace(objective_state=remembered)
            return case.objective.loss(state.params, seen, case.batches[2], jax.random.key(2))[0]

        gradient = jax.jit(jax.grad(loss, allow_int=True))(state.objective_state)
        for leaf in jax.tree.leaves(gradient):
            assert leaf.dtype == jax.dtypes.float0 or not np.any(leaf)

    def test_what_it_hands_out_can_be_watched(self, case, name):
        case = case(name)
        if "labels" in case.objective.requires:
            pytest.skip("trained by labels, not watched")
        _, aux = case.loss(2)
        image = jax.ShapeDtypeStruct((1, every_objective.SIZE, every_objective.SIZE, 3), "float32")
        state = case.states[2]
        outputs = jax.eval_shape(case.objective.predict, state.params, state.model_state, {"image": image})
        assert aux.features.ndim == 3
        assert (aux.features.shape[0], aux.features.shape[-1]) == (BATCH, outputs["features"].shape[-1])
        assert aux.embedding is None or aux.embedding.shape[0] == BATCH

    def test_a_step_that_is_not_finite_leaves_all_but_a_bank(self, case, name):
        case = case(name)
        before = jax.tree.map(np.asarray, case.states[1])
        spoilt = {k: jnp.full_like(v, jnp.nan) if v.ndim > 3 else v for k, v in case.batches[1].items()}
        after, metrics = case.step(jax.tree.map(jnp.copy, case.states[1]), spoilt, 0, 1)
        assert not metrics["finite"]
        kept = {k: v for k, v in after.objective_state.items() if k != "bank"}
        jax.tree.map(np.testing.assert_array_equal, after.params, before.params)
        jax.tree.map(np.testing.assert_array_equal, kept, {k: before.objective_state[k] for k in kept})


@pytest.mark.parametrize("name", ["swav", "deepcluster_v2", "dino"])
def test_multi_crop_can_be_off(ct_dataset, name):
    plain = dict(name="ct")
    case = Case(name, ct_dataset, steps=1, augment=plain)
    assert "local_views" not in case.batches[1]
    np.testing.assert_allclose(float(case.loss(1)[0]), case.reference(1), rtol=1e-5)


@pytest.mark.parametrize("name", every_objective.marked())
def test_a_stopped_run_goes_on_bit_for_bit(ct_dataset, tmp_path, name):
    config = every_objective.config(name, ct_dataset, batch_size=BATCH, total_steps=5, checkpoint=dict(every=3, keep=9))
    whole = train.run(config, tmp_path / "whole")
    stopped = tmp_path / "stopped"
    shutil.copytree(whole / "checkpoints" / "3", stopped / "checkpoints" / "3")
    train.run(config, stopped)
    arrays = [checkpoint.load_arrays(folder / "checkpoints" / "5")[0] for folder in (whole, stopped)]
    assert arrays[0].keys() == arrays[1].keys()
    for key, array in arrays[0].items():
        np.testing.assert_array_equal(array, arrays[1][key], err_msg=key)


def neighbours_found(case, state):
    """Share of the images whose first view is nearest to its own second view."""
    _, aux = jax.jit(case.objective.loss)(state.params, state, case.batches[0], jax.random.key(0))
    z = np.asarray(aux.embedding, np.float64)
    z /= np.linalg.norm(z, axis=-1, keepdims=True)
    return np.mean((z[:, 0] @ z[:, 1].T).argmax(axis=1) == np.arange(len(z)))


@pytest.mark.slow
@pytest.mark.parametrize("name", every_objective.NAMES)
def test_learns_a_batch_by_heart(ct_dataset, name):
    case = Case(name, ct_dataset, steps=0)
    state, losses = case.states[0], []
    before = neighbours_found(case, state) if name in BY_NEIGHBOURS else None
    for number in range(60):
        state, metrics = case.step(state, case.batches[0], 0, number)
        # DINO's loss is the teacher's entropy and how far the student is from it, which is what it can learn.
        losses.append(float(metrics["loss"] - metrics.get("teacher_entropy", 0)))
    if before is None:
        assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:2])
    else:
        found = neighbours_found(case, state)
        assert before < 0.6 < 0.9 < found  # all but one: the target has hardly moved in 60 steps
