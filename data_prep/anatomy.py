"""Anatomy-like CT slices of six body regions, drawn from ellipses with the Hounsfield units of organs.

Made to be hard in the way that real slices are hard: the outline of the body is much the same in all regions, the
field of view turns, shifts, mirrors and zooms, fat and muscle vary, contrast medium comes and goes. What tells the
regions apart is the arrangement of organs and bones inside. Coordinates: the body's half-width is about 1, x to the
right, y to the back; `t` in [0, 1] runs along the region.
"""

from __future__ import annotations

from collections.abc import Callable
import math

from data_prep.ct_canvas import AIR, Canvas, Draws

LUNG, FAT, MUSCLE = -850.0, -95.0, 55.0


def _bump(t: float, centre: float, half: float) -> float:
    """Half-axis factor of a rounded organ that is `half` long on each side of `centre`; 0 outside."""
    return math.sqrt(max(0.0, 1 - ((t - centre) / half) ** 2))


def _bone(p: Draws) -> float:
    return p(450, 950)


def _vertebra(c: Canvas, p: Draws, x: float, y: float, r: float, t: float, process: float = 1.0) -> None:
    """Body, canal, pedicles, processes and (between vertebrae) the disc; r is the half-width of the body."""
    cortex, spongy, disc = _bone(p), p(140, 260), p(70, 110)
    phase, flat = p(0, 1), p(0.7, 0.9)
    level = (t * 3 + phase) % 1.0
    spread = p(0.9, 1.2)
    if level < 0.7:
        for side in (-1, 1):
            c.blob(x + side * 0.75 * r, y + 1.25 * r, 0.28 * r, 0.6 * r, cortex, turn=side * 0.3)
            if level < 0.5:
                c.blob(
                    x + side * 1.35 * r * spread,
                    y + 1.5 * r,
                    0.75 * r * process,
                    0.2 * r,
                    cortex * 0.8,
                    turn=side * 0.3,
                )
    c.blob(x, y + 2.1 * r, 0.22 * r, (0.85 if level < 0.5 else 0.5) * r, cortex * 0.8)
    for side in (-1, 1):
        c.blob(x + side * 0.45 * r, y + 1.75 * r, 0.5 * r, 0.2 * r, cortex, turn=side * 0.6)
    c.blob(x, y + 1.2 * r, 0.48 * r, 0.42 * r, FAT / 2)
    c.blob(x, y + 1.2 * r, 0.3 * r, 0.26 * r, 35)
    if level < 0.75:
        c.ring(x, y, r, flat * r, 0.13 * r, cortex, spongy)
    else:
        c.blob(x, y, r, flat * r, disc)


def _trunk(c: Canvas, p: Draws, aspect: float) -> tuple[float, float]:
    """Skin, fat and the muscle wall; returns the half-axes of the space inside."""
    fat, wall, wave = p(0.04, 0.2), p(0.05, 0.1), p.wave()
    muscle = p(35, 65)
    c.blob(0, 0, 1, aspect, 10, wave=wave, wobble=0.02)
    c.blob(0, 0, 0.985, aspect - 0.015, FAT + p(-12, 12), wave=wave, wobble=0.02)
    a, b = 1 - fat, aspect - fat * p(0.5, 1.0)
    c.blob(0, 0, a, b, muscle, wave=wave, wobble=0.025)
    return a - wall, b - wall


