#!/bin/bash
# A run on a Slurm cluster that survives the end of its time and preemption:
#
#   sbatch docs/launch/slurm.sh --config=configs/pretrain/simclr.py:domain=ct --config.data.dir=DATASET --workdir=WORKDIR
#
# Start it in the checkout, after `.venv/bin/pip install -c constraints.txt -e '.[cuda]'`, or set RADNET_JAX_PYTHON; DATASET and WORKDIR must be folders that all nodes see. Set these:
#SBATCH --job-name=radnet_jax
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --mem=200G
#SBATCH --time=12:00:00
# and leave these. One process has all GPUs of its node.
#SBATCH --ntasks-per-node=1
# Five minutes before the time is up all processes (not this shell: no "B:") get SIGUSR1, save and exit with 75.
#SBATCH --signal=USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -u
python=${RADNET_JAX_PYTHON:-.venv/bin/python}

# Looks at every node, once; a node with a problem is named and ends the job here.
if [ "${SLURM_RESTART_COUNT:-0}" = 0 ]; then
  srun --kill-on-bad-exit=0 "$python" -m radnet_jax.main --doctor || exit 1
fi

# --wait: the processes end within seconds of each other, and none is killed while another still writes; if one died by
# itself, the others are ended after two minutes.
srun --kill-on-bad-exit=0 --wait=120 "$python" -m radnet_jax.main "$@"
code=$?

# 75: saved, the same command goes on. Nothing else is tried again: what is wrong would be wrong again.
if [ $code = 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
