"""What two networks have in common, block by block: before and after fine-tuning, or any two; or all of a study.

    python -m radnet_jax.main --config=configs/analyze.py --config.a=RUN --config.b=RUN --config.data.dir=DATASET \
        --workdir=OUT
    python -m radnet_jax.main --config=configs/analyze.py --config.study=STUDY --workdir=STUDY/analysis

`a` and `b` are workdirs of pretrainings, fine-tunings or imports, or names of imports; `a` may be "initial": what run
`b` began with, where that was random. OUT gets analysis.json and report/index.html. docs/analysis.md.
"""

from __future__ import annotations

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.run = "analyze"
    config.name = ""  # title of the page
    config.study = ""  # folder of a finished study: each start before and after, on each task, its seeds as repeats
    config.a = ""
    config.b = ""
    config.repeats = ()  # further (a, b) that differ by the seed only, for intervals over seeds
    config.data = ConfigDict(dict(dir="", split="test"))
    config.before_statistics = "images"  # BatchNorm's of what `b` began with: of these images, or "stored"
    config.adapter = placeholder(ConfigDict)  # windows, channels: how a network of another modality sees the images
    config.protocol = "default"  # radnet_published: adds feature reuse and uniqueness as the first study had them
    config.runs = ""  # folder of finished runs of several starts: adds whether they get the same cases right
    config.maps = "pca"  # tsne: adds t-SNE of both (pip install "radnet_jax[maps]")
    config.report = ConfigDict(dict(images=True))  # False: no patient's pixel on the page
    config.sample = 1000  # images of what can't be streamed: intervals, and all measures but the map
    config.eval_batch_size = 256
    config.seed = 0  # of the random networks, and of how patients are dealt out to groups
    return config.lock()
