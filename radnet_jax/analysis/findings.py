"""What an analysis found, in words that follow from its numbers."""

from __future__ import annotations

from collections.abc import Mapping
import math
from typing import Any

# What a pair of networks is.
CHANGE = "before and after"
SEEDS = "two seeds"
RANDOM = "two random networks"


def sentences(result: Mapping[str, Any]) -> list[str]:
    """Returns what the numbers say of which layers were kept and which changed; nothing that they do not."""
    pairs = result["pairs"]
    if not pairs:
        return ["The two networks are of different architectures: only the map is defined, layer by layer nothing is."]
    main, baseline = pairs[0]["layers"], next(p["layers"] for p in pairs if p["what"] == RANDOM)
    known = {k: v for k, v in main.items() if not math.isnan(v["cka"])}
    if not known:
        return ["No block of the two networks has a defined similarity."]
    out = [_kept(known, baseline)]
    least, most = (choose(known, key=lambda k: known[k]["cka"]) for choose in (min, max))
    if least == most:
        out.append(f"The one block, {least}, has CKA {_value(known[least])}.")
    else:
        out.append(f"Least alike is {least}, CKA {_value(known[least])}; most alike {most}, CKA {_value(known[most])}.")
    out.append(_order(known))
    seeds = {k: v for k, v in (result["seeds"] or {}).items() if not math.isnan(v["mean"])}
    if seeds:
        least = min(seeds, key=lambda k: seeds[k]["mean"])
        told = seeds[least]
        out.append(
            f"Over {told['n']} seeds the least alike block is {least}, mean CKA "
            f"{told['mean']:.2f} ({told['low']:.2f} to {told['high']:.2f})."
        )
    else:
        out.append("One pair of networks: how much another seed would differ is not known.")
    return out


def of_properties(result: Mapping[str, Any]) -> list[str]:
    """Returns what can be read better or worse from the last block of b than of a, with intervals apart."""
    networks = result["read"]["networks"]
    a, b = (list(networks[name].values())[-1]["read"] for name in ("a", "b"))
    said = []
    for word, better, worse in (("better", b, a), ("worse", a, b)):
        names = [k for k in a if better[k]["low"] > worse[k]["high"]]
        if names:
            told = ", ".join(f"{k} (R² {b[k]['r2']:.2f}, before {a[k]['r2']:.2f})" for k in names)
            said.append(f"From the last block these are read {word} after than before: {told}.")
    if "random" in networks:
        random = list(networks["random"].values())[-1]["read"]
        names = [k for k in b if b[k]["low"] > random[k]["high"]]
        told = ", ".join(names) or "none of the properties"
        said.append(f"Read better from the last block after than from that of a random network: {told}.")
    if len(said) < 2:
        said.insert(0, "No property is read better or worse from the last block after than before, beyond doubt.")
    return said


def _kept(main: Mapping[str, Any], baseline: Mapping[str, Any]) -> str:
    judged = {k: v for k, v in main.items() if not (math.isnan(v["low"]) or math.isnan(baseline[k]["high"]))}
    if not judged:
        return "There are too few patients for intervals: what was kept can't be told from what any two networks share."
    above = [k for k, v in judged.items() if v["low"] > baseline[k]["high"]]
    below = [k for k, v in judged.items() if v["high"] < baseline[k]["low"]]
    said = (
        f"In {len(above)} of {len(judged)} blocks the two networks are more alike than {RANDOM}, their 95 % intervals "
        "over patients apart"
    )
    unsure = len(judged) - len(above) - len(below)
    if below:
        said += f"; in {len(below)} ({', '.join(below)}) less alike"
    return said + (f"; in {unsure} it can't be told." if unsure else ".")


def _order(main: Mapping[str, Any]) -> str:
    """Whether the early or the late half of the blocks is more alike, where their intervals do not overlap."""
    names = list(main)
    first, last = main[names[0]], main[names[-1]]
    if len(names) < 2 or math.isnan(first["low"]) or math.isnan(last["low"]):
        return "Whether early or late blocks changed more can't be told."
    if first["low"] > last["high"]:
        return f"The first block was kept better than the last: {_value(first)} against {_value(last)}."
    if last["low"] > first["high"]:
        return f"The last block was kept better than the first: {_value(last)} against {_value(first)}."
    return "First and last block do not differ beyond their intervals."


def _value(v: Mapping[str, Any]) -> str:
    interval = "" if math.isnan(v["low"]) else f" ({v['low']:.2f} to {v['high']:.2f})"
    return f"{v['cka']:.2f}{interval}"
