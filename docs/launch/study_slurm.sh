#!/bin/bash
# A study on a Slurm cluster: a job array whose tasks share its jobs, one GPU each. Either of the two:
#
#   sbatch --array=0-7 docs/launch/study_slurm.sh --config=configs/quickstart.py --workdir=STUDY
#   sbatch --array=0-23%8 --export=ALL,BY_NUMBER=1 docs/launch/study_slurm.sh --config=configs/quickstart.py --workdir=STUDY
#
# In the first, eight workers do what is left, until nothing is: compiled programs are kept from job to job. In the
# second, task K does job K (--config.list=True shows the numbers) after what it needs, at most eight at a time.
#
# Start it in the checkout, or set RADNET_JAX_PYTHON; STUDY and the data must be folders that all nodes see. Set these:
#SBATCH --job-name=radnet_jax_study
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=12:00:00
# and leave these.
#SBATCH --nodes=1
#SBATCH --ntasks=1
# Five minutes before the time is up the process (not this shell: no "B:") gets SIGUSR1, saves and exits with 75.
#SBATCH --signal=USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A_%a.log

set -u
python=${RADNET_JAX_PYTHON:-.venv/bin/python}

job=()
if [ "${BY_NUMBER:-0}" = 1 ]; then
  job=("--config.job=$SLURM_ARRAY_TASK_ID")
fi
srun "$python" -m radnet_jax.main "$@" ${job[@]+"${job[@]}"}
code=$?

# 75: saved, the same command goes on. A task that dies otherwise leaves its job to the others, and to a new start.
if [ $code = 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
