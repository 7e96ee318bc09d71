"""DINO's loss and centre against loops of the paper's formula, and lightly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radnet_jax.losses.dino import dino, new_centre

TEMPERATURES = dict(student_temperature=0.1, teacher_temperature=0.05)


def outputs(seed=0, b=4, v=5, k=7):
    rng = np.random.default_rng(seed)
    student, teacher = rng.standard_normal((b, v, k)) / 3, rng.standard_normal((b, 2, k)) / 3
    return student.astype(np.float32), teacher.astype(np.float32), (rng.standard_normal(k) / 3).astype(np.float32)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def paper(student, teacher, centre):
    """Caron et al. 2021, equation 3 with the centre of equation 4, in loops; float64."""
    student, teacher, centre = (np.float64(x) for x in (student, teacher, centre))
    terms = []
    for i in range(len(student)):
        for t in range(teacher.shape[1]):
            for v in range(student.shape[1]):
                if v != t:
                    p, q = softmax((teacher[i, t] - centre) / 0.05), softmax(student[i, v] / 0.1)
                    terms.append(-np.sum(p * np.log(q)))
    return np.mean(terms)


def test_equals_the_papers_formula():
    student, teacher, centre = outputs()
    loss, metrics = dino(student, teacher, centre, **TEMPERATURES)
    assert float(loss) == pytest.approx(paper(student, teacher, centre), rel=1e-5)
    p = np.array([[softmax((np.float64(t) - centre) / 0.05) for t in row] for row in teacher])
    assert float(metrics["teacher_entropy"]) == pytest.approx(-np.sum(p * np.log(p), -1).mean(), rel=1e-4)


def test_outputs_that_say_nothing_are_at_chance():
    student, teacher, centre = outputs()
    loss, metrics = dino(np.zeros_like(student), teacher, centre, **TEMPERATURES)
    assert float(loss) == pytest.approx(np.log(7), rel=1e-6)
    assert float(metrics["loss_at_chance"]) == pytest.approx(np.log(7), rel=1e-6)


def test_no_gradient_reaches_teacher_and_centre():
    gradients = jax.grad(lambda *x: dino(*x, **TEMPERATURES)[0], argnums=(0, 1, 2))(*map(jnp.asarray, outputs()))
    assert np.isfinite(gradients[0]).all()
    assert np.abs(gradients[0]).max() > 0
    assert not np.any(gradients[1])
    assert not np.any(gradients[2])


def test_bfloat16_is_compared_in_float32():
    student, teacher, centre = (jnp.asarray(x, jnp.bfloat16) for x in outputs())
    loss, _ = dino(student, teacher, centre, **TEMPERATURES)
    assert loss.dtype == jnp.float32
    exact = paper(*(np.float32(x) for x in (student, teacher, centre)))
    assert float(loss) == pytest.approx(exact, rel=1e-5)


def test_the_centre_is_a_running_mean_over_examples_and_views():
    _, teacher, centre = outputs()
    want = 0.9 * np.float64(centre) + 0.1 * np.float64(teacher).mean((0, 1))
    np.testing.assert_allclose(new_centre(jnp.asarray(centre), teacher, momentum=0.9), want, rtol=1e-5, atol=1e-7)


def test_equals_lightly():
    torch = pytest.importorskip("torch")
    criterion = pytest.importorskip("lightly.loss").DINOLoss(output_dim=7, teacher_temp=0.05)
    student, teacher, centre = outputs()
    criterion.center.data = torch.tensor(centre)[None, None]
    x = torch.tensor(student, requires_grad=True)
    t = torch.tensor(teacher)
    loss = criterion(list(t.unbind(1)), list(x.unbind(1)))
    loss.backward()
    value, gradient = jax.value_and_grad(lambda s: dino(s, teacher, centre, **TEMPERATURES)[0])(jnp.asarray(student))
    assert float(value) == pytest.approx(float(loss), rel=1e-5)
    np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=1e-4, atol=1e-6)
    moved = new_centre(jnp.asarray(centre), teacher, momentum=0.9)
    np.testing.assert_allclose(moved, criterion.center.numpy()[0, 0], rtol=1e-5, atol=1e-6)
