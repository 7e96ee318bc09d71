"""What an analysis found, in words that follow from its numbers."""

from __future__ import annotations

from collections.abc import Mapping
import math
from typing import Any

# What a pair of networks is. The main ones are before and after where b went on from a's very weights.
CHANGE = "before and after"
OTHERS = "a and b"
SEEDS = "two seeds"
RANDOM = "two random networks"
TOLD = 3  # properties that a sentence names
ALPHA = 0.05


def sides(continued: bool) -> tuple[str, str]:
    """Returns how sentences call a and b: as one network before and after only where they are."""
    return ("before", "after") if continued else ("in a", "in b")


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
    out.append(_order(known, result["continued"]))
    return out


def of_seeds(result: Mapping[str, Any]) -> list[str]:
    """Returns what the pairs that differ by their seed say: what was kept, and what that responds to."""
    found, continued = result["over_seeds"], result["continued"]
    if found is None:
        return []
    n, out = found["n"], []
    both, after = ("Before and after", "what was fine-tuned") if continued else ("a and b", "b")
    layers = {k: v for k, v in found["layers"].items() if not math.isnan(v["cka"]["mean"])}
    if n > 1 and layers:
        least = min(layers, key=lambda k: layers[k]["cka"]["mean"])
        random, seeds = ([k for k, v in layers.items() if v["cka"]["low"] > v[w]] for w in ("random", "two_seeds"))
        out.append(
            f"Over {n} seeds the least alike block is {least}, mean CKA {_mean(layers[least]['cka'])}. {both} are more "
            f"alike than {RANDOM} in {len(random)} of {len(layers)} blocks, and than any two seeds of {after} in "
            f"{len(seeds)}."
        )
        if continued and found["starts"] == 1:
            out.append("All seeds began with one checkpoint: what another pretraining would give is not known.")
    if n == 1:
        out.append("One pair of networks: how much another seed would differ is not known.")
    if continued and not math.isnan((units := list(found["units"].values())[-1])["share"]["mean"]):
        out.append(
            f"Of the last block's units {_mean(units['share'])} give the same before and after; of pairs of two "
            f"different units {units['chance']['mean']:.2f} are as alike."
        )
        if found["block"]:
            share = found["units"][found["block"]]["share"]
            out.append(f"The deepest block that kept at least half of its units is {found['block']}, {_mean(share)}.")
            out.append(_responds(found))
        else:
            out.append("No block kept half of its units.")
    if n > 1:
        out += _read_over_seeds(found["read"], n, *sides(continued))
    return out


def followed(over_seeds: Mapping[str, Any]) -> list[str]:
    """Returns the properties that the kept units of the deepest kept block follow more closely than a random network's
    units do, by their interval over seeds where there is one; the most closely followed first.
    """
    above = {k: v["kept"] for k, v in over_seeds["responds"].items() if _least(v["kept"]) > v["random"]}
    return sorted(above, key=lambda k: -above[k]["mean"])


def _responds(found: Mapping[str, Any]) -> str:
    names, values = followed(found), found["responds"]
    if not names:
        return "The units that it kept follow no property more closely than those of a random network."
    told = [f"{k} ({_mean(values[k]['kept'])}, random {values[k]['random']:.2f})" for k in names[:TOLD]]
    more = f", and {len(names) - TOLD} more" if len(names) > TOLD else ""
    return (
        "The units that it kept follow these more closely than those of a random network do (mean squared rank "
        f"correlation): {', '.join(told)}{more}."
    )


def _read_over_seeds(read: Mapping[str, Any], n: int, one: str, other: str) -> list[str]:
    said = []
    for word, sign in (("better", 1), ("worse", -1)):
        found = {k: v for k, v in read.items() if v["p_holm"] < ALPHA and sign * v["difference"]["mean"] > 0}
        names = sorted(found, key=lambda k: -abs(found[k]["difference"]["mean"]))
        told = [f"{k} (R² {read[k]['after']['mean']:.2f}, {one} {read[k]['before']['mean']:.2f})" for k in names]
        if told:
            said.append(
                f"Over {n} seeds these are read {word} from the last block {other} than {one}: {', '.join(told)}."
            )
    return said or [f"Over {n} seeds no property is read better or worse from the last block {other} than {one}."]


def _mean(v: Mapping[str, float]) -> str:
    interval = "" if math.isnan(v["low"]) else f" ({v['low']:.2f} to {v['high']:.2f})"
    return f"{v['mean']:.2f}{interval}"


def _least(v: Mapping[str, float]) -> float:
    return v["mean"] if math.isnan(v["low"]) else v["low"]


def of_properties(result: Mapping[str, Any]) -> list[str]:
    """Returns what can be read better or worse from the last block of b than of a, with intervals apart."""
    networks = result["read"]["networks"]
    a, b = (list(networks[name].values())[-1]["read"] for name in ("a", "b"))
    one, other = sides(result["continued"])
    said = []
    over_seeds = (result["over_seeds"] or {"n": 1})["n"] > 1  # `of_seeds` has then said it
    for word, better, worse in () if over_seeds else (("better", b, a), ("worse", a, b)):
        names = [k for k in a if better[k]["low"] > worse[k]["high"]]
        if names:
            told = ", ".join(f"{k} (R² {b[k]['r2']:.2f}, {one} {a[k]['r2']:.2f})" for k in names)
            said.append(f"From the last block these are read {word} {other} than {one}: {told}.")
    if "random" in networks:
        random = list(networks["random"].values())[-1]["read"]
        names = [k for k in b if b[k]["low"] > random[k]["high"]]
        told = ", ".join(names) or "none of the properties"
        of = "Of the first pair: read" if over_seeds else "Read"
        said.append(f"{of} better from the last block {other} than from that of a random network: {told}.")
    if not over_seeds and len(said) < 2:
        said.insert(0, f"No property is read better or worse from the last block {other} than {one}, beyond doubt.")
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


def _order(main: Mapping[str, Any], continued: bool) -> str:
    """Whether the first or the last block is more alike, where their intervals do not overlap."""
    names = list(main)
    first, last = main[names[0]], main[names[-1]]
    if len(names) < 2 or math.isnan(first["low"]) or math.isnan(last["low"]):
        return f"Whether early or late blocks {'changed' if continued else 'differ'} more can't be told."
    word = "was kept better" if continued else "is more alike"
    if first["low"] > last["high"]:
        return f"The first block {word} than the last: {_value(first)} against {_value(last)}."
    if last["low"] > first["high"]:
        return f"The last block {word} than the first: {_value(last)} against {_value(first)}."
    return "First and last block do not differ beyond their intervals."


def _value(v: Mapping[str, Any]) -> str:
    interval = "" if math.isnan(v["low"]) else f" ({v['low']:.2f} to {v['high']:.2f})"
    return f"{v['cka']:.2f}{interval}"
