"""Some hundred steps of each objective on generated CT, and of a network that does not learn.

    python -m tests.objectives.learning simsiam DATASET WORKDIR                 (simsiam:0 does not learn)

The recipe is that of `configs/studies/objectives_mini.py`, AdamW at 2e-3, batch 64, two whole views, for twice as many
steps: without negatives features are slow to come. What an objective needs beyond it stands in NEEDS.
"""

import sys

from ml_collections import ConfigDict

from configs import common
from configs.studies import objectives_mini
from radnet_jax import probe, train
from radnet_jax.main import load_config
from radnet_jax.weights import embedding
from tests import every_objective, tiny

STEPS = 360
NEEDS = {
    # The predictor's rate stays as it is, as in the paper (section 4.2): it must keep up with the projector.
    "simsiam": dict(optimizer=dict(name="adamw", weight_decay=1e-4, constant=("^predictor/",))),
    # For some hundred steps of 64 images: a teacher that follows within twenty, fewer outputs, a BatchNorm in the
    # projector as the authors' ResNet-50 has it. With the paper's numbers all images have nearly the same outputs.
    "dino": dict(steps=720, rate=1e-3, objective=dict(norm=True, temperature_last=0.04, momentum=0.95, outputs=64)),
    "dino_resnet50": dict(steps=720, rate=2e-3, objective=dict(temperature_last=0.04, momentum=0.95, outputs=64)),
    "infomin": dict(steps=720),  # two queries for each key
    "mae": dict(steps=720),
    # With the paper's epsilon of .05 a batch of 64 is assigned to 16 prototypes almost alike, and the loss stays at log
    # 16; frozen for a tenth of the run, prototypes do not run together before the embeddings are apart.
    "swav": dict(objective=dict(epsilon=0.03, freeze_steps=36)),
}

# Judged by a linear probe and by the rank of features: weakly penalised, as scikit-learn is by default, a strength of
# 1 / n.
PROBED = ("mae",)
STRENGTH = 1 / 600


def config(name, dataset):
    """The run of NAME of configs/pretrain, judged by nearest neighbours at its end; NAME:SEED does not learn."""
    name, _, seed = name.partition(":")
    template, needs = objectives_mini.pretraining(name, "ct"), NEEDS.get(name, {})
    steps, rate = needs.get("steps", STEPS), needs.get("rate", template.schedule.base_lr)
    if seed:
        steps, rate = 40, 1e-12  # for the running statistics of its BatchNorm
    changes = dict(
        seed=int(seed or 0),
        total_steps=steps,
        schedule=dict(name="warmup_cosine", base_lr=rate, warmup_steps=steps // 10),
        objective=template.objective.to_dict() | needs.get("objective", {}),
        optimizer=needs.get("optimizer", template.optimizer.to_dict()),
        data=template.data.to_dict() | {"dir": str(dataset)},
        knn=dict(every=steps, split="val", examples=10_000),
    )
    backbone = every_objective.load(name).backbone.to_dict()
    if backbone["name"].startswith("vit"):  # the small network of its own config
        changes["backbone"] = backbone | {"image_size": objectives_mini.SIZE}
    return tiny.change(template, **changes)


def probe_config(run, workdir):
    """The linear probe of what a run left behind."""
    backbone = ConfigDict(run.backbone.to_dict())
    settings = common.probe()
    data = settings.data.to_dict() | {"dir": run.data.dir, "judge": ("val",)}
    strengths = settings.probe.to_dict() | {"strengths": (STRENGTH,)}
    return tiny.change(settings, backbone=backbone, init_from=str(workdir), data=data, probe=strengths)


def embed_config(run, workdir):
    """The features of the held-out images by the backbone that a run left behind."""
    settings = load_config(tiny.ROOT / "configs" / "embed.py", "")
    data = settings.data.to_dict() | {"dir": run.data.dir}
    return tiny.change(settings, init_from=str(workdir), data=data, splits=("val",))


def main(name, dataset, workdir):
    run = config(name, dataset)
    train.run(run, workdir)
    if name.partition(":")[0] in PROBED:
        probe.run(probe_config(run, workdir), f"{workdir}-probe")
        embedding.run(embed_config(run, workdir), f"{workdir}-features")


if __name__ == "__main__":
    main(*sys.argv[1:])
