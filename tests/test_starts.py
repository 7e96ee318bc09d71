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


def test_a_default_may_be_written_out_or_not():
    resnet = Start("simclr@10-0", dict(name="resnet50"), START.model_input, None)
    check_backbone(resnet, dict(name="resnet50", base_width=64, padding="torch"))
    convnext = Start("simclr@10-0", dict(name="convnext_tiny", depths=[3, 3, 9, 3]), START.model_input, None)
    check_backbone(convnext, dict(name="convnext_tiny"))
    with pytest.raises(UserError, match="another architecture; got base_width=64; expected base_width=32"):
        check_backbone(resnet, dict(name="resnet50", base_width=32))


@pytest.mark.parametrize("changed", [dict(patch=16), dict(name="vit_small"), dict(position="sincos")])
def test_another_architecture_is_refused(changed):
    with pytest.raises(UserError, match=f"another architecture; .*{next(iter(changed))}="):
        check_backbone(START, START.backbone | changed)
