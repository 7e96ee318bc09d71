"""What building a dataset costs, and what it withstands: one JSON object a line for each question.

    python benchmarks/building.py                      # all of them, about 20 minutes on 2 cores
    python benchmarks/building.py --ask=speed --ask=codecs

speed       slices a second of one core, by the whole path (read, decode, rescale, resize, hash, encode, write) and by
            the way that a script of one's own takes, on the same files in turn
codecs      compressed files: the decoder called bare on the codestream, against file to Hounsfield units
processes   the same build by one and by two processes, and what that makes of 12 million slices (an extrapolation)
memory      highest memory of each process in a build of 2,000 and of 20,000 files
robust      1,000 files of which ten are bad in ten ways
resume      builds killed at random moments and started again, against one that was left alone

Other load on the machine lengthens everything; ratios are of neighbouring rounds, which meet the same load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import json
import logging
import os
from pathlib import Path
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import app, flags
from array_record.python import array_record_module
from ct_files import spoil, write_source
import cv2
import numpy as np
import pydicom
from pydicom.encaps import get_frame
from pydicom.uid import UID, JPEG2000Lossless, JPEGLSLossless, RLELossless
from tensorflow_datasets.core import example_serializer

from data_prep import pool
from data_prep.build import build
from data_prep.datasets.radnet import HU_RANGE, radnet
from data_prep.hashing import SALT_VARIABLE
from data_prep.ingest import dicom
from data_prep.shards import features

QUESTIONS = ("speed", "codecs", "processes", "memory", "robust", "resume")
_ASK = flags.DEFINE_multi_enum("ask", None, QUESTIONS, "Questions; all by default.")
_FILES = flags.DEFINE_integer("files", 1200, "Files of a build whose speed is measured.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed rounds of each side.")
_SIDE = flags.DEFINE_integer("side", 512, "Pixels a side of the raw slices.")
_SIZE = flags.DEFINE_integer("size", 224, "Pixels a side of the records.")
_MANY = flags.DEFINE_integer("many", 20_000, "Files of the larger build whose memory is measured.")
_KILLS = flags.DEFINE_integer("kills", 10, "Builds that are killed.")
_FOLDER = flags.DEFINE_string("folder", None, "Where files are written; a temporary folder by default.")
ROOT = Path(__file__).resolve().parent.parent
CORPUS = 12_000_000  # slices of the largest published corpus


def tell(question: str, **facts: Any) -> None:
    print(json.dumps({"question": question, **facts}), flush=True)


def naive_png(source: Path, paths: list[Path], out: Path) -> None:
    """A script of one's own: pydicom, rescale, window, area resize, 8-bit PNG."""
    del source
    for path in paths:
        data = pydicom.dcmread(path)
        hu = data.pixel_array.astype(np.float64) * float(data.RescaleSlope) + float(data.RescaleIntercept)
        shown = np.clip((hu + 160.0) / 400.0, 0.0, 1.0) * 255.0
        small = cv2.resize(shown, (_SIZE.value,) * 2, interpolation=cv2.INTER_AREA).astype(np.uint8)
        cv2.imwrite(str(out / "image.png"), small)


def naive_records(source: Path, paths: list[Path], out: Path) -> None:
    """The same script with what this project writes: int16 Hounsfield units in TFDS records, without header pass, plan,
    hashes, splits or manifest.
    """
    spec = radnet(source, _SIZE.value)
    described = features(spec)
    serializer = example_serializer.ExampleSerializer(described.get_serialized_info())
    writer = array_record_module.ArrayRecordWriter(str(out / "records"), "group_size:1")
    for path in paths:
        data = pydicom.dcmread(path)
        hu = data.pixel_array.astype(np.float64) * float(data.RescaleSlope) + float(data.RescaleIntercept)
        small = cv2.resize(hu, (_SIZE.value,) * 2, interpolation=cv2.INTER_AREA)
        image = np.clip(np.rint(small), *HU_RANGE).astype(np.int16)[..., None]
        example = {"image": image, "case_id": str(data.SOPInstanceUID), "patient": str(data.PatientID), "label": 0}
        writer.write(serializer.serialize_example(described.encode_example(example)))
    writer.close()


