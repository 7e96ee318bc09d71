"""The table of sources in the documentation is that of the cards."""

import pytest

from radnet_jax.weights import cards
from tests.tiny import ROOT

PAGE = (ROOT / "docs" / "weights.md").read_text()


def test_what_was_not_measured_on_imagenet_says_so():
    assert cards.load("radimagenet").top1_of == "itself, on RadImageNet"


@pytest.mark.parametrize("source", cards.known())
def test_the_table_has_each_source(source):
    card = cards.load(source)
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{source}` |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert card.data in cells
    assert card.licence in cells
    assert card.container in cells
    assert str(card.epochs or "?") in cells
    for value in card.top1.values():
        assert f"{value:g}" in row
    assert (f"({card.top1_of})" in row) == bool(card.top1 and card.top1_of != "linear probe")
    if any(backbone.startswith("resnet") for backbone in card.backbones):
        assert card.padding in cells


def test_no_source_is_only_in_the_table():
    rows = [line.split("`")[1] for line in PAGE.splitlines() if line.startswith("| `") and line.count("|") > 8]
    assert sorted(rows) == sorted(cards.known())
