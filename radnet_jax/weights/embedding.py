"""The `embed` run: the features of every record of a built dataset, as a table."""

from __future__ import annotations

import json
import os
from pathlib import Path
import time
from typing import Any

from absl import logging
from jaxtyping import Float
from ml_collections import ConfigDict
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from radnet_jax import sharding, starts, trees
from radnet_jax.checkpoint import load_arrays
from radnet_jax.data.card import read_card
from radnet_jax.data.dataset import Split, open_split
from radnet_jax.errors import UserError, nearest
from radnet_jax.evaluation import evaluators
from radnet_jax.models import MODELS
from radnet_jax.parts import check_workdir, lock, plain
from radnet_jax.preprocessing import make_adapter
from radnet_jax.registry import named
from radnet_jax.trees import nested
from radnet_jax.weights import use
from radnet_jax.weights.folder import of_backbone

FEATURES_FILE = "features.parquet"


def run(config: ConfigDict, workdir: str | Path) -> Path:
    """Writes features.parquet of the dataset by the backbone of config.init_from; returns its path.

    A row for each record: split, case_id, hashed patient, kept facts, labels, label_mask, features. The file's metadata
    say which start, dataset and adapter they are of.

    Raises:
      UserError: no start, no dataset, an unknown split, a crossing that is not declared, a table of another start.
    """
    began = time.perf_counter()
    if not config.init_from:
        raise UserError("config.init_from is missing", expected="the workdir of a pretraining or import, or a name")
    mesh = sharding.make_mesh()
    sharding.check_batch_size(config.eval_batch_size, mesh, what="eval_batch_size")
    start = starts.find_start(str(use.find(config.init_from)))
    card = read_card(config.data.dir)
    known = [name for name, n in card.splits.items() if n]
    for name in config.splits:
        if name not in known:
            raise UserError(f"config.splits: no split {name!r}{nearest(name, known)}", expected=", ".join(known))
    splits = [open_split(config.data.dir, name) for name in config.splits or known]
    adapter = make_adapter(splits[0].card.stored, start.model_input, plain(config.adapter) if config.adapter else None)
    what = {"start": start.id, "dataset": card.fingerprint, "adapter": json.dumps(adapter.to_json())}
    path = check_workdir(workdir, need_bytes=2**24) / FEATURES_FILE
    with lock(path.parent):
        if path.is_file():
            if _metadata(path) != {**what, "splits": ",".join(s.name for s in splits)}:
                raise UserError(f"{path} is of another start, dataset or adapter", fix="use a new --workdir")
            logging.info("%s is there: skipped", path)
            return path
        assert start.folder is not None
        variables = nested(of_backbone(load_arrays(start.folder)[0], start.kept))
        backbone = MODELS.build(*named(start.backbone))
        params, stats = sharding.replicate((variables["params"], variables.get("batch_stats", {})), mesh)
        settings: dict[str, Any] = dict(adapter=adapter, batch_size=config.eval_batch_size, mesh=mesh)
        tables = [_table(s, evaluators.extract_features(backbone, params, stats, s, **settings)) for s in splits]
        table = pa.concat_tables(tables, promote_options="default").replace_schema_metadata(
            {**what, "splits": ",".join(s.name for s in splits)}
        )
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        pq.write_table(table, temporary, compression="zstd")
        os.replace(temporary, path)
    logging.info(
        "%s: %d records, %d features each (%s, %.1f s)",
        path, table.num_rows, backbone.width, trees.shown([s.name for s in splits]), time.perf_counter() - began,
    )  # fmt: skip
    return path


def _metadata(path: Path) -> dict[str, str]:
    found = pq.read_schema(path).metadata or {}
    return {k.decode(): v.decode() for k, v in found.items() if k != b"ARROW:schema"}


def _table(split: Split, features: Float[np.ndarray, "n d"]) -> pa.Table:
    manifest = split.manifest()
    columns: dict[str, Any] = {"split": pa.array([split.name] * len(split))}
    columns |= {name: manifest[name] for name in ("case_id", "patient")}
    columns |= {name: manifest[name] for name in manifest.column_names if name not in evaluators.NO_FACT}
    labels, mask = split.all_labels()
    for name, values in (("labels", labels), ("label_mask", mask), ("features", features)):
        if not values.shape[1]:  # a dataset without labels
            continue
        flat = pa.array(np.ascontiguousarray(values, np.float32).reshape(-1))
        columns[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    return pa.table(columns)
