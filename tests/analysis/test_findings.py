"""Sentences say what the numbers say, and no more."""

import math

from radnet_jax.analysis import findings


def block(cka, half=0.05):
    return dict(cka=cka, low=cka - half, high=cka + half)


def result(main, baseline, *, seeds=None):
    names = [f"block{i}" for i in range(1, len(main) + 1)]
    pairs = [
        dict(what="before and after", layers=dict(zip(names, main))),
        dict(what=findings.RANDOM, layers=dict(zip(names, baseline))),
    ]
    return dict(pairs=pairs, seeds=seeds)


def test_kept_changed_and_unsure():
    found = findings.sentences(result([block(0.9), block(0.62), block(0.2)], [block(0.6), block(0.6), block(0.6)]))
    assert found[0].startswith("In 1 of 3 blocks the two networks are more alike")
    assert "in 1 (block3) less alike; in 1 it can't be told." in found[0]
    assert "Least alike is block3, CKA 0.20 (0.15 to 0.25); most alike block1, CKA 0.90" in found[1]
    assert "first block was kept better than the last" in found[2]
    assert "how much another seed would differ is not known" in found[3]


def test_overlapping_ends_are_not_ordered():
    found = findings.sentences(result([block(0.9, 0.2), block(0.8, 0.2)], [block(0.1), block(0.1)]))
    assert "do not differ beyond their intervals" in found[2]
    assert found[0].endswith("their 95 % intervals over patients apart.")


def test_without_intervals_nothing_is_claimed():
    flat = dict(cka=0.9, low=math.nan, high=math.nan)
    found = findings.sentences(result([flat, flat], [flat, flat]))
    assert "too few patients" in found[0]
    assert "can't be told" in found[2]


def test_over_seeds():
    seeds = {"block1": dict(n=3, mean=0.9, low=0.8, high=1.0), "block2": dict(n=3, mean=0.5, low=0.4, high=0.6)}
    found = findings.sentences(result([block(0.9), block(0.5)], [block(0.1), block(0.1)], seeds=seeds))
    assert found[3] == "Over 3 seeds the least alike block is block2, mean CKA 0.50 (0.40 to 0.60)."


def test_architectures_that_differ_and_blocks_that_are_constant():
    assert "different architectures" in findings.sentences(dict(pairs=[], seeds=None))[0]
    nothing = dict(cka=math.nan, low=math.nan, high=math.nan)
    assert findings.sentences(result([nothing], [nothing])) == [
        "No block of the two networks has a defined similarity."
    ]


def test_properties_that_changed():
    def read(**r2):
        return {"last": {"read": {k: dict(r2=v, low=v - 0.1, high=v + 0.1) for k, v in r2.items()}}}

    networks = dict(a=read(bone=0.2, mean=0.9, same=0.5), b=read(bone=0.8, mean=0.3, same=0.5))
    found = findings.of_properties(dict(read=dict(networks=networks)))
    assert found == [
        "From the last block these are read better after than before: bone (R² 0.80, before 0.20).",
        "From the last block these are read worse after than before: mean (R² 0.30, before 0.90).",
    ]
    networks = dict(a=read(same=0.5), b=read(same=0.5), random=read(same=0.1))
    found = findings.of_properties(dict(read=dict(networks=networks)))
    assert found[0].startswith("No property is read better or worse")
    assert found[1].endswith("random network: same.")
