"""The networks of an analysis: backbones of checkpoints, and random ones that numbers are held against."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree
import numpy as np

from radnet_jax import rng, sharding, starts
from radnet_jax.analysis.minibatch import map_gram
from radnet_jax.augment.views import center
from radnet_jax.checkpoint import load_meta
from radnet_jax.data.dataset import Split
from radnet_jax.data.pipeline import Ordered, eval_batches
from radnet_jax.errors import UserError
from radnet_jax.evaluation import evaluators
from radnet_jax.models import MODELS
from radnet_jax.models.blocks import block_maps, pooled
from radnet_jax.preprocessing import Adapter, ModelInput, make_adapter
from radnet_jax.registry import named
from radnet_jax.weights import use

STATISTICS = {"stored": "those of its checkpoint", "images": "those of these images"}


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A backbone with its weights, and how it sees a dataset.

    Attributes:
      name: for people.
      id: of the checkpoint, or what the weights were drawn from.
      backbone: section of its config.
      module: the Linen module.
      params: of the backbone.
      batch_stats: of the backbone, {} where it has no BatchNorm.
      adapter: from the dataset's pixels to its input.
      statistics: what its BatchNorm statistics are of: key of STATISTICS.
    """

    name: str
    id: str
    backbone: Mapping[str, Any]
    module: Any
    params: PyTree
    batch_stats: PyTree
    adapter: Adapter
    statistics: str = "stored"

    @functools.cached_property
    def layers(self) -> dict[str, int]:
        """The blocks and their widths."""
        names: list[str] = []

        def run(params: PyTree, batch_stats: PyTree, image: Array) -> list[Array]:
            found = _maps(self.module, self.adapter, params, batch_stats, image)
            names.extend(found)
            return [pooled(x) for x in found.values()]  # a dict would come back in the order of its names

        shapes = jax.eval_shape(run, self.params, self.batch_stats, self._image)
        return dict(zip(names, (shape.shape[1] for shape in shapes), strict=True))

    @property
    def described(self) -> dict[str, Any]:
        """What it is, for the record."""
        return {
            "name": self.name,
            "id": self.id,
            "backbone": dict(self.backbone),
            "layers": self.layers,
            "adapter": self.adapter.to_json(),
            "statistics": self.statistics,
        }

    @property
    def _image(self) -> jax.ShapeDtypeStruct:
        stored = self.adapter.stored
        return jax.ShapeDtypeStruct((1, *stored.size, stored.channels), stored.dtype)


def load(path: str, split: Split, declared: Mapping[str, Any] | None, mesh: Mesh) -> Network:
    """Loads the backbone of a run's or an import's newest checkpoint.

    Args:
      path: the workdir, or the name of an import.
      split: the images that it is to see.
      declared: how a network of another modality sees them; not used for one of the same.
      mesh: that it is put on.
    """
    start = starts.find_start(str(use.find(path)))
    module = MODELS.build(*named(start.backbone))
    shapes = _shapes(module, start.model_input)
    params, state = starts.fill(
        start,
        {"backbone": shapes["params"]},
        {"batch_stats": {"backbone": shapes.get("batch_stats", {})}},
        heads="",
    )
    own = start.model_input.modality == split.card.stored.modality
    adapter = make_adapter(split.card.stored, start.model_input, None if own else declared)
    placed, stats = sharding.replicate((params["backbone"], state["batch_stats"]["backbone"]), mesh)
    return Network(Path(path).resolve().name, start.id, start.backbone, module, placed, stats, adapter)


def untrained(like: Network, seed: int, mesh: Mesh, *, name: str = "") -> Network:
    """Returns a random network of the architecture and input of another: what training from scratch begins with."""
    model_input = like.adapter.model_input
    image = jnp.zeros((1, *model_input.size, model_input.channels), jnp.float32)
    key = jax.random.split(rng.stream(seed, "init"))[0]
    variables = jax.jit(like.module.init, static_argnames="train", compiler_options=rng.RUN_ONCE)(
        key, image, train=False
    )
    placed = sharding.replicate((variables["params"], variables.get("batch_stats", {})), mesh)
    return dataclasses.replace(
        like, name=name or f"random {seed}", id=f"random, seed {seed}", params=placed[0], batch_stats=placed[1]
    )


def initial(path: str, like: Network, mesh: Mesh) -> Network:
    """Returns what a run that began at random began with.

    Raises:
      UserError: the run began with a checkpoint.
    """
    folder = starts.find_start(str(use.find(path))).folder
    assert folder is not None
    meta = load_meta(folder)
    if meta.get("checkpoint"):
        raise UserError(
            f"{Path(path).name} did not begin at random", got=f"start {meta['checkpoint']}", fix="name that start"
        )
    if "seed" not in meta["config"]:
        raise UserError(f"{Path(path).name} is no training run", fix="name what is to be compared")
    return untrained(like, int(meta["config"]["seed"]), mesh, name="initial weights")