def head_neck(c: Canvas, p: Draws, t: float) -> None:
    """Brain in the skull, skull base and face with sinuses, neck with airway; seen from the neck (t=0) upward."""
    cut_low, cut_high = p(0.25, 0.4), p(0.5, 0.62)
    aspect, scalp = p(0.8, 1.1), p(0.03, 0.09)
    wave, bone = 0.6 * p.wave(), _bone(p)
    c.blob(0, 0, 1, aspect, 30, wave=wave, wobble=0.02)
    thick, brain = p(0.06, 0.11), p(28, 42)
    r = p(0.17, 0.22)
    airway, tube = p(0.1, 0.16), p(0.6, 1.0)
    vessel = p(40, 260)
    lesion = [p(-0.5, 0.5), p(-0.4, 0.4), p(0.06, 0.2), p(0.65, 0.95), p(0, 1)]
    ventricle, sinus = p(0.7, 1.3), p(0.6, 1.2)
    if t < cut_low:  # neck
        c.blob(0, 0, 0.97, aspect - 0.03, FAT, wave=wave, wobble=0.02)
        c.blob(0, 0.02, 0.88, aspect * 0.88, MUSCLE, wave=wave, wobble=0.04)
        c.blob(0, -0.35 * aspect, 0.45, 0.35 * aspect, FAT * 0.5, wave=wave, wobble=0.08)
        for side in (-1, 1):
            c.blob(side * 0.42, -0.18 * aspect, 0.11, 0.11, vessel)
            c.blob(side * 0.56, -0.1 * aspect, 0.13, 0.09, vessel * 0.8)
            c.blob(side * 0.24, -0.42 * aspect, 0.13, 0.2, 110 if tube > 0.8 else 70, turn=side * 0.3)
            c.blob(side * 0.75, -0.1 * aspect, 0.1, 0.4, MUSCLE + 10, turn=side * 0.4)
        c.ring(0, -0.42 * aspect, airway + 0.04, airway * tube + 0.04, 0.04, 120, AIR)
        _vertebra(c, p, 0, 0.15 * aspect, r, t * 2, 0.7)
    elif t < cut_high:  # face and skull base
        c.blob(0, 0, 0.96, aspect - 0.04, FAT * 0.7, wave=wave, wobble=0.02)
        c.blob(0, 0.05, 0.87, aspect * 0.86, MUSCLE - 10, wave=wave, wobble=0.04)
        c.ring(0, 0.5 * aspect, 0.62, 0.42 * aspect, thick, bone, brain, wave=wave, wobble=0.03)
        for side in (-1, 1):
            c.ring(side * 0.36, -0.42 * aspect, 0.22 * sinus, 0.24 * sinus, 0.04, bone * 0.8, AIR)
            c.blob(side * 0.62, 0.22 * aspect, 0.2, 0.11, bone, turn=side * 0.7)
            c.blob(side * 0.63, 0.24 * aspect, 0.09, 0.05, -500, turn=side * 0.7)
            c.blob(side * 0.7, -0.12 * aspect, 0.06, 0.3, bone, turn=side * 0.3)
        c.blob(0, -0.45 * aspect, 0.1, 0.36 * aspect, AIR)
        c.blob(0, -0.45 * aspect, 0.02, 0.36 * aspect, bone * 0.6)
        c.blob(0, -0.02 * aspect, 0.15, 0.1, AIR if tube > 0.75 else MUSCLE)
    else:  # brain
        top = _bump(t, cut_high, 1.2 - cut_high)
        c.blob(0, 0, 0.99, aspect - 0.01, 20, wave=wave, wobble=0.02)
        c.blob(0, 0, 0.99 - scalp, aspect - scalp, bone, wave=wave, wobble=0.02)
        a, b = 0.99 - scalp - thick, aspect - scalp - thick
        c.blob(0, 0, a, b, brain, wave=wave, wobble=0.02, mask="brain")
        c.blob(0, 0, 0.82 * a, 0.84 * b, brain - 8, wave=wave, wobble=0.05, mask="brain")
        for side in (-1, 1):
            c.blob(side * 0.3 * a, -0.05 * b, 0.14 * a, 0.2 * b, brain + 2, mask="brain")
            c.blob(side * 0.14 * a, -0.25 * b, 0.06 * ventricle, 0.22 * b * top, 8, turn=-side * 0.25)
            c.blob(side * 0.22 * a, 0.28 * b, 0.06 * ventricle, 0.2 * b * top, 8, turn=side * 0.35)
        c.blob(0, 0, 0.012, b, 60, mask="brain")
        x, y, radius, where, kind = lesion
        radius *= _bump(t, where, 0.15)
        c.blob(x * a, y * b, radius, radius, 68 if kind < 0.5 else 15, mask="brain_lesion")  # bleeding or infarct


