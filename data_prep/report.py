"""The report of a build: one HTML file that works offline, made of build.json and a few pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import math
from pathlib import Path
from typing import Any

from markupsafe import Markup

from data_prep.examples import MAX_CLASSES
from data_prep.page import number, percent, write_page
from data_prep.picture import OUTLINES
from data_prep.spec import SPLIT_NAMES
from data_prep.summary import UNLABELLED
from data_prep.tally import BINS, bin_width
from radnet_jax.data.card import DatasetCard

REPORT_FILE = "report.html"
_TOLD = 30  # classes in the open table; the rest is folded away
_STRUCTURES = 40
_COLOURS = {"train": "s0", "val": "s4", "test": "s1"}
_SERIES = {
    "without_positions": "without positions, ordered by their instance numbers",
    "uneven_gaps": "with uneven gaps (missing slices)",
    "shared_positions": "with several slices at one place",
    "sheared": "sheared (a tilted gantry)",
}


def write_report(
    out: Path, card: DatasetCard, build: Mapping[str, Any], pictures: Mapping[str, Sequence[str]], split: str
) -> None:
    """Writes report.html; the same build gives the same bytes.

    Args:
      out: the dataset's folder.
      card: of the dataset.
      build: what build.json holds.
      pictures: for each class the sources of <img> of its examples.
      split: from which they are.
    """
    build = dict(build) | {key: _in_order(build[key]) for key in ("summary", "pixels", "records")}
    summary = build["summary"]
    write_page(
        out / REPORT_FILE,
        "report.html.j2",
        card=card,
        summary=_sentence(card),
        colours=_COLOURS,
        tiles=_tiles(build),
        notes=list(_notes(card, build)),
        splits=[_split(name, of, card) for name, of in summary.items()],
        labels=_labels(card, summary),
        fractions=_fractions(build),
        histograms=[
            {"title": title, "svg": Markup(_histogram(card, lines)), "key": [(n, c) for n, c, _ in lines]}
            for title, lines in _panels(card, build["pixels"])
        ],
        structures=_structures(card, build),
        told=_STRUCTURES,
        patients=card.generated or not build["patients"]["nobody"],
        gallery=[{"name": name, "pictures": sources} for name, sources in pictures.items()],
        gallery_lead=_gallery_lead(card, build, pictures, split),
        geometry=[_geometry(title, key, summary) for title, key in _GEOMETRY],
        series=[(number(n), _SERIES[key]) for key, n in build["series"].items() if key in _SERIES and n],
        series_count=number(build["series"]["series"]),
        facts=_facts(summary),
        rejected=_rejected(build),
        settings=_settings(card, build),
    )


def _in_order(splits: Mapping[str, Any]) -> dict[str, Any]:
    return {name: splits[name] for name in SPLIT_NAMES if name in splits}


def _sentence(card: DatasetCard) -> str:
    stored = card.stored
    unit = "Hounsfield units" if stored.unit == "HU" else "values without a unit"
    low, high = stored.value_range
    size = " × ".join(map(str, stored.size))
    channels = "1 channel" if stored.channels == 1 else f"{stored.channels} channels"
    how = {
        "pad_area": "padded to a square, then resized by area averages",
        "stretch_area": "resized by area averages without keeping the aspect ratio",
        "none": "in the size of their files",
    }[stored.resize]
    values = f"{unit} from {low:g} to {high:g} as {stored.dtype}"
    return f"{stored.modality}, {size} px, {channels}, {values}; images were {how}."


def _tiles(build: Mapping[str, Any]) -> list[tuple[str, str]]:
    summary = build["summary"].values()
    out = [("records", number(sum(s["records"] for s in summary)))]
    if not build["patients"]["nobody"]:
        out.append(("patients", number(sum(s["patients"] for s in summary))))
    if series := build["series"]["series"]:
        out.append(("series", number(series)))
    return [*out, ("files read", number(build["files"])), ("files rejected", number(sum(build["rejected"].values())))]


def _notes(card: DatasetCard, build: Mapping[str, Any]) -> Iterator[str]:
    if card.generated:
        yield "The images are generated: they are of no patient."
    if note := build["patients"]["note"]:
        yield f"{note[0].upper()}{note[1:]}."
    if joined := build["patients"]["joined"]:
        yield f"{number(joined)} groups of linked studies name more than one patient; each group was taken for one."
    if left_out := build["left_out"]:
        yield f"{number(left_out)} files belong to official lists or folders of splits that were not asked for."
    if not_asked := build["not_asked"]["images"]:
        yield f"{number(not_asked)} images are not wanted by the options of the dataset, such as its views or slices."
    if plain := sum(s["plain"] for s in build["summary"].values()):
        yield f"{number(plain)} images are of one value, or nearly so; the audit can't tell them apart."
    if build["rejected"] and sum(build["rejected"].values()) > 0.1 * build["files"]:
        share = percent(sum(build["rejected"].values()), build["files"])
        yield f"{share} of the files were rejected: see below whether they should have been."


def _split(name: str, of: Mapping[str, Any], card: DatasetCard) -> dict[str, Any]:
    unlabelled = of["labels"].get(UNLABELLED, 0)
    return {
        "name": name,
        "records": number(of["records"]),
        "patients": number(of["patients"]),
        "series": number(of["series"]),
        "labelled": percent(of["records"] - unlabelled, of["records"]) if card.task == "single_label" else "",
    }


def _labels(card: DatasetCard, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The table of classes (share of a split's records) or of findings (share of the records where it is known)."""
    names = [*card.labels, *([UNLABELLED] if any(UNLABELLED in s["labels"] for s in summary.values()) else [])]
    shares = {}
    for name in names:
        counts = {split: s["labels"].get(name, 0) for split, s in summary.items()}
        wholes = {
            split: s["known"].get(name, 0) if card.task == "multi_label" else s["records"]
            for split, s in summary.items()
        }
        shares[name] = (counts, wholes)
    top = max((c[s] / w[s] for c, w in shares.values() for s in c if w[s]), default=0.0)
    rows = [
        {
            "name": name,
            "cells": [
                {
                    "n": number(counts[s]),
                    "share": percent(counts[s], wholes[s]),
                    "known": number(wholes[s]),
                    "colour": _COLOURS[s],
                    "width": f"{max(0.5, 100 * counts[s] / wholes[s] / top):.1f}" if counts[s] else "0",
                }
                for s in counts
            ],
        }
        for name, (counts, wholes) in shares.items()
    ]
    total = {name: sum(counts.values()) for name, (counts, _) in shares.items()}
    if len(rows) > _TOLD:
        rows.sort(key=lambda row: -total[str(row["name"])])
    classes = [total[name] for name in card.labels]
    return {
        "rows": rows[:_TOLD],
        "more": rows[_TOLD:],
        "lead": _labels_lead(card, classes),
        "all_known": all(w == summary[s]["records"] for _, wholes in shares.values() for s, w in wholes.items()),
    }


