import pytest

from radnet_jax.errors import UserError
from radnet_jax.registry import Registry


@pytest.fixture
def registry():
    registry = Registry("thing", "radnet_jax.losses")

    @registry.register("first")
    def first(*, size: int, colour: str = "red", card=None):
        return size, colour, card

    return registry


def test_builds_from_a_config_section(registry):
    assert registry.build("first", {"size": 3}) == (3, "red", None)


def test_hands_over_only_what_the_factory_names(registry):
    assert registry.build("first", {"size": 3}, card="card", backbone="not named") == (3, "red", "card")


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("frist", {"size": 1}, 'did you mean "first"'),
        ("first", {"sise": 1}, 'did you mean "size"'),
        ("first", {}, "needs the argument(s) size"),
    ],
)
def test_refuses_in_one_line(registry, name, kwargs, message):
    with pytest.raises(UserError) as caught:
        registry.build(name, kwargs)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tells_the_arguments_that_need_not_be_given(registry):
    assert registry.defaults("first") == {"colour": "red", "card": None}


def test_a_name_is_registered_once(registry):
    with pytest.raises(ValueError, match="twice"):
        registry.register("first")(lambda: None)