def thorax(c: Canvas, p: Draws, t: float) -> None:
    """Two lungs around heart or great vessels, ribs, sternum, spine; from the diaphragm (t=0) to the apex."""
    a, b = _trunk(c, p, p(0.7, 0.95))
    bone, vessel, wave_l, wave_r = _bone(p), p(45, 300), p.wave(), p.wave()
    lung, full = LUNG + p(-40, 90), p(0.72, 1.0)
    size = full * (0.62 + 0.38 * _bump(t, 0.35, 0.75))
    dome, liver = p(0.05, 0.3), p(50, 110)
    for side, wave in ((-1, wave_l), (1, wave_r)):
        c.blob(
            side * 0.5 * a,
            0.02,
            0.46 * a * size,
            0.86 * b * size,
            lung,
            turn=side * 0.12,
            wave=wave,
            wobble=0.03,
            mask="lung",
        )
    effusion, consolidated = p(-0.6, 0.35), p(-0.5, 0.3)
    side = 1 if p.chance(0.5) else -1
    if effusion > 0:
        c.blob(side * 0.5 * a, 0.7 * b, 0.42 * a, effusion * b, 12)
    if consolidated > 0:
        c.blob(-side * 0.55 * a, 0.2 * b, consolidated, consolidated, -150, wave=wave_l, wobble=0.12, mask="lung")
    if t < dome:
        c.blob(
            -0.48 * a, -0.02, 0.38 * a * _bump(t, 0, dome), 0.6 * b * _bump(t, 0, dome), liver, wave=wave_l, wobble=0.05
        )
    for x, y, r in [(p(-0.8, 0.8), p(-0.7, 0.7), p(0.01, 0.03)) for _ in range(8)]:
        c.blob(x * a * 0.9, y * b * 0.8, r, r, 20)
    for _ in range(int(p(0, 3.99))):
        nodule_side, x, y, where, r = p(-1, 1), p(0.4, 0.7), p(-0.4, 0.4), p(0, 1), p(0.03, 0.1)
        r *= _bump(t, where, 0.25)
        c.blob(math.copysign(x, nodule_side) * a, y * b, r, r, 35, mask="lung_nodule")
    heart, tilt = p(0.34, 0.46), p(0.3, 0.7)
    centre = p(0.05, 0.15)
    c.blob(0, 0.1 * b, 0.17 * a, 0.78 * b, FAT * 0.3, wave=wave_r, wobble=0.08)
    if t < 0.55:
        h = heart * _bump(t, 0.2, 0.5)
        c.blob(centre, -0.22 * b, h + 0.03, h * 0.78 + 0.03, FAT * 0.6, turn=tilt, wave=wave_l, wobble=0.03)
        c.blob(centre, -0.22 * b, h, h * 0.75, 60, turn=tilt, wave=wave_l, wobble=0.03)
        c.blob(centre + 0.3 * h, -0.2 * b, h * 0.4, h * 0.3, vessel, turn=tilt)
        c.blob(centre - 0.45 * h, -0.25 * b, h * 0.35, h * 0.35, vessel * 0.9, turn=tilt)
    else:
        c.blob(-0.09, -0.28 * b, 0.12, 0.12, vessel)
        c.blob(0.1, -0.18 * b, 0.2 * _bump(t, 0.6, 0.25), 0.09, vessel * 0.8, turn=0.5)
    c.blob(0.2 * a, 0.38 * b, 0.085, 0.085, vessel)
    if t > 0.45:
        for x in (-0.1, 0.1) if t < 0.6 else (0.0,):
            c.blob(x, 0.1 * b, 0.055, 0.055, AIR)
    _vertebra(c, p, 0, 0.62 * b, p(0.13, 0.17), t, 1.0)
    phase, arms = p(0, 0.5), p.chance(0.3)
    for k in range(14):  # ribs cross the slice at an angle, so each is seen as a short arc
        angle = (k + phase + 0.6 * t) / 14 * 2 * math.pi
        if abs(math.sin(angle) - 1) > 0.12 and abs(math.sin(angle) + 1) > 0.1:
            c.blob(1.03 * a * math.cos(angle), 1.03 * b * math.sin(angle), 0.035, 0.11, bone * 0.7, turn=angle + 0.25)
    c.blob(0, -1.0 * b, 0.14, 0.04, bone * 0.5)
    if arms:
        for side in (-1, 1):
            _limb(c, p, side * 1.28, 0.1, 0.24, 0.24, 1)


