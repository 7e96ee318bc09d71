r"""SwAV pretraining (Caron et al. 2020) on any built dataset.

    python -m radnet_jax.main --config=configs/pretrain/swav.py:domain=ct --config.data.dir=DATASET --workdir=DIR

Variants (`domain`, `smoke`, `size`, `go_on`): see `common.pretraining`.

The recipe is the authors' for 800 epochs at batch 4096: 3,000 prototypes, kept for 313 steps (an epoch), two views of
224 px and six of 96 px, learning rate 4.8 after 10 epochs of warm-up, cosine to .0048, weight decay 1e-6. ResNet-50 on
ImageNet reaches 75.3 % linear top-1; 73.9 % after 200 epochs (`--config.total_steps=62400`). At batch 256 they take
twice the rate without a warm-up, and a queue from epoch 15 on; 72.7 % after 200 epochs:

    --config.batch_size=256 --config.total_steps=1000800 --config.schedule.base_lr=0.6 --config.schedule.end_lr=0.0006 \
        --config.schedule.warmup_steps=0 --config.objective.queue_size=3840 --config.objective.queue_from_step=75060 \
        --config.objective.freeze_steps=5005

LARC of the authors' run is `lars` here, for all parameters as theirs, norms and biases included. It differs in the
denominator of the trust ratio, |g + weight_decay w| for |g| + weight_decay |w|, and has the learning rate inside the
velocity. Their warm-up begins at .3, ours at 4.8 / 3120. A loss that stays at log(3000) = 8.006 is a collapse: lower
`epsilon`, keep the prototypes longer, or make fewer local views. `total_steps`, `warmup_steps`, `freeze_steps` and
`queue_from_step` are in steps: set them from your dataset's size.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
    return common.pretraining(
        arg,
        dict(
            name="swav",
            prototypes=3000,
            temperature=0.1,
            epsilon=0.05,
            freeze_steps=313,
            queue_size=0,
            queue_from_step=0,
        ),
        natural="swav_multicrop",
        batch_size=4096,
        epochs=800,
        warmup_epochs=10,
        optimizer=dict(name="lars", weight_decay=1e-6, momentum=0.9, exclude=common.NOTHING),
        rate=0.3,
        end_rate=0.0003,
        augment=common.multi_crop(6),
        smoke=dict(prototypes=16, freeze_steps=2, projector_hidden=128, projector_dim=64),
        smoke_augment=dict(local_views=2),
    ).lock()
