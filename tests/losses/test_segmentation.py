"""Losses of masks: NumPy from the formulas, MONAI and PyTorch as oracles; unknown pixels and padding count nowhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax.losses import segmentation as losses
from radnet_jax.preprocessing import UNKNOWN_MASK

B, H, W, K = 3, 5, 4, 3


def draw(seed=0, k=K, unknown=True):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (B, H, W, k)).astype(np.float32)
    target = rng.integers(0, K, (B, H, W))
    if unknown:
        target[rng.random(target.shape) < 0.2] = UNKNOWN_MASK
    return logits, target


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("weights", [(), (1.0, 3.0, 10.0)])
def test_cross_entropy(weights):
    logits, target = draw()
    known = target != 255
    w = np.array(weights or (1.0,) * K)[target[known]]
    want = (-w * np.log(softmax(logits)[known, target[known]])).sum() / w.sum()
    np.testing.assert_allclose(losses.cross_entropy(logits, target, class_weights=weights), want, rtol=1e-5)


@pytest.mark.parametrize("weights", [(), (2.0, 0.5)])
def test_binary_cross_entropy(weights):
    logits, target = draw(k=2)
    known = target != 255
    t = np.stack([target == 1, target == 2], -1)
    p = 1 / (1 + np.exp(-logits))
    each = -np.where(t, np.log(p), np.log(1 - p))
    w = np.broadcast_to(weights or (1.0, 1.0), each.shape)[known]
    want = (each[known] * w).sum() / w.sum()
    np.testing.assert_allclose(losses.binary_cross_entropy(logits, target, class_weights=weights), want, rtol=1e-5)


def test_focal():
    logits, target = draw()
    known = target != 255
    p = softmax(logits)[known, target[known]]
    want = (-((1 - p) ** 2) * np.log(p)).mean()
    np.testing.assert_allclose(losses.focal(logits, target), want, rtol=1e-5)
    logits, _ = draw(k=2)
    t = np.stack([target == 1, target == 2], -1)
    s = 1 / (1 + np.exp(-logits))
    p = np.where(t, s, 1 - s)[known]
    want = (-((1 - p) ** 1.5) * np.log(p)).mean()
    np.testing.assert_allclose(losses.focal(logits, target, gamma=1.5, activation="sigmoid"), want, rtol=1e-5)


def test_focal_of_gamma_0_is_cross_entropy():
    logits, target = draw()
    np.testing.assert_allclose(losses.focal(logits, target, gamma=0), losses.cross_entropy(logits, target), rtol=1e-6)


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_soft_dice(per_image, background, activation):
    if activation == "sigmoid" and background:
        pytest.skip("sigmoids have no background")
    logits, target = draw(k=K if activation == "softmax" else K - 1)
    p = softmax(logits) if activation == "softmax" else 1 / (1 + np.exp(-logits))
    first = 1 if activation == "sigmoid" or not background else 0
    p = p[..., first:] if activation == "softmax" else p
    t = np.stack([target == k for k in range(first, K)], -1)
    known = (target != 255)[..., None]
    axes = (1, 2) if per_image else (0, 1, 2)
    over, both = (p * t * known).sum(axes), (p * known).sum(axes) + (t * known).sum(axes)
    want = (1 - (2 * over + 1) / (both + 1)).mean()
    got = losses.soft_dice(logits, target, per_image=per_image, background=background, activation=activation)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_monai_has_the_same_losses():
    torch = pytest.importorskip("torch")
    monai = pytest.importorskip("monai.losses")
    logits, target = draw(unknown=False)
    x, y = torch.tensor(logits).movedim(-1, 1), torch.tensor(target)[:, None]
    for per_image in (False, True):
        options = dict(softmax=True, to_onehot_y=True, include_background=False, batch=not per_image)
        dice = monai.DiceLoss(**options, smooth_nr=1.0, smooth_dr=1.0)
        want = dice(x, y).item()
        np.testing.assert_allclose(losses.soft_dice(logits, target, per_image=per_image), want, rtol=1e-5)
    focal = monai.FocalLoss(use_softmax=True, to_onehot_y=True, gamma=2.0)
    want = focal(x, y).item() * K  # which divides by the classes too
    np.testing.assert_allclose(losses.focal(logits, target), want, rtol=1e-5)
    weights = (1.0, 3.0, 10.0)
    want = torch.nn.functional.cross_entropy(x, y[:, 0], weight=torch.tensor(weights)).item()
    np.testing.assert_allclose(losses.cross_entropy(logits, target, class_weights=weights), want, rtol=1e-5)


ALL = [
    ("cross_entropy", {}),
    ("cross_entropy", {"class_weights": (1.0, 2.0, 3.0)}),
    ("focal", {}),
    ("focal", {"gamma": 0.5}),
    ("soft_dice", {}),
    ("soft_dice", {"per_image": True}),
    ("binary_cross_entropy", {}),
    ("focal", {"activation": "sigmoid"}),
    ("soft_dice", {"activation": "sigmoid"}),
]


@pytest.mark.parametrize(("name", "options"), ALL)
def test_what_is_unknown_or_padding_counts_nowhere(name, options):
    sigmoids = name.startswith("binary") or options.get("activation") == "sigmoid"
    logits, target = draw(k=K - 1 if sigmoids else K)
    loss = getattr(losses, name)

    def value(logits, target, **more):
        return jax.value_and_grad(lambda x: loss(x, target, **options, **more))(jnp.asarray(logits))

    whole, gradient = value(logits, target)
    other = np.where((target == 255)[..., None], 50.0, logits).astype(np.float32)
    np.testing.assert_allclose(value(other, target)[0], whole, rtol=1e-6)
    assert np.abs(gradient[target == 255]).max() == 0
    assert np.abs(gradient[target != 255]).max() > 0
    padded, gradient = value(logits, target, valid=np.array([1, 1, 0]))
    np.testing.assert_allclose(padded, loss(logits[:2], target[:2], **options), rtol=1e-5)
    assert np.abs(gradient[2]).max() == 0
    target[2] = 255  # an image of which nothing is known is as good as none
    np.testing.assert_allclose(value(logits, target)[0], loss(logits[:2], target[:2], **options), rtol=1e-5)
    nothing, gradient = value(logits, np.full_like(target, 255))
    assert nothing == 0
    assert np.isfinite(gradient).all()


def test_the_dice_of_a_class_that_is_absent_and_not_predicted_is_no_loss():
    logits = np.zeros((2, 4, 4, 2), np.float32)
    logits[..., 0] = 50
    assert losses.soft_dice(logits, np.zeros((2, 4, 4), int)) < 1e-6
    assert losses.soft_dice(-logits, np.zeros((2, 4, 4), int)) > 0.9


@pytest.mark.parametrize(("name", "options"), ALL[:6])
def test_large_logits_and_bfloat16(name, options):
    logits, target = draw(k=K - 1 if name.startswith("binary") else K)
    loss = jax.value_and_grad(lambda x: getattr(losses, name)(x, target, **options))
    value, gradient = loss(jnp.asarray(logits * 1e4))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    low, _ = loss(jnp.asarray(logits, jnp.bfloat16))
    assert low.dtype == jnp.float32
