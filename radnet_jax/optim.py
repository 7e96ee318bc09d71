"""Optimisers by name, with the groups that weight decay and trust ratios leave out, and frozen parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import math
import re
from typing import Any

import jax
import optax

from radnet_jax.errors import UserError
from radnet_jax.registry import Registry
from radnet_jax.schedules import warmup_cosine
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
    constant: Sequence[str] = (),
    base_lr: float = 0.0,
    total_steps: int = 0,
    rates: Sequence[tuple[str, float]] = (),
    layer_decay: float = 1.0,
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
      constant: regexes; the parameters that match one keep the learning rate `base_lr`, whatever the schedule. One that
        matches nothing raises a UserError when the optimiser is initialised.
      base_lr: of `constant`; in a run it is the schedule's.
      total_steps: of the run, for what changes in its course.
      rates: (regex, factor) pairs; the first that matches multiplies the learning rate of a parameter (and with it the
        decay of AdamW). One that matches nothing raises a UserError when the optimiser is initialised.
      layer_decay: factor of the learning rate from each layer of the backbone to the one below, 1 for none: layer i of
        n has layer_decay ** (n - i), the stem is layer 0, heads have 1 (Clark et al. 2020, ELECTRA, section 3.2).
      grad_clip: largest global norm of the gradient; 0 for none.
      **kwargs: arguments of the optimiser itself, see `lars`, `adamw`, `sgd`.
    """
    if not _is_number(grad_clip) or grad_clip < 0:
        raise UserError("optimizer: grad_clip", got=repr(grad_clip), expected="0 (none) or the largest norm")
    for what, patterns in (("frozen", frozen), ("constant", constant)):
        if isinstance(patterns, str):
            raise UserError(f"optimizer: {what}", got=repr(patterns), expected=f"a tuple, ({patterns!r},)")
    _check_numbers(kwargs)
    known = {"mask": _not_matching(exclude), "total_steps": total_steps}
    tx = OPTIMIZERS.build(name, kwargs, schedule=schedule, **known)
    if constant:
        held = OPTIMIZERS.build(name, kwargs, schedule=lambda step: base_lr, **known)
        tx = optax.partition({"rest": tx, "named": held}, _labels(tuple(constant), "constant"))
    if grad_clip:
        tx = optax.chain(optax.clip_by_global_norm(grad_clip), tx)
    if frozen:
        tx = optax.partition({"rest": tx, "named": optax.set_to_zero()}, _labels(tuple(frozen), "frozen"))
    # Outside the partition, where every parameter has its name.
    if layer_decay != 1.0:
        if not _is_number(layer_decay) or not 0 < layer_decay < 1:
            raise UserError("layer_decay", got=layer_decay, expected="more than 0, at most 1")
        tx = optax.chain(tx, _scale(_decays(layer_decay)))
    if rates:
        pairs = not isinstance(rates, str) and all(not isinstance(r, str) and len(r) == 2 for r in rates)
        if not pairs or not all(isinstance(pattern, str) and _is_number(factor) for pattern, factor in rates):
            raise UserError("optimizer: rates", got=repr(rates), expected='(regex, factor) pairs, (("stem.*", 0.1),)')
        tx = optax.chain(tx, _scale(_factors(tuple((pattern, factor) for pattern, factor in rates))))
    return tx


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_numbers(arguments: Mapping[str, Any]) -> None:
    """Refuses what no optimiser can have: a decay that is a growth, a momentum that never forgets."""
    ranges = {
        **dict.fromkeys(("weight_decay", "last_weight_decay", "trust_coefficient"), math.inf),
        **dict.fromkeys(("momentum", "b1", "b2"), 1.0),
    }
    for name, most in ranges.items():
        value: Any = arguments.get(name)
        if isinstance(value, int | float) and not 0 <= value < most:  # NaN is in no range
            raise UserError(
                f"optimizer: {name}", got=value, expected="0 or more" + (", less than 1" if most == 1 else "")
            )


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
    stands inside the velocity, so that a change of the rate does not act on old gradients; the codes of BYOL, MoCo v3,
    Barlow Twins, VICReg and DINO multiply the velocity by it, which is the same while the rate stays. The ratio is 1
    where |w| or |g| is 0. Excluded parameters follow SGD with momentum, without decay and ratio.
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
    total_steps: int,
    weight_decay: float = 0.0,
    last_weight_decay: float | None = None,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter 2017, algorithm 2): decay apart from the moments, times the learning rate.

    With `last_weight_decay` the decay goes from `weight_decay` at step 0 to it at the end of the run by half a cosine.
    """
    decay: Any = weight_decay
    if last_weight_decay is not None:
        decay = warmup_cosine(weight_decay, total_steps=total_steps, end_lr=last_weight_decay)
    return optax.adamw(schedule, b1=b1, b2=b2, eps=eps, weight_decay=decay, mask=mask)


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


def _scale(factors: Callable[[PyTree], PyTree]) -> optax.GradientTransformation:
    """Multiplies the update of each parameter by a factor of its name."""

    def init(params: PyTree) -> optax.EmptyState:
        factors(params)  # patterns that match nothing are refused here
        return optax.EmptyState()

    def update(updates: PyTree, state: optax.EmptyState, params: PyTree = None) -> tuple[PyTree, optax.EmptyState]:
        del params
        return jax.tree.map(lambda u, f: u * f, updates, factors(updates)), state

    return optax.GradientTransformation(init, update)


def _decays(decay: float) -> Callable[[PyTree], PyTree]:
    def factors(params: PyTree) -> PyTree:
        names = [name for name, _ in named_leaves(params)]
        layers = sorted({_layer(name) for name in names if name.startswith("backbone/")})
        if len(layers) < 2:
            raise UserError("layer_decay needs a backbone of several layers", got=f"{len(layers)} layer(s)")
        power = {layer: len(layers) - i for i, layer in enumerate(layers)}
        return _map_paths(lambda n: decay ** power[_layer(n)] if n.startswith("backbone/") else 1.0, params)

    return factors


def _layer(name: str) -> tuple[float, ...]:
    """Order of a layer of the backbone: the numbers in its module's name; the stem has none, "final..." is last."""
    module = name.split("/")[1]
    return (math.inf,) if module.startswith("final") else tuple(int(n) for n in re.findall(r"\d+", module))


