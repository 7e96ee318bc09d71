"""Starts: which backbones of a config fit the checkpoint's."""

import pytest

from configs.common import ct_input
from radnet_jax.errors import UserError
from radnet_jax.parts import plain
from radnet_jax.preprocessing import ModelInput
from radnet_jax.starts import Start, check_backbone

START = Start("mae@10-0", dict(name="vit_tiny", patch=8), ModelInput.from_json(plain(ct_input(32))), None)


def test_a_vit_may_be_pooled_otherwise_than_in_its_pretraining():
    check_backbone(START, dict(name="vit_tiny", patch=8, pool="mean"))


@pytest.mark.parametrize("changed", [dict(patch=16), dict(name="vit_small"), dict(position="sincos")])
def test_another_architecture_is_refused(changed):
    with pytest.raises(UserError, match=f"another architecture; .*{next(iter(changed))}="):
        check_backbone(START, START.backbone | changed)