def _labels_lead(card: DatasetCard, counts: Sequence[int]) -> str:
    what = "finding" if card.task == "multi_label" else "class" if len(counts) == 1 else "classes"
    out = f"{number(len(counts))} {what}{'s' if what == 'finding' and len(counts) != 1 else ''}"
    if not any(counts):
        return f"{out}, but no image has any."
    if card.task == "multi_label":
        out += "; an image may have several. Shares are of the records where the finding is known"
    elif min(counts) == max(counts):
        out += f" of {number(counts[0])} image{'' if counts[0] == 1 else 's'} each"
    else:
        out += f"; the commonest has {number(max(counts))} images, the rarest {number(min(counts))}"
    empty = sum(1 for n in counts if not n)
    return f"{out}; {number(empty)} without any." if empty else f"{out}."


def _fractions(build: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "name": f"{100 * float(name):g} %",
            "patients": number(of["patients"]),
            "records": number(of["records"]),
            "asked": number(float(of["records_asked"])),
            "departure": percent(float(of["mix_departure"]), 1.0),
        }
        for name, of in sorted(build["subsets"].get("fractions", {}).items(), key=lambda item: -float(item[0]))
    ]


Line = tuple[str, str, list[int]]  # name, class of its colour, counts


def _panels(card: DatasetCard, pixels: Mapping[str, Any]) -> Iterator[tuple[str, list[Line]]]:
    """One panel with a line for each split; of colour images one for each split, with a line for each channel."""
    if card.stored.channels == 1:
        yield "", [(split, f"c-{_COLOURS[split]}", of["histogram"][0]) for split, of in pixels.items()]
        return
    names = ("red", "green", "blue") if card.stored.channels == 3 else ()
    for split, of in pixels.items():
        yield split, [(n, n, counts) for n, counts in zip(names, of["histogram"])]


