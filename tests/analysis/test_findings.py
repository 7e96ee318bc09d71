"""Sentences say what the numbers say, and no more."""

import math

from radnet_jax.analysis import findings


def block(cka, half=0.05):
    return dict(cka=cka, low=cka - half, high=cka + half)


def result(main, baseline):
    names = [f"block{i}" for i in range(1, len(main) + 1)]
    pairs = [
        dict(what="before and after", layers=dict(zip(names, main))),
        dict(what=findings.RANDOM, layers=dict(zip(names, baseline))),
    ]
    return dict(pairs=pairs, continued=True)


def test_kept_changed_and_unsure():
    found = findings.sentences(result([block(0.9), block(0.62), block(0.2)], [block(0.6), block(0.6), block(0.6)]))
    assert found[0].startswith("In 1 of 3 blocks the two networks are more alike")
    assert "in 1 (block3) less alike; in 1 it can't be told." in found[0]
    assert "Least alike is block3, CKA 0.20 (0.15 to 0.25); most alike block1, CKA 0.90" in found[1]
    assert "first block was kept better than the last" in found[2]


def test_overlapping_ends_are_not_ordered():
    found = findings.sentences(result([block(0.9, 0.2), block(0.8, 0.2)], [block(0.1), block(0.1)]))
    assert "do not differ beyond their intervals" in found[2]
    assert found[0].endswith("their 95 % intervals over patients apart.")


def test_without_intervals_nothing_is_claimed():
    flat = dict(cka=0.9, low=math.nan, high=math.nan)
    found = findings.sentences(result([flat, flat], [flat, flat]))
    assert "too few patients" in found[0]
    assert "can't be told" in found[2]


def over(mean, half=0.05):
    return dict(mean=mean, low=mean - half, high=mean + half)


def over_seeds(*, n=3, half=0.05):
    """Two blocks, the first above both baselines, the second above none; one property that got better, one worse."""
    one = {"block1": dict(cka=over(0.9, half), random=0.6, two_seeds=0.7)}
    layers = one | {"block2": dict(cka=over(0.5, half), random=0.48, two_seeds=0.49)}
    units = {k: dict(share=over(v, half), chance=over(0.1, half)) for k, v in (("block1", 0.8), ("block2", 0.3))}
    responds = {k: dict(kept=over(v, half), random=0.2) for k, v in (("bone", 0.4), ("air", 0.6), ("mean", 0.22))}
    read = {
        k: dict(before=over(0.5, half), after=over(0.5 + d, half), difference=over(d, half), p_holm=p)
        for k, d, p in (("bone", 0.3, 0.01), ("air", -0.2, 0.04), ("mean", 0.4, 0.06))
    }
    return dict(n=n, starts=n, layers=layers, units=units, block="block1", responds=responds, read=read)


def test_over_seeds():
    assert findings.of_seeds(dict(over_seeds=over_seeds(), continued=True)) == [
        "Over 3 seeds the least alike block is block2, mean CKA 0.50 (0.45 to 0.55). Before and after are more alike "
        "than two random networks in 1 of 2 blocks, and than any two seeds of what was fine-tuned in 1.",
        "Of the last block's units 0.30 (0.25 to 0.35) give the same before and after; of pairs of two different units "
        "0.10 are as alike.",
        "The deepest block that kept at least half of its units is block1, 0.80 (0.75 to 0.85).",
        "The units that it kept follow these more closely than those of a random network do (mean squared rank "
        "correlation): air (0.60 (0.55 to 0.65), random 0.20), bone (0.40 (0.35 to 0.45), random 0.20).",
        "Over 3 seeds these are read better from the last block after than before: bone (R² 0.80, before 0.50).",
        "Over 3 seeds these are read worse from the last block after than before: air (R² 0.30, before 0.50).",
    ]
    one_start = findings.of_seeds(dict(over_seeds=over_seeds() | dict(starts=1), continued=True))
    assert "what another pretraining would give is not known" in one_start[1]


def test_one_pair_has_no_interval_over_seeds():
    found = findings.of_seeds(dict(over_seeds=over_seeds(n=1, half=math.nan), continued=True))
    assert found[0] == "One pair of networks: how much another seed would differ is not known."
    assert "units 0.30 give the same" in found[1]
    assert len(found) == 4
    none = findings.of_seeds(dict(over_seeds=over_seeds(n=1) | dict(block="", responds={}), continued=True))
    assert none[2:] == ["No block kept half of its units."]
    assert findings.of_seeds(dict(over_seeds=None, continued=True)) == []


def test_architectures_that_differ_and_blocks_that_are_constant():
    assert "different architectures" in findings.sentences(dict(pairs=[]))[0]
    nothing = dict(cka=math.nan, low=math.nan, high=math.nan)
    assert findings.sentences(result([nothing], [nothing])) == [
        "No block of the two networks has a defined similarity."
    ]


def test_properties_that_changed():
    def read(**r2):
        return {"last": {"read": {k: dict(r2=v, low=v - 0.1, high=v + 0.1) for k, v in r2.items()}}}

    networks = dict(a=read(bone=0.2, mean=0.9, same=0.5), b=read(bone=0.8, mean=0.3, same=0.5))
    found = findings.of_properties(dict(read=dict(networks=networks), continued=True, over_seeds=None))
    assert found == [
        "From the last block these are read better after than before: bone (R² 0.80, before 0.20).",
        "From the last block these are read worse after than before: mean (R² 0.30, before 0.90).",
    ]
    networks = dict(a=read(same=0.5), b=read(same=0.5), random=read(same=0.1))
    found = findings.of_properties(dict(read=dict(networks=networks), continued=True, over_seeds=None))
    assert found[0].startswith("No property is read better or worse")
    assert found[1].endswith("random network: same.")
    found = findings.of_properties(dict(read=dict(networks=networks), continued=True, over_seeds=dict(n=2)))
    assert found == [
        "Of the first pair: read better from the last block after than from that of a random network: same."
    ]


def test_networks_of_which_none_went_on_from_the_other_are_not_before_and_after():
    def read(**r2):
        return {"last": {"read": {k: dict(r2=v, low=v - 0.1, high=v + 0.1) for k, v in r2.items()}}}

    apart = dict(continued=False)
    found = result([block(0.9), block(0.2)], [block(0.6), block(0.6)]) | apart
    assert findings.sentences(found)[2].startswith("The first block is more alike than the last: 0.90")
    several = over_seeds() | dict(units={}, block="", responds={}, starts=1)
    assert findings.of_seeds(apart | dict(over_seeds=several)) == [
        "Over 3 seeds the least alike block is block2, mean CKA 0.50 (0.45 to 0.55). a and b are more alike than two "
        "random networks in 1 of 2 blocks, and than any two seeds of b in 1.",
        "Over 3 seeds these are read better from the last block in b than in a: bone (R² 0.80, in a 0.50).",
        "Over 3 seeds these are read worse from the last block in b than in a: air (R² 0.30, in a 0.50).",
    ]
    networks = dict(a=read(bone=0.2), b=read(bone=0.8), random=read(bone=0.1))
    assert findings.of_properties(apart | dict(read=dict(networks=networks), over_seeds=None)) == [
        "From the last block these are read better in b than in a: bone (R² 0.80, in a 0.20).",
        "Read better from the last block in b than from that of a random network: bone.",
    ]