def abdomen(c: Canvas, p: Draws, t: float) -> None:
    """Liver, spleen, stomach, kidneys, bowel and great vessels before a small spine; from below (t=0) to the dome."""
    a, b = _trunk(c, p, p(0.7, 0.95))
    c.blob(0, 0, a, b, FAT + 10, wave=p.wave(), wobble=0.03)
    liver, vessel = p(45, 115), p(40, 240)
    waves = [p.wave() for _ in range(4)]
    size = _bump(t, 0.8, 0.75)
    tumour = [(p(-0.7, -0.25), p(-0.5, 0.4), p(0.4, 1.0), p(0.05, 0.17), p(-45, 60)) for _ in range(3)]
    n_tumours = int(p(0, 3.99))
    c.blob(
        -0.46 * a,
        -0.08 * b,
        0.52 * a * size,
        0.72 * b * size,
        liver,
        turn=0.3,
        wave=waves[0],
        wobble=0.04,
        mask="liver",
    )
    if t > 0.5:
        c.blob(
            -0.02, -0.5 * b, 0.5 * a * size, 0.26 * b * size, liver, turn=0.15, wave=waves[1], wobble=0.04, mask="liver"
        )
    for x, y in ((-0.5, -0.2), (-0.35, 0.1), (-0.62, 0.15)):
        c.blob(x * a, y * b, 0.03 * size, 0.05 * size, liver + 0.3 * vessel, turn=x * 5, mask="liver")
    for x, y, where, r, contrast in tumour[:n_tumours]:
        r *= _bump(t, where, 0.2)
        if size > 0.4:
            c.blob(
                x * a * size, y * b * size, r, r, liver - 35 if contrast < 20 else liver + contrast, mask="liver_lesion"
            )
    gas, meal = p(0, 1), p(10, 180)
    if t > 0.45:
        s = _bump(t, 0.85, 0.5)
        c.blob(0.42 * a, -0.36 * b, 0.34 * a * s, 0.34 * b * s, 60, wave=waves[2], wobble=0.05)
        c.blob(0.42 * a, -0.36 * b, 0.31 * a * s, 0.3 * b * s, meal, wave=waves[2], wobble=0.05)
        if gas < 0.6:
            c.blob(0.42 * a, -0.48 * b, 0.26 * a * s, 0.16 * b * s, AIR)
        s = _bump(t, 0.8, 0.35)
        c.blob(0.74 * a, 0.18 * b, 0.17 * a * s, 0.4 * b * s, p(50, 120), turn=-0.25, wave=waves[3], wobble=0.05)
    else:
        p(0, 1)
    enhanced = p(35, 200)
    for side, where in ((-1, p(0.25, 0.45)), (1, p(0.35, 0.55))):
        s = _bump(t, where, 0.35)
        c.blob(side * 0.46 * a, 0.42 * b, 0.17 * s + 0.02 * (s > 0), 0.22 * s, enhanced, turn=side * 0.5)
        c.blob(side * 0.4 * a, 0.4 * b, 0.08 * s, 0.12 * s, FAT if enhanced < 120 else 20, turn=side * 0.5)
    loops = [(p(-0.8, 0.8), p(-0.75, 0.15), p(0.09, 0.17), p(0.08, 0.14), p(0, 3), p(0, 1)) for _ in range(11)]
    for k, (x, y, u, v, turn, filling) in enumerate(loops):
        if t < 0.45 or (k < 4 and t < 0.7):
            c.blob(x * a, y * b, u, v, 55, turn=turn)
            c.blob(x * a, y * b, u - 0.03, v - 0.03, AIR + 150 if filling < 0.3 else 20 + 60 * filling, turn=turn)
    c.blob(0.06, 0.34 * b, 0.085, 0.085, vessel)
    c.blob(-0.14, 0.34 * b, 0.1, 0.075, vessel * 0.85)
    for side in (-1, 1):
        if t < 0.5:
            c.blob(side * 0.25, 0.58 * b, 0.12, 0.14, MUSCLE)
        c.blob(side * 0.26, 0.88 * b, 0.24, 0.13, MUSCLE - 5)
    _vertebra(c, p, 0, 0.57 * b, p(0.14, 0.18), t, 1.0)


