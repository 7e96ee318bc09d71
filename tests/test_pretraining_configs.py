"""Pretraining configs as they are published: optimizers that fit their networks, recipes, declared crossings."""

import jax
import jax.numpy as jnp
import pytest

from configs import common
from radnet_jax import sharding
from radnet_jax.augment import AUGMENTATIONS
from radnet_jax.main import load_config
from radnet_jax.parts import assemble, make_objective, make_recipe, make_tx, plain
from radnet_jax.preprocessing import ModelInput, StoredPixels, make_adapter
from radnet_jax.step import prepare
from tests import every_objective, tiny

NAMES = [name for name in every_objective.NAMES if name != "classification"]


@pytest.mark.parametrize("name", NAMES)
def test_the_published_optimizer_knows_the_parameters(ct_dataset, name):
    # The smoke variant has another optimizer: patterns of rates and of constant parameters are only seen here.
    small = every_objective.config(name, ct_dataset)
    parts = assemble(small, sharding.make_mesh(1))
    objective, recipe = make_objective(small, parts), make_recipe(small, parts)
    stored = parts.adapter.stored
    raw = {
        "image": jax.ShapeDtypeStruct((1, *stored.size, stored.channels), stored.dtype),
        **{k: jax.ShapeDtypeStruct((1, len(parts.split.card.labels)), "float32") for k in ("labels", "label_mask")},
        "index": jax.ShapeDtypeStruct((1,), "int32"),
    }
    batch = jax.eval_shape(
        lambda raw: prepare(raw, 0, 0, requires=objective.requires, adapter=parts.adapter, recipe=recipe), raw
    )
    params, _, _ = jax.eval_shape(objective.init, jax.random.key(0), batch)
    tx, schedule = make_tx(load_config(tiny.ROOT / f"configs/pretrain/{name}.py", ""))
    jax.eval_shape(tx.init, params)  # refuses patterns that match nothing
    assert float(schedule(jnp.int32(0))) > 0


# Of the papers and the authors' commands, at their own batch: the highest learning rate, and the last.
RATES = {
    **dict.fromkeys(("moco_v1", "insdis", "pirl", "pcl_v1"), (0.03, 0.0003)),
    **dict.fromkeys(("moco_v2", "pcl_v2"), (0.03, 0.0)),
    **dict.fromkeys(("swav", "deepcluster_v2", "sela_v2", "dino_resnet50"), (4.8, 0.0048)),
    **dict(simclr=(4.8, 0.0), simclr_v2=(6.4, 0.0), moco_v3=(4.8, 0.0), moco_v3_vit=(0.0024, 0.0), byol=(3.2, 0.0)),
    **dict(infomin=(0.03, 0.00003), simsiam=(0.1, 0.0), barlow_twins=(1.6, 0.0016), vicreg=(1.6, 0.002)),
    **dict(dino=(0.002, 1e-5), mae=(0.0024, 0.0), supervised=(0.1, 0.0)),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_learning_rates_are_the_published_ones(name):
    config = load_config(tiny.ROOT / f"configs/pretrain/{name}.py", "")
    _, schedule = make_tx(config)
    highest, last = (float(schedule(step)) for step in (config.schedule.warmup_steps, config.total_steps))
    assert (highest, last) == pytest.approx(RATES[name], rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("domain", sorted(common.DOMAINS))
def test_each_domain_has_a_recipe(name, domain):
    augment = plain(load_config(tiny.ROOT / f"configs/pretrain/{name}.py", f"domain={domain}").augment)
    AUGMENTATIONS.build(augment.pop("name"), augment)


STORED = {
    "ct": StoredPixels("CT", "HU", (-1024.0, 3071.0), (8, 8), 1, "pad_area", "int16"),
    "ct_pe": StoredPixels("CT", "HU", (-1024.0, 3071.0), (8, 8), 1, "pad_area", "int16"),
    "chest_xray": StoredPixels("XR", "none", (0.0, 255.0), (8, 8), 1, "pad_area", "uint8"),
    "natural": StoredPixels("photo", "none", (0.0, 255.0), (8, 8), 3, "stretch_area", "uint8"),
}


@pytest.mark.parametrize("domain", sorted(common.DOMAINS))
@pytest.mark.parametrize("start", sorted(common.DOMAINS))
def test_a_declared_crossing_leads_from_each_start_to_each_domain(start, domain):
    seen = ModelInput.from_json(plain(common.DOMAINS[start]["input"](8)))
    adapter = make_adapter(STORED[domain], seen, plain(common.crossing(domain)))
    own = plain(common.DOMAINS[domain]["input"](8))
    assert [list(w) for w in adapter.windows] == own["windows"]
    assert adapter.model_input == seen


def test_a_config_declares_a_crossing_where_it_is_asked_to():
    path = tiny.ROOT / "configs/pretrain/supervised.py"
    assert load_config(path, "domain=chest_xray,go_on").adapter is None
    assert load_config(path, "domain=chest_xray,go_on,crossing").adapter.channels == "repeat"
