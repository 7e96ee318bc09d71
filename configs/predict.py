"""A fine-tuned model on new patients, or on another site's dataset.

    python -m radnet_jax.main --config=configs/predict.py --config.of=RUN --config.images=FOLDER --workdir=DIR
    python -m radnet_jax.main --config=configs/predict.py --config.of=RUN --config.external.dir=DATASET \
        --config.external.site=NAME --config.external.labels="(('theirs', 'ours'),)" --workdir=RUNS/NAME

`RUN` is the folder of a finished fine-tuning. DICOM, NIfTI, PNG, JPEG, TIFF and npy files are read as data_prep.build
reads them, and brought to what the model was trained on. docs/predict.md.
"""

from __future__ import annotations

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.run = "predict"
    config.of = ""  # folder of a finished fine-tuning
    config.images = ""  # a folder, a file, or a table with the column image
    config.value_range = ""  # "low,high": values that become 0 and 255, for images of more than 8 bits
    config.burned_in = "reject"  # reject | keep: DICOM files that say that there is text in their pixels
    config.names = "hashed"  # hashed (by the file's content) | paths (below the folder, as they are)
    config.format = "csv"  # csv | parquet
    config.masks = "images"  # images (NIfTI of volumes, else PNG) | dicom_seg (of DICOM series); for a segmentation
    # Instead of images: a built dataset of another site, (theirs, ours) of its labels, and of a probe its start.
    config.external = ConfigDict(dict(dir="", site="", labels=(), start=""))
    config.batch_size = 64
    return config.lock()
