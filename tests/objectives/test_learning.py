"""On generated CT each objective learns what a random network does not have, and does not collapse; and a run that goes
on from another begins with its backbone, in the target network too."""

import jax
import numpy as np
import pytest

from configs.studies import objectives_mini
from data_prep.build import build
from data_prep.phantom import write_ct
from radnet_jax import checkpoint, train, trees
from radnet_jax.evaluation import ledger
from radnet_jax.parts import assemble, make_objective, make_recipe, make_tx
from tests import every_objective, tiny

# Six regions: chance is .17. In the first comparison of all objectives (docs/objectives_mini.md) each was further above
# random networks than this, and the rank of its embeddings higher.
ABOVE_RANDOM = 0.05
RANK = 3.0
UNLABELLED = [name for name in every_objective.NAMES if name not in ("supervised", "classification")]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    write_ct(folder / "source", patients_per_region=40, slices=5, image_size=96)
    build("radnet", folder / "source", folder / "dataset", size=48, split_fractions=(0.5, 0.4, 0.1))
    return folder / "dataset"


def config(name, dataset, **changes):
    """As in the first comparison; transformers with the small network of their own config."""
    template = objectives_mini.pretraining(name, "ct")
    loaded = every_objective.load(name)
    if loaded.backbone.name.startswith("vit"):
        changes = {"backbone": loaded.backbone.to_dict() | {"image_size": objectives_mini.SIZE}, **changes}
    knn = dict(every=template.total_steps, split="val", examples=10_000)
    return tiny.change(template, data=template.data.to_dict() | {"dir": str(dataset)}, **{"knn": knn, **changes})


def last_row(config, workdir):
    return ledger.read_run(train.run(config, workdir)).curves[-1]


@pytest.fixture(scope="module")
def random_accuracy(phantoms, tmp_path_factory):
    """Nearest neighbours of a network that does not learn, whose BatchNorm has seen the data."""
    known = {}

    def of(name):
        changes = dict(total_steps=40, knn=dict(every=40, split="val", examples=10_000))
        still = config(name, phantoms, **changes)
        still = tiny.change(still, schedule=dict(name="constant", base_lr=1e-12))
        key = str(still.backbone)
        if key not in known:
            known[key] = last_row(still, tmp_path_factory.mktemp("still") / "run")["knn_accuracy"]
        return known[key]

    return of


@pytest.mark.slow
@pytest.mark.parametrize("name", UNLABELLED)
def test_learns_from_generated_data(phantoms, random_accuracy, tmp_path, name):
    row = last_row(config(name, phantoms), tmp_path / "run")
    print(f"{name}: {row}")
    assert row["knn_accuracy"] > random_accuracy(name) + ABOVE_RANDOM
    assert row.get("effective_rank", np.inf) > RANK


# Where the backbone that a run leaves behind stands in its checkpoint.
KEPT = {
    "simclr": ("params", "model_state/batch_stats"),
    "dino_resnet50": ("objective_state/target/params", "objective_state/target/batch_stats"),
}


@pytest.mark.parametrize(
    ("start", "name"), [("simclr", "byol"), ("simclr", "moco_v2"), ("simclr", "pcl_v2"), ("dino_resnet50", "byol")]
)
def test_going_on_begins_with_the_start_in_both_networks(ct_dataset, tmp_path, start, name):
    first = every_objective.config(start, ct_dataset, batch_size=16, total_steps=3)
    arrays, _ = checkpoint.load_arrays(train.run(first, tmp_path / "first") / "checkpoints" / "3")
    params, stats = (
        {k.removeprefix(f"{folder}/"): v for k, v in arrays.items() if k.startswith(f"{folder}/backbone/")}
        for folder in KEPT[start]
    )
    second = every_objective.config(name, ct_dataset, init_from=str(tmp_path / "first"), input=None)
    parts = assemble(second)
    objective, recipe, (tx, _) = make_objective(second, parts), make_recipe(second, parts), make_tx(second)
    state = train.initial_state(second, parts, objective, tx, recipe)
    target, online_stats = state.objective_state["target"], state.model_state["batch_stats"]
    for kept, network in (
        *((params, p) for p in (state.params, target["params"])),
        *((stats, s) for s in (online_stats, target["batch_stats"])),
    ):
        found = {k: np.asarray(v) for k, v in trees.named_leaves({"backbone": network["backbone"]})}
        assert found.keys() == kept.keys()
        for key, value in kept.items():
            np.testing.assert_array_equal(found[key], value)
    jax.tree.map(np.testing.assert_array_equal, state.params["projector"], target["params"]["projector"])
