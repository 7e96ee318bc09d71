"""Speed of the bootstrap and of DeLong's test against loops over scikit-learn, and the coverage of the intervals.

    python benchmarks/statistics.py                    # bootstrap and DeLong's test
    python benchmarks/statistics.py --part=coverage    # or bootstrap, delong, device

Prints one JSON object a line. Both ways run in one process on one core; the loop on `--loop` resamples, scaled up. CPU
seconds are of all threads, which a busy machine disturbs least. `--part=device` times the kernel of jax's default
device.
"""

from __future__ import annotations

if __name__ == "statistics":
    # A script in this folder, or a library that it uses, means Python's module of this name: it gets that one.
    import importlib.util
    from pathlib import Path
    import sys
    import sysconfig

    spec = importlib.util.spec_from_file_location("statistics", Path(sysconfig.get_path("stdlib"), "statistics.py"))
    assert spec is not None
    assert spec.loader is not None
    sys.modules["statistics"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["statistics"])
elif __name__ == "__main__":
    from absl import app
    import resampling

    app.run(resampling.main)