def _histogram(card: DatasetCard, lines: Sequence[Line]) -> str:
    """The share of pixels in each bin, as an SVG element; heights are square roots, else air would hide the rest."""
    width, height, left, bottom = 720, 210, 44, 24
    low = card.stored.value_range[0]
    step = bin_width(card.stored)
    last = min(BINS, math.ceil((card.stored.value_range[1] - low + 1) / step))
    shares = {name: [n / max(1, sum(counts)) for n in counts[:last]] for name, _, counts in lines}
    top = max((max(s) for s in shares.values()), default=0.0) or 1.0
    x = [left + (width - left) * k / last for k in range(last + 1)]

    def y(share: float) -> float:
        return (height - bottom) * (1 - math.sqrt(share / top))

    parts = []
    for share in _ticks(top):
        parts.append(f'<line class="axis" x1="{left}" x2="{width}" y1="{y(share):.1f}" y2="{y(share):.1f}"/>')
        parts.append(f'<text x="{left - 6}" y="{y(share) + 4:.1f}" text-anchor="end">{100 * share:g} %</text>')
    for value in _values(card):
        at = left + (width - left) * (value - low) / (last * step)
        parts.append(f'<text x="{at:.1f}" y="{height - 6}" text-anchor="middle">{value:g}</text>')
        parts.append(
            f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{height - bottom}" y2="{height - bottom + 4}"/>'
        )
    for name, colour, _ in lines:
        path = "".join(f"H{x[k]:.1f}V{y(s):.1f}" for k, s in enumerate(shares[name]))
        parts.append(f'<path class="{colour}" d="M{left} {height - bottom}{path}H{x[-1]:.1f}"/>')
    unit = "Hounsfield units" if card.stored.unit == "HU" else "stored values"
    names = ", ".join(name for name, _, _ in lines)
    label = f"Histogram of {unit}, share of pixels on a square-root scale: {names}"
    return f'<svg class="plot" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _ticks(top: float) -> list[float]:
    """Shares to mark: the largest of 1, 2, 5, 10, ... % below the top, a quarter and a twentieth of it."""
    steps = [m * 10.0**-e for e in range(6, 0, -1) for m in (1, 2, 5)] + [1.0]
    largest = max((s for s in steps if s <= top), default=top)
    return [0.0, largest / 20, largest / 4, largest]


def _values(card: DatasetCard) -> list[float]:
    """Values to mark on the axis."""
    low, high = card.stored.value_range
    if card.stored.unit == "HU":
        return [v for v in (-1000, -500, 0, 500, 1000, 1500, 2000, 2500, 3000) if low <= v <= high]
    step = 10 ** math.floor(math.log10(high - low))
    step = step if (high - low) / step >= 4 else step / 2 if (high - low) / step >= 2 else step / 4
    first = math.ceil(low / step)
    return [k * step for k in range(first, math.floor(high / step) + 1)]


def _structures(card: DatasetCard, build: Mapping[str, Any]) -> list[dict[str, Any]]:
    pixels_of_an_image = card.stored.size[0] * card.stored.size[1]
    return [
        {
            "name": name,
            "colour": "#{:02x}{:02x}{:02x}".format(*OUTLINES[k % len(OUTLINES)]),
            "cells": [
                {
                    "images": number(of["masks"][k][0]),
                    "share": percent(of["masks"][k][0], build["records"][split]),
                    "pixels": percent(of["masks"][k][1], build["records"][split] * pixels_of_an_image),
                }
                for split, of in build["pixels"].items()
            ],
        }
        for k, name in enumerate(card.segmentation)
        if any(of["masks"][k][0] for of in build["pixels"].values())
    ]


