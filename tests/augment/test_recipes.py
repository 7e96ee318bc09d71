"""Recipes as values: names, overrides, what is refused."""

import dataclasses
import json

import pytest

from radnet_jax.augment import AUGMENTATIONS, recipes
from radnet_jax.augment.recipes import Recipe, check
from radnet_jax.errors import UserError
from tests.augment import contracts


def test_the_issued_recipes_exist_and_say_where_they_come_from():
    for name in AUGMENTATIONS.names():
        doc = getattr(recipes, name).__doc__
        assert doc.endswith(".\n    ") or doc.endswith(".")
        assert isinstance(AUGMENTATIONS.build(name), Recipe)
    byol = AUGMENTATIONS.build("byol")
    assert (byol.blur, byol.solarize, byol.brightness, byol.saturation) == ((1.0, 0.1), (0.0, 0.2), 0.4, 0.2)
    assert AUGMENTATIONS.build("swav_multicrop").local_views == 6
    assert AUGMENTATIONS.build("radnet_published").groups == 8
    assert AUGMENTATIONS.build("radnet_published").blur == 0


def test_recipes_can_be_overridden_and_are_hashable():
    recipe = AUGMENTATIONS.build("ct", dict(crop=[0.5, 1.0], blur=0.0))
    assert recipe.crop == (0.5, 1.0)
    assert recipe == dataclasses.replace(AUGMENTATIONS.build("ct"), crop=(0.5, 1.0), blur=0.0)
    assert hash(recipe) == hash(dataclasses.replace(recipe))


@pytest.mark.parametrize("name", ["byol", "swav_multicrop"])
def test_a_recipe_comes_back_from_json(name):
    recipe = AUGMENTATIONS.build(name)
    assert Recipe(**json.loads(json.dumps(dataclasses.asdict(recipe)))) == recipe


BAD = [
    dict(hflip=1.5),
    dict(hflip="0.5"),
    dict(hflip=True),
    dict(blur=(0.5, -0.1)),
    dict(blur=()),
    dict(crop=(0.0, 1.0)),
    dict(crop=(0.5, 0.2)),
    dict(crop=(0.5, 1.2)),
    dict(crop=0.5),
    dict(crop=(0.1, 0.2, 0.3)),
    dict(crops=(0.5, 1.0)),
    dict(rotate=-5),
    dict(rotate=float("nan")),
    dict(hue=0.7),
    dict(rand_magnitude=11),
    dict(rand_augment=0.5),
    dict(groups=-1),
    dict(groups=2.5),
    dict(local_views=1.5),
    dict(local_size=0),
    dict(dtype="float16"),
]


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_what_makes_no_sense_is_refused(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        AUGMENTATIONS.build("ct", bad)


def test_what_the_data_can_not_have_is_refused():
    with pytest.raises(UserError, match="colours"):
        check(AUGMENTATIONS.build("simclr"), contracts.ct())
    with pytest.raises(UserError, match="windows"):
        check(AUGMENTATIONS.build("ct"), contracts.photo())
