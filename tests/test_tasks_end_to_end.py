"""Each task of labels, on the miniature of its dataset as its config builds it, with each protocol."""

import functools
import re

import pytest

from data_prep.build import build
from data_prep.miniatures import write_miniature
from data_prep.phantom import write_ct
from data_prep.spec import DATASETS
from radnet_jax import initial, probe, sharding, train
from radnet_jax.evaluation import ledger
from radnet_jax.main import load_config
from radnet_jax.parts import assemble, make_objective, make_recipe
from tests import tiny
from tests.test_task_configs import TASKS

SIZE, SIDE = 40, 24  # of the records, and of what the model sees
MORE = {"imagenet": ",classes=100"}
# The others have official lists, or shares that leave each split of their miniature some patients.
FRACTIONS = dict.fromkeys(("chestxray14", "chexpert", "vindr_cxr", "rsna_pe"), (0.5, 0.4, 0.1)) | {
    "shenzhen": (0.4, 0.3, 0.3)
}
PROBES = ("linear", "ridge", "knn")


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """The miniatures have fewer images than there are devices here."""
    make_mesh = sharding.make_mesh
    monkeypatch.setattr(sharding, "make_mesh", lambda count=None, *, replica=1: make_mesh(1, replica=replica))


@pytest.fixture(scope="module")
def build_for(tmp_path_factory):
    """Builds what a config's `dataset_command` says, of the miniature; once for all configs that say the same."""
    root = tmp_path_factory.mktemp("tasks")

    @functools.lru_cache
    def built(command):
        found = dict(re.findall(r"--(\w+)=(\S+)", command))
        name = found["dataset"]
        options = {k: v for k, v in found.items() if k not in ("dataset", "size", "source", "out")}
        defaults = DATASETS.defaults(name)
        options = {k: type(defaults[k])(v) for k, v in options.items()}
        source = root / f"{name} source"
        if name == "radnet":
            write_ct(source, patients_per_region=6, slices=2, image_size=32)
        elif not source.exists():
            write_miniature(name, source)
        out = root / f"{name} {len(list(root.iterdir()))}"
        fractions = FRACTIONS.get(name)
        build(name, source, out, size=SIZE, split_fractions=fractions, log=lambda line: None, **options)
        return out

    return built


def configured(build_for, task, variant, **changes):
    loaded = load_config(tiny.ROOT / f"configs/finetune/{task}.py", f"smoke,size={SIDE},{variant}{MORE.get(task, '')}")
    small = dict(backbone=dict(name="resnet10", base_width=4), eval_batch_size=4)
    small["data"] = loaded.data.to_dict() | {"dir": str(build_for(loaded.dataset_command))}
    if loaded.run == "train":
        small |= dict(batch_size=2 * loaded.groups, total_steps=2, select=dict(every=1, split="val"))
        small["sweep"] = loaded.sweep.to_dict() | dict(total_steps=1)
    return tiny.change(loaded, **small | changes)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_protocol_fits_the_dataset_of_its_task(build_for, task):
    for protocol in ("corrected", *TASKS[task]):
        config = configured(build_for, task, f"scratch,protocol={protocol}")
        parts = assemble(config)
        assert [split.name for split in train.check(config, parts)] == ["val", "test"]
        initial.trace(config, parts, make_objective(config, parts), make_recipe(config, parts))
    for name in PROBES:
        config = configured(build_for, task, f"scratch,probe={name}")
        assert [split.name for split in probe.check(config, assemble(config))] == ["val", "test"]


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_task_runs_end_to_end_with_every_protocol(build_for, task, tmp_path):
    def run(name, variant, start="", **changes):
        config = configured(build_for, task, variant, init_from=str(start), **changes)
        if config.run == "probe":
            cached = config.probe.to_dict() | dict(cache_dir=str(tmp_path / "features"))
            probe.run(tiny.change(config, probe=cached), tmp_path / name)
        else:
            train.run(config, tmp_path / name)
        record = ledger.read_run(tmp_path / name).record
        assert set(record["metrics"]) == {"val", "test"}
        assert config.primary_metric in record["metrics"]["test"]
        return record

    swept = run("scratch", "scratch")
    assert set(swept["metrics_of_weights"]) == {"last", "best", "average"}
    assert len(swept["sweep"]["trials"]) == 2
    start = tmp_path / "scratch"
    run("fine tune", "", start)
    run("shot", "shots=1", start)
    run("half", "fraction=0.5", start)
    for protocol in TASKS[task]:
        run(protocol, f"protocol={protocol}", start)
        run(f"{protocol} scratch", f"protocol={protocol},scratch")
    for name in PROBES:
        run(f"{name} probe", f"probe={name}", start)
    run("shot probe", "probe=linear,shots=1", start)
    run("scratch probe", "probe=knn,scratch")
