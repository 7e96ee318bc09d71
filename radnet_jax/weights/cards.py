"""Source cards: where public weights are to be had, what is in their files, and what they expect to see."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

from radnet_jax.errors import UserError, nearest
from radnet_jax.models import MODELS
from radnet_jax.preprocessing import ModelInput
from radnet_jax.weights import names

FOLDER = Path(__file__).parent / "sources"
FIXED_EPSILON = {"vit": 1e-6, "convnext": 1e-6, "swin": 1e-5}  # of the families that take none


@dataclasses.dataclass(frozen=True)
class SourceCard:
    """One source of weights; `sources/NAME.json`.

    Attributes:
      name: of the file.
      title: for people.
      objective: what the weights were trained to do.
      data: what they were trained on.
      epochs: of the training; None where it is not published.
      licence: of the weights, as far as it is stated.
      home: the page that describes them.
      container: the usual kind of file; any kind that holds these names is read.
      files: by backbone, where the file is to be had (`url`) and the published beginning of its hash (`hash`, as
        "sha256:..." or "md5:..."; empty where there is none).
      select: paths into what the file holds; the first that exists is taken, or with `join` all of them together.
      join: see select.
      prefixes: what stands in front of the backbone's names; the first that fits is taken.
      layout: names and forms, see names.py.
      ignored: regexes of what else may be there and is left out, heads and projectors; full match.
      backbones: backbones and arguments that the source comes in.
      padding: "torch", "same" or "fixed", of a ResNet.
      norm_epsilon: added to the variance by the source's normalisations; None for what the backbone usually has.
      input: what the weights expect to see.
      top1: published accuracy in per cent, by backbone; on ImageNet-1k unless `top1_of` says otherwise.
      top1_of: what that is of: "linear probe", "itself", or "itself, on DATA".
      note: what is easily overlooked.
    """

    name: str
    title: str
    objective: str
    data: str
    epochs: int | None
    licence: str
    home: str
    container: str
    files: Mapping[str, Mapping[str, str]]
    select: tuple[tuple[str | int, ...], ...]
    join: bool
    prefixes: tuple[str, ...]
    layout: str
    ignored: tuple[str, ...]
    backbones: Mapping[str, Mapping[str, Any]]
    padding: str
    norm_epsilon: float | None
    input: ModelInput
    top1: Mapping[str, float]
    top1_of: str
    note: str

    def section(self, backbone: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the backbone section of a config for one of the source's backbones, "" for the only one.

        Arguments that have their default value are left out, as in a config that does not name them.

        Args:
          backbone: name.
          arguments: of the file at hand, where it differs from the card's.

        Raises:
          UserError: a backbone that the source does not come in, or none where it comes in several; an epsilon that
            the backbone can't have.
        """
        known = list(self.backbones)
        if not backbone and len(known) > 1:
            raise UserError(
                f"source {self.name} comes in several backbones", got="none", expected=f"one of {', '.join(known)}",
                fix="--config.backbone=NAME",
            )  # fmt: skip
        backbone = backbone or known[0]
        if backbone not in known:
            raise UserError(
                f"source {self.name} does not come as {backbone!r}{nearest(backbone, known)}",
                expected=f"one of {', '.join(known)}",
            )
        family = names.family_of(backbone)
        own: dict[str, Any] = {"padding": self.padding} if family == "resnet" else {}
        if self.norm_epsilon is not None:
            if family not in FIXED_EPSILON:
                own["norm_epsilon"] = self.norm_epsilon
            elif self.norm_epsilon != FIXED_EPSILON[family]:
                raise UserError(
                    f"{backbone} has another epsilon than card {self.name}", got=self.norm_epsilon,
                    expected=FIXED_EPSILON[family],
                )  # fmt: skip
        return without_defaults({"name": backbone, **own, **self.backbones[backbone], **arguments})


def without_defaults(section: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a backbone section without the arguments that have their default value."""
    defaults = MODELS.defaults(section["name"])
    return {k: v for k, v in section.items() if k not in defaults or defaults[k] != v}


@functools.cache
def known() -> tuple[str, ...]:
    """Returns the names of all cards."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


def load(source: str) -> SourceCard:
    """Returns the card of a source, by its name or by the path of a card of one's own.

    Raises:
      UserError: an unknown name, with the nearest one; a card that can't be read.
    """
    path = Path(source) if source.endswith(".json") else FOLDER / f"{source}.json"
    if not source or not path.is_file():
        raise UserError(
            f"unknown source {source!r}{nearest(source, known())}",
            expected=f"one of {', '.join(known())}, or the path of a card (.json)",
        )
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        for key in ("select", "prefixes", "ignored"):
            data[key] = tuple(tuple(v) if isinstance(v, list) else v for v in data[key])
        return SourceCard(**{**data, "name": path.stem, "input": ModelInput.from_json(data["input"])})
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"source card {path} can't be read ({error})", fix="compare it with the package's own"
        ) from error
