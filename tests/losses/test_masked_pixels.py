"""MAE's loss against loops of the paper's formula; patches in the order of a ViT's tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax.losses.masked_pixels import masked_pixels, patchify


def data(b=3, n=4, p=12, seed=0):
    rng = np.random.default_rng(seed)
    masked = np.array([[1, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 0]])
    return rng.standard_normal((b, n, p)).astype(np.float32), (5 * rng.random((b, n, p))).astype(np.float32), masked


def paper(predictions, patches, masked):
    """He et al. 2021, section 3 ("Reconstruction target"), in loops; float64."""
    errors = []
    for i, j in zip(*np.nonzero(masked)):
        x = np.float64(patches[i, j])
        target = (x - x.mean()) / np.sqrt(x.var(ddof=1) + 1e-6)
        errors.append(np.mean((np.float64(predictions[i, j]) - target) ** 2))
    return np.mean(errors)


def test_equals_the_papers_formula():
    assert float(masked_pixels(*data())) == pytest.approx(paper(*data()), rel=1e-5)


def test_equals_lightlys_parts():
    """lightly has no such loss: its MAE is its patches and their normalisation, and PyTorch's squared error."""
    torch = pytest.importorskip("torch")
    lightly = pytest.importorskip("lightly.models.utils")
    predictions, _, masked = data(p=48)
    image = np.random.default_rng(1).random((3, 8, 8, 3), np.float32)
    patches = lightly.patchify(torch.tensor(image.transpose(0, 3, 1, 2)), 4)
    chosen, x = torch.tensor(masked == 1), torch.tensor(predictions, requires_grad=True)
    loss = torch.nn.functional.mse_loss(x[chosen], lightly.normalize_mean_var(patches)[chosen])
    loss.backward()
    ours = lambda x: masked_pixels(x, patchify(jnp.asarray(image), 4), masked)  # noqa: E731
    value, gradient = jax.value_and_grad(ours)(jnp.asarray(predictions))
    assert float(value) == pytest.approx(float(loss), rel=1e-5)
    np.testing.assert_allclose(gradient, x.grad.numpy(), atol=1e-5)


def test_predictions_of_zeros_are_at_chance():
    _, patches, masked = data(p=48)
    assert float(masked_pixels(np.zeros_like(patches), patches, masked)) == pytest.approx(47 / 48, rel=1e-4)


def test_what_the_encoder_saw_has_no_part():
    predictions, patches, masked = data()
    gradient = jax.grad(masked_pixels)(jnp.asarray(predictions), patches, masked)
    assert np.array_equal(np.abs(gradient).max(-1) > 0, masked == 1)
    changed = np.where(masked[:, :, None] == 0, 7.0, patches)
    assert float(masked_pixels(predictions, changed, masked)) == float(masked_pixels(predictions, patches, masked))


def test_patches_of_one_value_are_finite():
    predictions, patches, masked = data()
    loss, gradient = jax.value_and_grad(masked_pixels)(jnp.asarray(predictions), np.ones_like(patches), masked)
    assert float(loss) == pytest.approx(paper(predictions, np.ones_like(patches), masked), rel=1e-5)
    assert np.isfinite(gradient).all()


def test_patches_are_row_by_row():
    image = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    patches = patchify(jnp.asarray(image), 2)
    assert patches.shape == (2, 6, 12)
    for b in range(2):
        for row in range(2):
            for column in range(3):
                square = image[b, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                np.testing.assert_array_equal(patches[b, 3 * row + column], square.ravel())