def _limb(c: Canvas, p: Draws, x: float, y: float, a: float, b: float, bones: int, t: float = 0.5) -> None:
    """Skin, fat, muscle groups parted by fat, and one or two long bones with marrow."""
    fat, bone, wave, joint = p(0.05, 0.22), _bone(p), p.wave(), p(0, 1)
    muscle = p(40, 65)
    c.blob(x, y, a, b, 10, wave=wave, wobble=0.03)
    c.blob(x, y, a * 0.985, b * 0.985, FAT + p(-12, 12), wave=wave, wobble=0.03)
    inner = 1 - fat
    groups, turn = 3 + int(p(0, 3)), p(0, 6.28)
    c.blob(x, y, a * inner, b * inner, muscle, wave=wave, wobble=0.04)
    for k in range(groups):  # muscles of slightly different density, with fat between them
        angle = turn + 2 * math.pi * k / groups
        r, dx, dy = 0.55 * inner, a * math.cos(angle), b * math.sin(angle)
        c.blob(x + r * dx, y + r * dy, 0.36 * a, 0.3 * b, muscle + p(-12, 8), turn=angle, wave=wave, wobble=0.06)
        angle += math.pi / groups
        r, dx, dy = 0.66 * inner, a * math.cos(angle), b * math.sin(angle)
        c.blob(x + r * dx, y + r * dy, 0.28 * a * inner, 0.025, FAT + 20, turn=math.atan2(dy, dx))
    off, where, ratio = p(0, 0.25), p(0, 6.28), p(0.35, 0.6)
    vessel, thick = p(40, 200), p(0.14, 0.24)
    flare = max(0.0, 1 - abs(t - (0.0 if joint < 0.5 else 1.0)) / 0.35)  # shafts widen into spongy joint ends
    r = (thick + 0.3 * flare) * min(a, b)
    bx, by = x + a * off * math.cos(where), y + b * off * math.sin(where)
    wall = r * (0.42 - 0.3 * flare)
    c.ring(bx, by, r, r * 0.9, wall, bone, FAT * (1 - flare) + 200 * flare, wave=wave, wobble=0.04)
    if bones == 2:
        dx, dy = -a * 0.48 * math.cos(where), -b * 0.48 * math.sin(where)
        s = r * (ratio if flare < 0.3 else ratio * 0.8)
        c.ring(bx + dx, by + dy, s, s * 0.9, s * 0.42, bone, FAT * (1 - flare) + 200 * flare)
    if joint < 0.25 and flare > 0.2:
        c.blob(
            bx - r * 1.25 * math.cos(where),
            by - r * 1.25 * math.sin(where),
            r * 0.5,
            r * 0.25,
            bone * 0.7,
            turn=where + 1.57,
        )
    c.blob(x - a * 0.3 * math.cos(where + 1), y - b * 0.3 * math.sin(where + 1), 0.06 * a, 0.06 * a, vessel)


def extremities(c: Canvas, p: Draws, t: float) -> None:
    """One thick limb, or two side by side, with one or two long bones."""
    pair, bones = p.chance(0.35), 1 + p.chance(0.55)
    aspect = p(0.75, 1.0)
    if pair:
        gap = p(0.5, 0.56)
        for side in (-1, 1):
            _limb(c, p, side * gap, 0, 0.48, 0.48 * aspect + 0.1, bones, t)
    else:
        _limb(c, p, 0, 0, 1.0, aspect, bones, t)


