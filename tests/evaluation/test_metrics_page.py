"""The page about metrics: its code runs, and its tables have every name."""

from pathlib import Path
import re

from radnet_jax.evaluation import metrics
from radnet_jax.evaluation.metrics import METRICS
from radnet_jax.evaluation.metrics.conventions import CONVENTIONS
from radnet_jax.evaluation.metrics.overlap import LESIONS, OVERLAPS, SURFACES

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()


def test_its_code_runs(capsys):
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(block, names)
    assert "accuracy 0." in capsys.readouterr().out


def test_its_tables_have_every_name():
    rows = [row.split("|") for row in PAGE.splitlines() if row.startswith("| `")]
    named = {name: row for row in rows for name in re.findall(r"`(\w+)`", row[1])}
    assert set(named) == {*METRICS.names(), *CONVENTIONS.names(), *OVERLAPS, *SURFACES, *LESIONS}
    for name in METRICS.names():
        kinds = metrics.task_kinds(name)
        assert named[name][2].strip() == ("both" if len(kinds) == 2 else next(iter(kinds)).split("_")[0])
        assert ("lower is better" in named[name][3]) == (not metrics.higher_is_better(name))
