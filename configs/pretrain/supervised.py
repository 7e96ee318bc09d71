r"""Supervised pretraining on the labels of any built dataset, one label or several findings for each image.

    python -m radnet_jax.main --config=configs/pretrain/supervised.py:domain=natural \
        --config.data.dir=IMAGENET --workdir=DIR

Variants (`domain`, `smoke`, `size`, `go_on`, `crossing`): see `common.pretraining`.

The recipe is that of ResNet-50 on ImageNet-1k (He et al. 2015; Goyal et al. 2017, section 5.1): SGD with Nesterov
momentum, learning rate 0.1 x batch / 256, weight decay 1e-4 without biases and norms, 5 epochs of warm-up, 90 epochs,
each residual branch starting at zero; 76.4 % top-1 there (batch 256, their table 1), 76.1 % of the weights that
torchvision publishes. Departure: the rate falls by a cosine, not in three steps. `total_steps` and `warmup_steps` are
in steps: set them from your dataset's size.

Of a multi-label dataset each known finding has a sigmoid of its own; unknown ones are left out (`label_mask`). A chain,
ImageNet, then ChestX-ray14, then a task:

    python -m radnet_jax.main --config=configs/pretrain/supervised.py:domain=natural \
        --config.data.dir=IMAGENET --workdir=FIRST
    python -m radnet_jax.main --config=configs/pretrain/supervised.py:domain=chest_xray,go_on,crossing \
        --config.data.dir=CHESTXRAY14 --config.init_from=FIRST --workdir=SECOND
    python -m radnet_jax.main --config=configs/finetune/classification.py:domain=chest_xray,crossing \
        --config.data.dir=TASK --config.init_from=SECOND --workdir=DIR

The head is new in each; the backbone sees X-rays as it saw photographs. A last task of several findings is judged with
--config.primary_metric=auroc: accuracy, the default, is refused for it.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    config = common.pretraining(
        arg,
        dict(name="classification", label_smoothing=0.0),
        natural="supervised",
        recipes="fine_tune",
        batch_size=256,
        epochs=90,
        warmup_epochs=5,
        optimizer=dict(name="sgd", weight_decay=1e-4, momentum=0.9, nesterov=True),
        rate=0.1,
        smoke=dict(),
    )
    config.name = config.name.replace("classification", "supervised")
    config.backbone.zero_init_last = True
    return config.lock()
