"""Optimisers by name, with the groups that weight decay and trust ratios leave out, and frozen parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import re
from typing import Any

import jax
import optax

from radnet_jax.errors import UserError
from radnet_jax.registry import Registry
from radnet_jax.trees import named_leaves

PyTree = Any
Mask = Callable[[PyTree], PyTree]

OPTIMIZERS = Registry("optimizer", "radnet_jax.optim")

# Biases and the scales and offsets of normalisation layers, at any depth.
NORMS_AND_BIASES = r"(^|/)(bias|scale)$"


def make_optimizer(
    name: str,
    schedule: optax.Schedule,
    *,
    exclude: str = NORMS_AND_BIASES,
    frozen: Sequence[str] = (),
    grad_clip: float = 0.0,
    **kwargs: Any,
) -> optax.GradientTransformation:
    """Returns the optimiser called `name`.

    Args:
      name: "lars", "adamw" or "sgd".
      schedule: learning rate by step.
      exclude: regex on the path of a parameter ("backbone/stem_norm/scale"); matches get neither weight decay nor a
        trust ratio.
      frozen: regexes; the parameters that match one are not updated, and have no part in the clipped norm. One that
        matches nothing raises a UserError when the optimiser is initialised.
      grad_clip: largest global norm of the gradient; 0 for none.
      **kwargs: arguments of the optimiser itself, see `lars`, `adamw`, `sgd`.
    """
    tx = OPTIMIZERS.build(name, kwargs, schedule=schedule, mask=_not_matching(exclude))
    if grad_clip:
        tx = optax.chain(optax.clip_by_global_norm(grad_clip), tx)
    if frozen:
        tx = optax.partition({"trained": tx, "frozen": optax.set_to_zero()}, _labels(tuple(frozen)))
    return tx


@OPTIMIZERS.register("lars")
def lars(
    *,
    schedule: optax.Schedule,
    mask: Mask,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    trust_coefficient: float = 0.001,
) -> optax.GradientTransformation:
    """LARS (You et al. 2017, algorithm 1) as SimCLR's code has it.

    g = grad + weight_decay * w; v = momentum * v + lr * trust_coefficient * |w| / |g| * g; w = w - v. The learning rate
    stands inside the velocity, so that a change of the rate does not act on old gradients. The ratio is 1 where |w| or
    |g| is 0. Excluded parameters follow SGD with momentum, without decay and ratio.
    """
    return optax.lars(
        schedule,
        weight_decay=weight_decay,
        weight_decay_mask=mask,
        trust_coefficient=trust_coefficient,
        trust_ratio_mask=mask,
        momentum=momentum,
    )


@OPTIMIZERS.register("adamw")
def adamw(
    *,
    schedule: optax.Schedule,
    mask: Mask,
    weight_decay: float = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter 2017, algorithm 2): decay apart from the moments, times the learning rate."""
    return optax.adamw(schedule, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=mask)


@OPTIMIZERS.register("sgd")
def sgd(
    *,
    schedule: optax.Schedule,
    mask: Mask,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    """SGD with momentum as torch has it: g = grad + weight_decay * w; v = momentum * v + g; w = w - lr * v."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=mask),
        optax.sgd(schedule, momentum=momentum, nesterov=nesterov),
    )


def _map_paths(function: Callable[[str], Any], params: PyTree) -> PyTree:
    return jax.tree.unflatten(jax.tree.structure(params), [function(name) for name, _ in named_leaves(params)])


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"not a regular expression: {error}", got=repr(pattern)) from error


def _not_matching(pattern: str) -> Mask:
    regex = _compile(pattern)
    return lambda params: _map_paths(lambda path: regex.search(path) is None, params)


def _labels(patterns: tuple[str, ...]) -> Mask:
    regexes = [_compile(pattern) for pattern in patterns]

    def labels(params: PyTree) -> PyTree:
        names = [name for name, _ in named_leaves(params)]
        for regex in regexes:
            if not any(regex.search(path) for path in names):
                raise UserError(
                    "a frozen pattern matches no parameter",
                    got=repr(regex.pattern),
                    expected=f"a regex on paths such as {names[0]!r}",
                )
        frozen = [any(regex.search(path) for regex in regexes) for path in names]
        if all(frozen):
            raise UserError("every parameter is frozen", got=repr(patterns), fix="leave something to train")
        return jax.tree.unflatten(jax.tree.structure(params), ["frozen" if f else "trained" for f in frozen])

    return labels
