"""The command line: names are checked and errors are one line, before anything slow happens."""

from pathlib import Path
import re
import subprocess
import sys

import pytest

from radnet_jax import main
from radnet_jax.errors import UserError
from tests.tiny import ROOT


def run(*flags, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "radnet_jax.main", *flags], cwd=cwd, capture_output=True, text=True, timeout=100
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--config is missing"),
        (["--config=configs/quickstrat.py"], 'did you mean "configs/quickstart.py"'),
        (["--config=configs/quickstart.py", "--config.seedz=1"], 'did you mean "seeds"'),
        (["--config=configs/quickstart.py", "--config.seeds.a=1"], "is a value, not a section"),
    ],
)
def test_wrong_names_are_refused_with_the_nearest(flags, message):
    with pytest.raises(UserError) as caught:
        main._resolve(["main", *flags])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config=configs/quickstart.py"], "--workdir is missing"),
        (["--config=configs/quickstart.py", "--workdirr=x"], "workdirr"),
        (["--config=configs/pretrain/simclr.py:smoke", "--config.total_steps=many", "--workdir=x"], "total_steps"),
        (
            ["--config=configs/pretrain/simclr.py:smoke", "--config.objective.temprature=1", "--workdir=x"],
            'did you mean "temperature"',
        ),
        (
            ["--config=configs/pretrain/simclr.py:smoke", "--config.backbone.dtpe=bfloat16", "--workdir=x"],
            'did you mean "dtype"',
        ),
        (["--config=configs/pretrain/simclr.py:domain=mri", "--workdir=x"], "unknown domain 'mri'"),
        (["--config=configs/pretrain/simclr.py:smoke", "--config.run=trian", "--workdir=x"], 'did you mean "train"'),
    ],
)
def test_a_wrong_command_exits_with_one_line(flags, message, tmp_path):
    done = run(*flags)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("given", "place", "value"),
    [
        ("backbone.dtype=bfloat16", "backbone.dtype", "bfloat16"),
        ("augment.blur=0", "augment.blur", 0),
        ("augment.crop=(0.2,1.0)", "augment.crop", (0.2, 1.0)),
        ("optimizer.nesterov=true", "optimizer.nesterov", True),
        ("optimizer.frozen=('stem.*',)", "optimizer.frozen", ("stem.*",)),
    ],
)
def test_arguments_that_a_config_does_not_list_can_be_given(given, place, value):
    argv, arguments = main._resolve(["main", "--config=configs/pretrain/simclr.py:smoke", f"--config.{given}"])
    assert arguments == [(place, value)]
    assert len(argv) == 2


def test_overrides_may_stand_before_the_config():
    given = [
        "main",
        "--config.total_steps=3",
        "--config.backbone.dtype=bfloat16",
        "--config",
        "configs/pretrain/simclr.py",
    ]
    argv, arguments = main._resolve(given)
    assert argv[1].startswith("--config=")
    assert argv[2:] == ["--config.total_steps=3"]
    assert arguments == [("backbone.dtype", "bfloat16")]


def test_works_from_another_folder(tmp_path):
    done = run(f"--config={ROOT}/configs/pretrain/simclr.py:smoke", f"--workdir={tmp_path}/run", cwd=tmp_path)
    assert "config.data.dir is missing" in done.stderr
    assert done.returncode == 2


@pytest.mark.parametrize("path", sorted(str(p.relative_to(ROOT)) for p in (ROOT / "configs").rglob("*.py")))
def test_every_config_is_locked_and_says_what_it_runs(path):
    module_has_config = "def get_config" in (ROOT / path).read_text()
    if not module_has_config:
        name, others = Path(path).stem, (p.read_text() for p in (ROOT / "configs").rglob("*.py"))
        assert name == "__init__" or any(re.search(rf"import .*\b{name}\b", text) for text in others)
        return
    config = main.load_config(ROOT / path)
    assert config.is_locked
    assert config.run in ("train", "probe", "study", "compare", "predict", "import", "export", "embed", "analyze")
