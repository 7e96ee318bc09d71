"""Imports point down only, and heavy packages stay where they belong."""

import ast
from pathlib import Path
import re

import pytest

ROOT = Path(__file__).parent.parent

# Longest prefix wins. A module may import from its own layer and from those below.
LAYERS = {
    "radnet_jax": 0,
    "radnet_jax.errors": 0,
    "radnet_jax.registry": 0,
    "radnet_jax.trees": 0,
    "radnet_jax.pages": 0,
    "radnet_jax.rng": 0,
    "radnet_jax.goodput": 0,
    "radnet_jax.programs": 0,
    "radnet_jax.xla_flags": 0,
    "radnet_jax.machine": 0,
    "radnet_jax.losses": 1,
    "radnet_jax.augment": 1,
    "radnet_jax.schedules": 1,
    "radnet_jax.clustering": 1,
    "radnet_jax.sharding": 1,
    "radnet_jax.distributed": 1,
    "radnet_jax.state": 1,
    "radnet_jax.preprocessing": 1,
    "radnet_jax.evaluation": 1,
    "radnet_jax.evaluation.metrics": 1,
    "radnet_jax.evaluation.statistics": 1,
    "radnet_jax.evaluation.canonical": 1,
    "radnet_jax.evaluation.checks": 2,
    "radnet_jax.evaluation.ledger": 2,
    "radnet_jax.models": 2,
    "radnet_jax.optim": 2,
    "radnet_jax.data": 2,
    "data_prep": 2,
    "radnet_jax.objectives": 3,
    "radnet_jax.evaluation.evaluators": 3,
    "radnet_jax.evaluation.segmentation": 3,
    "radnet_jax.evaluation.every_metric": 3,
    "radnet_jax.evaluation.probes": 3,
    "radnet_jax.evaluation.ridge": 3,
    "radnet_jax.evaluation.compare": 3,
    "radnet_jax.evaluation.comparisons": 3,
    "radnet_jax.evaluation.compare_results": 3,
    "radnet_jax.evaluation.results": 3,
    "radnet_jax.evaluation.published": 3,
    "radnet_jax.evaluation.foreign": 3,
    "radnet_jax.evaluation.export": 3,
    "radnet_jax.evaluation.compare_run": 5,
    "radnet_jax.evaluation.summaries": 3,
    "radnet_jax.evaluation.verdicts": 3,
    "radnet_jax.checkpoint": 3,
    "radnet_jax.sinks": 3,
    "radnet_jax.writer": 3,
    "radnet_jax.monitors": 3,
    "radnet_jax.online": 3,
    "radnet_jax.profiling": 3,
    "radnet_jax.starts": 3,
    "radnet_jax.weights": 3,
    "radnet_jax.parts": 3,
    "radnet_jax.records": 3,
    "radnet_jax.nonfinite": 3,
    "radnet_jax.phases": 3,
    "radnet_jax.preemption": 3,
    "radnet_jax.selection": 3,
    "radnet_jax.sweep": 3,
    "radnet_jax.initial": 3,
    "radnet_jax.identity_audit": 3,
    "radnet_jax.step": 3,
    "radnet_jax.train": 4,
    "radnet_jax.probe": 4,
    "radnet_jax.examples": 4,
    "radnet_jax.overlays": 4,
    "radnet_jax.show": 4,
    "radnet_jax.new_images": 3,
    "radnet_jax.mask_files": 4,
    "radnet_jax.trained": 4,
    "radnet_jax.trained_probe": 4,
    "radnet_jax.external": 4,
    "radnet_jax.predict": 4,
    "radnet_jax.analysis": 4,
    "radnet_jax.analysis.figures": 5,
    "radnet_jax.analysis.page": 5,
    "radnet_jax.analysis.run": 5,
    "radnet_jax.analysis.scatter": 5,
    "radnet_jax.analysis.study_page": 5,
    "radnet_jax.analysis.of_study": 5,
    "radnet_jax.analysis.command": 5,
    "radnet_jax.study": 5,
    "radnet_jax.codecs": 5,
    "radnet_jax.doctor": 5,
    "radnet_jax.evaluation.report": 5,
    "radnet_jax.main": 6,
}
NO_JAX = ("data_prep", "radnet_jax.data", "radnet_jax.evaluation.metrics", "radnet_jax.evaluation.statistics")
NO_JAX += ("radnet_jax.preprocessing", "radnet_jax.registry", "radnet_jax.errors", "radnet_jax.xla_flags")


def _modules():
    for package in ("radnet_jax", "data_prep"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def _imports(path, *, module_level):
    tree = ast.parse(path.read_text())
    nodes = tree.body if module_level else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _layer(name):
    """The layer of the longest prefix; a package's own name stands for nothing but its __init__."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        prefix = ".".join(parts[:end])
        if prefix in LAYERS and (end > 1 or end == len(parts) or prefix == "data_prep"):
            return LAYERS[prefix]
    return None


MODULES = dict(_modules())


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_down(module):
    layer = _layer(module)
    assert layer is not None, f"{module} has no layer: add it to LAYERS"
    for name in _imports(MODULES[module], module_level=False):
        if name in MODULES and name != "radnet_jax":
            assert _layer(name) <= layer, f"{module} (layer {layer}) imports {name} (layer {_layer(name)})"


@pytest.mark.parametrize("module", sorted(m for m in MODULES if m.startswith(NO_JAX)))
def test_light_packages_import_no_jax(module):
    names = {name.split(".")[0] for name in _imports(MODULES[module], module_level=True)}
    assert not names & {"jax", "flax", "optax", "orbax"}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_tensorflow_and_linen_stay_out(module):
    names = set(_imports(MODULES[module], module_level=False))
    assert "tensorflow" not in {name.split(".")[0] for name in names}
    if "flax.linen" in names:
        assert module.startswith(("radnet_jax.models", "radnet_jax.objectives"))


def test_train_names_no_objective_dataset_or_metric():
    source = (ROOT / "radnet_jax" / "train.py").read_text()
    for package in ("objectives", "evaluation/metrics"):
        for path in (ROOT / "radnet_jax" / package).glob("*.py"):
            if path.stem not in ("__init__", "classification", "segmentation"):  # the last is a key of the batch too
                assert not re.search(rf"\b{path.stem}\b", source)
    assert "auroc" not in source
    assert "simclr" not in source.lower()