def pelvis_hip(c: Canvas, p: Draws, t: float) -> None:
    """Iliac wings and sacrum above, femoral heads, acetabula, bladder and rectum below; from below (t=0) up."""
    a, b = _trunk(c, p, p(0.68, 0.92))
    bone, spongy = _bone(p), p(150, 280)
    wave, gluteus = p.wave(), p(0.3, 0.42)
    bladder, meal, gas = p(0.15, 0.34), p(0, 25), p(0, 1)
    change, tail = p(0.4, 0.6), p(0.1, 0.16)
    c.blob(0, -0.05, 0.72 * a, 0.75 * b, FAT + 10, wave=wave, wobble=0.03)
    for side in (-1, 1):
        c.blob(side * 0.58 * a, 0.66 * b, gluteus, 0.24, MUSCLE - 5, turn=-side * 0.7)
        c.blob(side * 0.34 * a, -0.35 * b, 0.13, 0.16, MUSCLE)
        c.blob(side * 0.42 * a, -0.6 * b, 0.055, 0.055, 60 + 120 * gas)
    loops = [(p(-0.4, 0.4), p(-0.55, 0.0), p(0.08, 0.14), p(0.07, 0.12), p(0, 3), p(0, 1)) for _ in range(6)]
    head, neck = p(0.17, 0.23), p(0.4, 0.9)
    if t > change:
        for x, y, u, v, turn, filling in loops:
            c.blob(x * a, y * b, u, v, 50, turn=turn)
            c.blob(x * a, y * b, u - 0.03, v - 0.03, AIR + 150 if filling < 0.25 else 20 + 50 * filling, turn=turn)
        reach = 0.5 + 0.5 * (t - change)
        for side in (-1, 1):
            c.ring(side * 0.56 * a, 0.14 * b, 0.085, 0.58 * b * reach, 0.035, bone, spongy, turn=side * 0.55)
            c.blob(side * 0.62 * a, 0.08, 0.11, 0.3 * b, MUSCLE, turn=side * 0.55) if t > 0.8 else None
        c.ring(0, 0.55 * b, 0.34 * a, 0.2 * b, 0.035, bone * 0.8, spongy * 0.7, wave=wave, wobble=0.06)
        c.blob(0, 0.68 * b, 0.1, 0.05, 20)
        for side in (-1, 1):
            c.blob(side * 0.17 * a, 0.52 * b, 0.03, 0.03, 20)
    else:
        size = _bump(t, change * 0.7, 0.6)
        c.blob(0, -0.3 * b, bladder * size * 1.2 + 0.03, bladder * size + 0.03, 40)
        c.blob(0, -0.3 * b, bladder * size * 1.2, bladder * size, meal)
        c.ring(0, 0.36 * b, 0.14, 0.13, 0.05, 50, AIR + 200 if gas < 0.4 else 30)
        c.blob(0, 0.7 * b, tail, 0.05, bone * 0.7)
        for side in (-1, 1):
            c.blob(side * 0.52 * a, 0.08, 0.07, 0.3 * b, bone * 0.9, turn=-side * 0.4)
            c.blob(side * 0.44 * a, -0.28 * b, 0.22, 0.06, bone * 0.8, turn=side * 0.35)
            c.blob(side * 0.69 * a, 0.02, head + 0.05, head + 0.05, MUSCLE)
            c.ring(side * 0.69 * a, 0.02, head, head, 0.03, bone, spongy + 60)
            if t < change * neck:
                c.ring(side * (0.69 * a + 0.2), 0.12, 0.17, 0.1, 0.03, bone, spongy, turn=side * 0.5)


def spine(c: Canvas, p: Draws, t: float) -> None:
    """A large vertebra in the middle of its muscles, with little of the organs before it."""
    aspect = p(0.75, 1.0)
    a, b = _trunk(c, p, aspect)
    r = p(0.2, 0.32)
    y = p(-0.2, 0.15)
    wave, level = p.wave(), p(0, 1)
    muscle, vessel, gas = p(30, 65), p(40, 200), p(0, 1)
    front = y - 0.95 * r
    c.blob(0, -0.75 * b, 0.85 * a, 0.35 * b, FAT if level < 0.6 else LUNG, wave=wave, wobble=0.04)
    if level >= 0.6:  # thoracic: lungs at the sides, heart and aorta in front
        for side in (-1, 1):
            c.blob(side * 0.72 * a, -0.25 * b, 0.24 * a, 0.5 * b, LUNG, turn=side * 0.3, wave=wave, wobble=0.03)
        c.blob(0, -0.8 * b, 0.4 * a, 0.25 * b, 60)
    else:
        c.blob(-0.3 * a, -0.75 * b, 0.25 * a, 0.16 * b, 50, wave=wave, wobble=0.08)
        c.blob(0.35 * a, -0.7 * b, 0.16 * a, 0.13 * b, AIR if gas < 0.4 else 40)
        for side in (-1, 1):
            c.blob(side * (r + 0.2), y + 0.1 * r, 0.17, 0.22, muscle)
    c.blob(0.12, front - 0.1, 0.1, 0.1, vessel)
    c.blob(-0.16, front - 0.08, 0.1, 0.08, vessel * 0.85)
    for side in (-1, 1):
        c.blob(side * 0.42 * a, y + 2.0 * r, 0.4 * a, 0.3 * b, muscle - 5, turn=-side * 0.2, wave=wave, wobble=0.03)
        c.blob(side * 0.42 * a, y + 2.0 * r, 0.03, 0.26 * b, FAT, turn=side * 0.5)
    _vertebra(c, p, 0, y, r, t, 1.0)


REGIONS: dict[str, Callable[[Canvas, Draws, float], None]] = {
    "head/neck": head_neck,
    "thorax": thorax,
    "abdomen": abdomen,
    "extremities": extremities,
    "pelvis/hip": pelvis_hip,
    "spine": spine,
}
