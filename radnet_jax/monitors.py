"""Is a pretraining collapsing? What its embeddings look like on the sphere, and a warning where they have collapsed."""

from __future__ import annotations

from collections.abc import Mapping

from absl import logging
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_EMBEDDINGS = 1024  # that are looked at: the first examples of the global batch, with all their views
_TEMPERATURE = 2.0  # t of the uniformity, as in the paper
_EPSILON = 1e-7  # of RankMe for float32

ONE_POINT = 0.1  # embedding_std below it
ONE_LINE = 0.95  # largest_direction above it
FEW_DIRECTIONS = 4  # effective_rank below it; a BatchNorm behind the projector leaves a collapsing network no other way
ROWS = 3  # logged in a row
EARLY = 0.1  # of the run, whose rows do not count


def embedding_metrics(embedding: Float[Array, "b v d"]) -> dict[str, Float[Array, ""]]:
    """What the embeddings of a batch look like, each scaled to length 1.

    `embedding_std`: standard deviation of a dimension over the embeddings, mean over dimensions, times sqrt(d): 1 for
      embeddings all over the sphere, 0 for one point (Chen and He 2021, section 4.1).
    `effective_rank`: exp of the entropy of the normalised singular values (RankMe, Garrido et al. 2023, equations 1 and
      2; Roy and Vetterli 2007), 1 to min(embeddings, d). The paper leaves the embeddings at their own lengths.
    `largest_direction`: share of the sum of squared singular values in the first: 1/d to 1.
    `alignment`: mean squared distance of two views of an image (Wang and Isola 2020, equation 5, alpha = 2); absent
      where there is one view.
    `uniformity`: log of the mean of exp(-2 x squared distance) over pairs of images, mean over views (equation 6, t =
      2): 0 for one point, about -4 all over a sphere of many dimensions.

    All but `alignment` are of a bounded number of embeddings, whatever the batch; the same on any number of devices.

    Args:
      embedding: of any length but zero; zero stays zero, and counts as collapsed.
    """
    z = embedding.astype(jnp.float32)
    z = z * jax.lax.rsqrt(jnp.maximum(jnp.sum(z * z, axis=-1, keepdims=True), 1e-24))
    v, d = z.shape[1:]
    metrics = {}
    if v > 1:  # the sum over pairs i < j of |z_i - z_j|^2 is v * sum |z_i|^2 - |sum z_i|^2
        pairs = v * jnp.sum(z * z, axis=(1, 2)) - jnp.sum(jnp.sum(z, axis=1) ** 2, axis=-1)
        metrics["alignment"] = jnp.mean(pairs) / (v * (v - 1) / 2)
    z = z[: max(_EMBEDDINGS // v, 2)]
    rows = z.reshape(-1, d)
    values = jnp.linalg.svd(rows, compute_uv=False)
    p = values / jnp.maximum(values.sum(), 1e-12) + _EPSILON
    return metrics | {
        "embedding_std": jnp.std(rows, axis=0).mean() * d**0.5,
        "effective_rank": jnp.exp(-jnp.sum(p * jnp.log(p))),
        "largest_direction": _share(values**2),
        "uniformity": jnp.mean(jax.vmap(_uniformity, in_axes=1)(z)),
    }


def _share(energies: Float[Array, " r"]) -> Float[Array, ""]:
    total = energies.sum()
    return jnp.where(total > 1e-12, energies.max() / jnp.maximum(total, 1e-12), 1.0)


def _uniformity(z: Float[Array, "n d"]) -> Float[Array, ""]:
    n = len(z)
    lengths = jnp.sum(z * z, axis=-1)
    squared = jnp.maximum(lengths[:, None] + lengths - 2 * jnp.matmul(z, z.T, precision="highest"), 0.0)
    exponent = jnp.where(jnp.eye(n, dtype=bool), -jnp.inf, -_TEMPERATURE * squared)
    return jax.nn.logsumexp(exponent) - jnp.log(n * (n - 1.0))


class CollapseWarning:
    """Warns once when a run has collapsed.

    The rule: ROWS logged rows in a row, none of them in the first tenth of the run, where the embeddings are one point
    (`embedding_std` below ONE_POINT), lie on one line (`largest_direction` above ONE_LINE) or have few directions
    (`effective_rank` below FEW_DIRECTIONS). A network that was just initialised can look like that, hence the tenth.
    """

    def __init__(self, label: str, total_steps: int):
        self._label, self._first = label, EARLY * total_steps
        self._rows = 0

    def write(self, step: int, values: Mapping[str, float]) -> None:
        if step <= self._first or "embedding_std" not in values or self._rows >= ROWS:
            return
        what = _collapsed(values)
        self._rows = self._rows + 1 if what else 0
        if self._rows == ROWS:
            logging.warning(
                "%s looks collapsed at step %d: its embeddings %s (embedding_std %.3f, largest_direction %.3f, "
                "effective_rank %.1f); the loss may look fine. Try a lower learning rate or weight decay",
                *(self._label, step, what, values["embedding_std"], values["largest_direction"]),
                values["effective_rank"],
            )

    def close(self) -> None:
        pass


def _collapsed(values: Mapping[str, float]) -> str:
    """Says what the embeddings of a row have collapsed to; "" where they have not."""
    if values["embedding_std"] < ONE_POINT:
        return "are nearly one point"
    if values["largest_direction"] > ONE_LINE:
        return "lie nearly on one line"
    return "have few directions" if values["effective_rank"] < FEW_DIRECTIONS else ""