def _gallery_lead(
    card: DatasetCard, build: Mapping[str, Any], pictures: Mapping[str, Sequence[str]], split: str
) -> str:
    shown = len(set(pictures) & set(card.labels))
    which = f"The {shown} commonest of {number(len(card.labels))} classes, " if shown >= MAX_CLASSES else "Examples "
    curve = ", seen as the mean of a soft-tissue and a lung window" if card.stored.unit == "HU" else ""
    out = f"{which}from {split}, as they are stored{curve}."
    if card.segmentation:
        out += " Structures are outlined."
    if not build["patients"]["nobody"]:
        out += (
            " These are patients' pixels: whoever may not see the records may not see this page. Text in the pixels is "
            "not looked for."
        )
        if n := build["rejected"].get("burned_in_annotation", 0):
            out += f" {number(n)} files that say of themselves that they have text burned in were left out."
    return out


_GEOMETRY = (
    ("Size of the files' images", "size"), ("Pixel spacing", "spacing"), ("Slice thickness", "thickness"),
)  # fmt: skip


def _geometry(title: str, key: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    unit = "rows × columns" if key == "size" else "mm, between rows × between columns" if key == "spacing" else "mm"
    rows = []
    for split, of in summary.items():
        table = of[key]
        rows.append(
            {
                "split": split,
                "known": percent(table["known"], of["records"]),
                "distinct": number(table["distinct"]),
                "extremes": [_value(table[name]) for name in ("smallest", "median", "largest")],
                "commonest": [f"{_value(v)} ({percent(n, table['known'])})" for v, n in table["commonest"][:3]],
            }
        )
    return {"title": title, "unit": unit, "rows": rows, "known": any(of[key]["known"] for of in summary.values())}


def _value(value: Sequence[float] | None) -> str:
    return "–" if value is None else " × ".join(number(v) for v in value)


def _facts(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    first = next(iter(summary.values()))
    out = []
    for name in first["facts"]:
        values = sorted({v for of in summary.values() for v in of["facts"][name]}, key=_by_number)
        rows = [
            (value, [(number(of["facts"][name].get(value, 0)), percent(of["facts"][name].get(value, 0), of["records"]))
                     for of in summary.values()])
            for value in values
        ]  # fmt: skip
        out.append({"name": name.replace("_", " "), "rows": rows})
    return out


def _by_number(text: str) -> tuple[float, str]:
    head = text.split("-")[0].rstrip("+")
    return (float(head), text) if head.isdigit() else (math.inf, text)


def _rejected(build: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    reasons = sorted(build["rejected"].items(), key=lambda item: (-item[1], item[0]))
    return [(reason.replace("_", " "), number(n), percent(n, build["files"])) for reason, n in reasons]


def _settings(card: DatasetCard, build: Mapping[str, Any]) -> list[tuple[str, str]]:
    options = build["request"]["options"]
    chosen = [f"{name} {value}" for name, value in sorted(options["dataset_options"].items())]
    fractions = ", ".join(f"{name} {value:g}" for name, value in options["split_fractions"].items())
    out = [
        ("Dataset", f"{card.name}, rules {card.version}, format {build['request']['format']}"),
        ("Fingerprint of the records", card.fingerprint),
        ("Fingerprint of the source", build["request"]["source"]),
        ("Salt of the ids", f"{build['salt']['kind']}, fingerprint {build['salt']['fingerprint']}"),
        ("Splits", f"{fractions}; seed {options['seed']}"),
        ("Options", "; ".join(chosen) or "the defaults"),
        ("Scaling", build["request"]["rules"].get("scaling", "")),
        ("Versions", ", ".join(f"{name} {version}" for name, version in build["versions"].items())),
    ]
    return [(key, value) for key, value in out if value]