def with_own_statistics(network: Network, split: Split, batch_size: int, mesh: Mesh) -> Network:
    """Returns a network with BatchNorm statistics of these images.

    Those of a random one are mean 0 and variance 1. Those of a pretraining are of its own images, which other images
    need not be like; training never uses them, since it normalises by its batches from its first update on.
    """
    if not jax.tree.leaves(network.batch_stats):
        return network
    stats = evaluators.reestimate_batch_stats(
        network.module,
        network.params,
        network.batch_stats,
        split,
        adapter=network.adapter,
        batch_size=batch_size,
        mesh=mesh,
    )
    return dataclasses.replace(network, batch_stats=stats, statistics="images")


def began_with(run: str, path: str) -> bool:
    """Whether a run began with the very weights that `load` finds there."""
    folder = starts.find_start(str(use.find(run))).folder
    assert folder is not None
    return bool(load_meta(folder).get("checkpoint") == starts.find_start(str(use.find(path))).id)


def same_architecture(a: Network, b: Network) -> bool:
    """Whether layer i of one and layer i of the other are the same layer."""
    return a.backbone["name"] == b.backbone["name"] and a.layers == b.layers


class Batch(NamedTuple):
    """What the networks give for some images of a split.

    Attributes:
      features: of each network, the pooled features of each layer.
      grams: of each network and layer, `minibatch.map_gram` of its flattened maps.
      valid: 0 for rows that only fill up the last batch.
      numbers: of the records; -1 for those rows.
    """

    features: list[list[Float[Array, "b d"]]]
    grams: list[list[Float[Array, "b b"]]]
    valid: Float[Array, " b"]
    numbers: Int[np.ndarray, " b"]


def stream(networks: Sequence[Network], split: Split, batch_size: int, mesh: Mesh, *, seed: int = 0) -> Iterator[Batch]:
    """Yields a whole split, its records in an order drawn from `seed`.

    Neighbours in a dataset are often of one patient, and what is averaged over batches needs batches like the whole.
    """
    order = np.random.default_rng(seed).permutation(len(split))
    first = 0
    for batch in eval_batches(Ordered(split, order), batch_size=batch_size):
        put = sharding.put_batch({"image": batch["image"], "valid": batch["valid"]}, mesh)
        found = [
            _compiled(n.module, n.adapter, mesh)(n.params, n.batch_stats, put["image"], put["valid"]) for n in networks
        ]
        numbers = np.full(batch_size, -1)
        numbers[: len(order) - first] = order[first : first + batch_size]
        yield Batch([f for f, _ in found], [g for _, g in found], put["valid"], numbers)
        first += batch_size


class Sample:
    """Features of some of the images, kept on the host: for what can't be streamed."""

    def __init__(self, rows: Int[np.ndarray, " m"], count: int):
        self.rows = rows
        self._numbers: list[np.ndarray] = []
        self._parts: list[list[list[np.ndarray]]] = [[] for _ in range(count)]

    def add(self, features: Sequence[Sequence[Float[Array, "b d"]]], numbers: Int[np.ndarray, " b"]) -> None:
        """Keeps the rows of a batch that belong to the sample."""
        wanted = np.flatnonzero(np.isin(numbers, self.rows))
        if len(wanted):
            self._numbers.append(numbers[wanted])
            for parts, layers in zip(self._parts, features):
                parts.append([np.asarray(layer)[wanted] for layer in layers])

    def features(self, network: int) -> list[Float[np.ndarray, "m d"]]:
        """Returns the layers of a network; rows as in `rows`."""
        places = np.argsort(np.concatenate(self._numbers))
        return [np.concatenate(parts)[places] for parts in zip(*self._parts[network])]


def spread_rows(n: int, most: int) -> Int[np.ndarray, " m"]:
    """Returns at most so many record numbers, evenly spread over a split."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int))


def _shapes(module: Any, model_input: ModelInput) -> Any:
    image = jax.ShapeDtypeStruct((1, *model_input.size, model_input.channels), jnp.float32)
    return jax.eval_shape(functools.partial(module.init, train=False), jax.random.key(0), image)


def _maps(module: Any, adapter: Adapter, params: PyTree, batch_stats: PyTree, image: Array) -> dict[str, Array]:
    return block_maps(module, {"params": params, "batch_stats": batch_stats}, center(image, adapter))


@functools.lru_cache(maxsize=16)
def _compiled(module: Any, adapter: Adapter, mesh: Mesh) -> Callable[..., tuple[list[Array], list[Array]]]:
    def run(params: PyTree, batch_stats: PyTree, image: Array, valid: Array) -> tuple[list[Array], list[Array]]:
        maps = _maps(module, adapter, params, batch_stats, image).values()
        return [pooled(x) for x in maps], [map_gram(x, valid) for x in maps]

    return jax.jit(run, out_shardings=(sharding.batch_sharding(mesh), sharding.replicated(mesh)))
