#!/bin/bash
# A run on all hosts of a TPU slice, started from your own machine in the checkout:
#
#   TPU_NAME=my-slice ZONE=europe-west4-b PROJECT=my-project docs/launch/tpu_pod.sh \
#     --config=configs/pretrain/simclr.py:domain=ct --config.data.dir=gs://BUCKET/DATASET --workdir=/mnt/shared/WORKDIR
#
# The slice exists (gcloud compute tpus tpu-vm create), /mnt/shared is a file system that all its hosts have mounted.
# SETUP=0 leaves out the installation. Each host finds the others by itself: no --coordinator.

set -eu
: "${TPU_NAME:?}" "${ZONE:?}" "${PROJECT:?}"

on_all_hosts() {
  gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="$ZONE" --project="$PROJECT" --worker=all --command="$1"
}

if [ "${SETUP:-1}" = 1 ]; then
  git archive --prefix=radnet_jax/ -o radnet_jax.tar.gz HEAD
  gcloud compute tpus tpu-vm scp radnet_jax.tar.gz "$TPU_NAME": --zone="$ZONE" --project="$PROJECT" --worker=all
  # uv brings a Python of its own: that of the hosts can be older than 3.11.
  on_all_hosts 'tar xzf radnet_jax.tar.gz && cd radnet_jax && curl -LsSf https://astral.sh/uv/install.sh | sh &&
    ~/.local/bin/uv venv --python 3.11 .venv && ~/.local/bin/uv pip install -c constraints.txt ".[tpu,remote]"'
  on_all_hosts 'cd radnet_jax && .venv/bin/python -m radnet_jax.main --doctor'
fi

on_all_hosts "cd radnet_jax && RADNET_JAX_CACHE=\$HOME/cache .venv/bin/python -m radnet_jax.main $(printf '%q ' "$@")"
