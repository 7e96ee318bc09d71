"""The datasets as TFDS builders, for those who work with `tfds.builder` objects.

    builder = tfds_builders.builder("radnet", source=DICOM_FOLDER, data_dir=DATA, salt_file=FILE)
    builder.download_and_prepare()
    builder.as_data_source("train")

One class for each `DatasetSpec`: same features, splits, ids and examples as `data_prep.build` gives. What they lack is
what that command is for: several processes, limits for each file, going on after a kill, the manifest and the report.
TFDS orders the examples by a hash of their key. Nothing here imports TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import inspect
import os
from pathlib import Path
import tempfile
import types
from typing import Any

import tensorflow_datasets as tfds

from data_prep.generated import is_generated
from data_prep.hashing import PUBLIC_SALT, given_salt
from data_prep.header_pass import make_plan
from data_prep.plan import Plan
from data_prep.shards import ShardTask, features, read_example
from data_prep.source import fingerprint
from data_prep.spec import DATASETS, SPLIT_NAMES, DatasetSpec, Reject
from data_prep.splits import check_splits
from radnet_jax.errors import UserError


class SpecBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A builder of one dataset of `data_prep`; `builder_cls` makes a class for each."""

    DATASET = ""
    VERSION = tfds.core.Version("0.0.0")

    def __init__(
        self,
        *,
        source: str | os.PathLike[str],
        size: int = 72,
        splits: Sequence[str] = SPLIT_NAMES,
        split_fractions: Sequence[float] | None = None,
        seed: int = 0,
        salt_file: str | os.PathLike[str] | None = None,
        options: dict[str, Any] | None = None,
        **of_tfds: Any,
    ):
        """Args are those of `data_prep.build.build`; `options` are the dataset's, `of_tfds` TFDS's (data_dir, ...)."""
        self._source = Path(source).absolute()
        self._fractions, self._seed = check_splits(splits, split_fractions), seed
        self._spec: DatasetSpec = DATASETS.build(self.DATASET, options or {}, source=self._source, size=size)
        self._root = self._spec.folder or self._source
        generated = is_generated(self._root)
        salt = PUBLIC_SALT if generated else given_salt(salt_file)
        if salt is None and not self._spec.no_patients:
            raise UserError("no salt to hash the ids of patients with", fix="give salt_file")
        self._salt = salt or PUBLIC_SALT
        self.VERSION = tfds.core.Version(self._spec.version)
        super().__init__(**{"file_format": "array_record"} | of_tfds)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self, description=inspect.getdoc(DATASETS.get(self.DATASET)), features=features(self._spec)
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager  # the source is there already
        folder = tempfile.TemporaryDirectory(prefix="radnet_jax_")  # gone with the last of the generators
        namespace = fingerprint(self._spec, self._root).content
        path = Path(folder.name, "plan.sqlite")
        make_plan(path, self._spec, self._root, self._fractions, self._seed, namespace, map, lambda n: None)
        return {split: self._generate_examples(split, folder) for split in self._fractions}

    def _generate_examples(
        self, split: str, folder: tempfile.TemporaryDirectory[str]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        task = ShardTask(self._spec, str(self._root), "", "", self._salt, split, 0, 1, 0, 0)
        with Plan(Path(folder.name, "plan.sqlite")) as plan:
            for row in plan.rows(split):
                with contextlib.suppress(Reject):
                    example = read_example(task, row)
                    yield example["case_id"], example


def builder_cls(name: str) -> type[SpecBuilder]:
    """The TFDS builder class of a registered dataset, as `tfds.builder_cls` gives those of TFDS.

    It is not put into TFDS's own registry, which knows other datasets by some of the same names.
    """
    members = {"DATASET": name, "__doc__": inspect.getdoc(DATASETS.get(name)), "__module__": __name__}
    title = "".join(part.capitalize() for part in name.split("_"))
    return types.new_class(title, (SpecBuilder,), {"skip_registration": True}, lambda space: space.update(members))


def builder(name: str, **arguments: Any) -> SpecBuilder:
    """A TFDS builder of a registered dataset; arguments of `SpecBuilder`.

    Raises:
      UserError: an unknown name, a source that is not what the dataset expects, no salt.
    """
    return builder_cls(name)(**arguments)