def processor_seconds() -> float:
    """Of this process and the workers that it keeps."""
    seconds = time.process_time()
    for worker in pool._idle:
        fields = Path(f"/proc/{worker.process.pid}/stat").read_text().rpartition(")")[2].split()
        seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


class Timed:
    """Times a build: seconds by the clock and of the processors, and those of the phases that the log names."""

    def __init__(self, source: Path, out: Path, workers: int):
        start, used = time.perf_counter(), processor_seconds()
        self.lines: list[str] = []
        build(
            "radnet", source, out, size=_SIZE.value, splits=("train",), workers=workers, log=self.lines.append
        )  # fmt: skip
        self.clock, self.processors = time.perf_counter() - start, processor_seconds() - used
        self.headers, self.pixels = self._phase("headers of"), self._phase("pixels of")

    def _phase(self, name: str) -> float:
        (line,) = (line for line in self.lines if name in line)
        return float(line.split()[-2])


def ask_speed(folder: Path) -> None:
    """A build of n files and one of n / 4: their difference is what slices cost, the rest what a build costs."""
    large = write_source(folder / "large", _FILES.value, _SIDE.value)
    small = write_source(folder / "small", _FILES.value // 4, _SIDE.value)
    paths = sorted(large.rglob("*.dcm"))[:256]
    Timed(small, folder / "warm", 1)  # workers start, files are in memory
    sides: dict[str, list[float]] = {"png": [], "records": [], "here": [], "build": []}
    for number in range(_ROUNDS.value):
        for name, naive in (("png", naive_png), ("records", naive_records)):
            start = time.process_time()
            naive(large, paths, folder)
            sides[name].append((time.process_time() - start) / len(paths))
        costs = []
        for which, source in (("large", large), ("small", small)):
            costs.append(Timed(source, folder / f"{which}{number}", 1).processors)
            size = sum(p.stat().st_size for p in (folder / f"{which}{number}").glob("*.array_record-*"))
            shutil.rmtree(folder / f"{which}{number}")
            if which == "large":
                record_kb = size / _FILES.value / 1024
        each = (costs[0] - costs[1]) / (_FILES.value - _FILES.value // 4)
        sides["here"].append(each)
        sides["build"].append(costs[0] - each * _FILES.value)
    median = {name: statistics.median(values) for name, values in sides.items()}
    ratios = {
        name: statistics.median(theirs / ours for theirs, ours in zip(sides[name], sides["here"]))
        for name in ("png", "records")
    }
    tell(
        "speed",
        what=f"{_SIDE.value} to {_SIZE.value} px, uncompressed CT, slices a second of one core",
        slices_per_s={name: round(1 / median[name]) for name in ("here", "png", "records")},
        ratio_to_png_script=round(ratios["png"], 2),
        ratio_to_records_script=round(ratios["records"], 2),
        seconds_of_a_build_beside_its_slices=round(median["build"], 2),
        kb_per_record=round(record_kb, 1),
    )


def _decoders(syntax: UID) -> dict[str, Callable[[bytes], Any]]:
    """Decoders of one frame, called bare."""
    import jpeg_ls
    import libjpeg.utils
    import openjpeg.utils
    import rle.utils

    return {
        JPEGLSLossless: {"pyjpegls": jpeg_ls.decode_buffer, "pylibjpeg": libjpeg.utils.decode},
        JPEG2000Lossless: {"pylibjpeg-openjpeg": lambda data: openjpeg.utils.decode_pixel_data(data, version=2)},
        RLELossless: {"pylibjpeg-rle": lambda data: rle.utils.decode_frame(data, _SIDE.value**2, 16, "<")},
    }[syntax]


def ask_codecs(folder: Path) -> None:
    for name, syntax in (("JPEG-LS", JPEGLSLossless), ("JPEG 2000", JPEG2000Lossless), ("RLE", RLELossless)):
        source = write_source(folder / name, 16, _SIDE.value, syntax)
        paths = sorted(source.rglob("*.dcm"))
        frames = [get_frame(pydicom.dcmread(path).PixelData, 0, number_of_frames=1) for path in paths]
        decoders = _decoders(syntax)
        seconds: dict[str, list[float]] = {decoder: [] for decoder in (*decoders, "here", "pydicom")}
        for _ in range(_ROUNDS.value + 1):
            for decoder, decode in decoders.items():
                seconds[decoder].append(_each(decode, frames))
            seconds["here"].append(_each(lambda path: dicom.read_hu(path, HU_RANGE), paths))
            seconds["pydicom"].append(_each(lambda path: pydicom.dcmread(path).pixel_array, paths))
        rounds = {key: values[1:] for key, values in seconds.items()}  # the first one warms up
        fastest = min(decoders, key=lambda key: statistics.median(rounds[key]))
        share = statistics.median(bare / here for bare, here in zip(rounds[fastest], rounds["here"]))
        tell(
            "codecs",
            codec=name,
            what="ms a slice: decoders bare, and file to Hounsfield units here",
            ms={key: round(1e3 * statistics.median(values), 2) for key, values in rounds.items()},
            fastest=fastest,
            speed_of_the_fastest=round(share, 2),
        )


def _each(function: Callable[[Any], Any], items: list[Any]) -> float:
    start = time.process_time()
    for item in items:
        function(item)
    return (time.process_time() - start) / len(items)


def ask_processes(folder: Path) -> None:
    """Wall clock of a build's two phases by one and two processes, in turn; what is left at the end is done by one.

    Where others use the machine, the clock says little; the processor time of two against one tells what they cost each
    other.
    """
    files = max(_FILES.value, 2048)  # eight shards
    source = write_source(folder / "source", files, _SIDE.value)
    Timed(source, folder / "warm", 2)
    rounds: dict[int, list[Timed]] = {1: [], 2: []}
    for number in range(_ROUNDS.value):
        for workers in rounds:
            rounds[workers].append(Timed(source, folder / f"{workers}.{number}", workers))
            shutil.rmtree(folder / f"{workers}.{number}")

    def median(value: Callable[[Timed], float], workers: int) -> float:
        return statistics.median(map(value, rounds[workers]))

    header, pixel = (median(lambda t: t.headers, 1) / files, median(lambda t: t.pixels, 1) / files)
    rest = median(lambda t: t.clock - t.headers - t.pixels, 1)
    gain = [
        statistics.median(value(one) / value(two) for one, two in zip(*rounds.values()))
        for value in (lambda t: t.headers, lambda t: t.pixels, lambda t: t.headers + t.pixels, lambda t: t.clock)
    ]
    tell(
        "processes",
        what=f"{files} slices of {_SIDE.value} to {_SIZE.value} px, two processes against one",
        header_ms_per_file=round(1e3 * header, 3),
        pixel_ms_per_slice=round(1e3 * pixel, 3),
        seconds_at_the_end=round(rest, 2),
        gain_headers=round(gain[0], 2),
        gain_pixels=round(gain[1], 2),
        gain_both=round(gain[2], 2),
        gain_whole_build=round(gain[3], 2),
        processor_time_of_two=round(median(lambda t: t.processors, 2) / median(lambda t: t.processors, 1), 2),
    )
    efficiency = gain[2] / 2
    tell(
        "extrapolation",
        what=f"{CORPUS} slices from the line above: N (header + pixel) / (cores x efficiency of two); not measured",
        hours={cores: round(CORPUS * (header + pixel) / (cores * efficiency) / 3600, 1) for cores in (1, 16, 64, 256)},
        core_hours=round(CORPUS * (header + pixel) / 3600, 1),
    )


_MEMORY = """
import json, resource, sys
from pathlib import Path
from data_prep import pool
from data_prep.build import build
source, out, workers = sys.argv[1:]
build("radnet", source, out, size=64, workers=int(workers), log=lambda line: None)
peaks = [
    int(line.split()[1]) / 1024
    for worker in pool._idle
    for line in Path(f"/proc/{worker.process.pid}/status").read_text().splitlines()
    if line.startswith("VmHWM")
]
print(json.dumps([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, peaks]))
"""


def ask_memory(folder: Path) -> None:
    peaks: dict[int, tuple[float, list[float]]] = {}
    for files in (_MANY.value // 10, _MANY.value):
        source = write_source(folder / f"source{files}", files, 64)
        command = [sys.executable, "-c", _MEMORY, str(source), str(folder / f"out{files}"), "2"]
        done = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True, check=True)
        peaks[files] = json.loads(done.stdout.splitlines()[-1])
        shutil.rmtree(source)
    few, many = peaks.values()
    tell(
        "memory",
        what=f"highest resident MiB, {' and '.join(str(n) for n in peaks)} files of 64 px, two workers",
        workers={files: [round(mb) for mb in found[1]] for files, found in peaks.items()},
        workers_grow_by=round(max(many[1]) / max(few[1]) - 1, 3),
        planner={files: round(found[0]) for files, found in peaks.items()},
        planner_grows_by=round(many[0] / few[0] - 1, 3),
    )


def ask_robust(folder: Path) -> None:
    source = write_source(folder / "source", 990, 128)
    expected = spoil(source)
    lines: list[str] = []
    build("radnet", source, folder / "out", size=64, splits=("train",), workers=2, log=lines.append)
    report = json.loads((folder / "out" / "build.json").read_text())
    tell(
        "robust",
        what="1000 files, ten of them bad in ten ways",
        records=report["records"]["train"],
        rejected=report["rejected"],
        as_expected=report["rejected"] == expected and report["records"]["train"] == 990,
    )


def ask_resume(folder: Path) -> None:
    """SIGKILL for the build and its workers at random moments until one run ends by itself."""
    source = write_source(folder / "source", 4000, 128)
    command = [sys.executable, "-m", "data_prep.build", "--dataset=radnet", f"--source={source}", "--size=96"]
    command.append("--workers=2")
    start = time.perf_counter()
    subprocess.run(
        [*command, f"--out={folder / 'whole'}"], cwd=ROOT, env=_environment(), check=True, capture_output=True
    )
    longest = time.perf_counter() - start
    draws, kills, found = random.Random(0), 0, []
    while True:
        process = subprocess.Popen(
            [*command, f"--out={folder / 'killed'}"], cwd=ROOT, env=_environment(), start_new_session=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            if kills < _KILLS.value and kills % 2:  # every other one among the shards, which come late
                while process.poll() is None and not (folder / "killed" / ".build" / "plan.sqlite").exists():
                    time.sleep(0.02)
            process.wait(None if kills == _KILLS.value else draws.uniform(0.02, 0.25) * longest)
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            found.append(len(list((folder / "killed").glob("*.array_record-*"))))
    tell(
        "resume",
        what=f"4000 files of 128 to 96 px, a build of {longest:.0f} s killed {kills} times",
        shards_found_after_each_kill=found,
        exit_code=process.returncode,
        same_bytes=dict(_contents(folder / "whole")) == dict(_contents(folder / "killed")),
    )


def _contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield str(path.relative_to(folder)), path.read_bytes()


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *(p for p in sys.path if p)])}


def main(argv: list[str]) -> None:
    del argv
    cv2.setNumThreads(1)
    logging.getLogger().setLevel(logging.WARNING)  # decoders tell of every tile
    for question in _ASK.value or QUESTIONS:
        with tempfile.TemporaryDirectory(dir=_FOLDER.value) as folder:
            Path(folder, "salt").write_bytes(b"the salt of a benchmark is no secret")
            os.environ[SALT_VARIABLE] = f"{folder}/salt"
            globals()[f"ask_{question}"](Path(folder))
    tell(
        "here",
        cores=os.cpu_count(),
        load=os.getloadavg()[0],
        peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    )


if __name__ == "__main__":
    app.run(main)