def _factors(rates: tuple[tuple[str, float], ...]) -> Callable[[PyTree], PyTree]:
    regexes = [(_compile(pattern), factor) for pattern, factor in rates]

    def factors(params: PyTree) -> PyTree:
        names = [name for name, _ in named_leaves(params)]
        for regex, _ in regexes:
            _refuse_no_match(regex, names, "rates")
        return _map_paths(lambda name: next((f for regex, f in regexes if regex.search(name)), 1.0), params)

    return factors


def _refuse_no_match(regex: re.Pattern[str], names: Sequence[str], what: str) -> None:
    if not any(regex.search(name) for name in names):
        raise UserError(
            f"a pattern of {what} matches no parameter",
            got=repr(regex.pattern),
            expected=f"a regex on paths such as {names[0]!r}",
        )


def _labels(patterns: tuple[str, ...], what: str) -> Mask:
    """Labels parameters "named" where a pattern matches, and "rest"; there must be some of both."""
    regexes = [_compile(pattern) for pattern in patterns]

    def labels(params: PyTree) -> PyTree:
        names = [name for name, _ in named_leaves(params)]
        for regex in regexes:
            _refuse_no_match(regex, names, what)
        named = [any(regex.search(path) for regex in regexes) for path in names]
        if all(named):
            raise UserError(f"every parameter is {what}", got=repr(patterns), fix="leave something to train")
        return jax.tree.unflatten(jax.tree.structure(params), ["named" if n else "rest" for n in named])

    return labels
