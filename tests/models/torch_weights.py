"""A PyTorch network's weights as ours, by the layouts of the library."""

from radnet_jax.trees import nested
from radnet_jax.weights import layouts, names


def convert(backbone, state, layout="torchvision", **arguments):
    """Returns Linen's variables of a backbone from a state dict: every name of it is used, or a head's or a buffer.

    Args:
      backbone: name.
      state: PyTorch's names and arrays.
      layout: of the names.
      arguments: of the backbone.
    """
    section = {"name": backbone, **arguments}
    entries = layouts.entries(names.find(backbone, layout), layouts.shapes_of(section))
    return nested({e.ours: e.to_ours([state[name] for name in e.theirs]) for e in entries})


def unused(backbone, state, layout="torchvision", **arguments):
    """The names of a state dict that are no weights of ours."""
    section = {"name": backbone, **arguments}
    entries = layouts.entries(names.find(backbone, layout), layouts.shapes_of(section))
    return sorted(set(state) - {name for e in entries for name in e.theirs})
