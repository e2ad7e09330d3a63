#!/bin/bash
# Train on two nodes of eight GPUs: sbatch examples/slurm.sh my.toml run.out=/shared/runs/mine
# One torchrun on each node; they meet on the first node. A job that ended, for whatever reason, goes on when the same
# line is submitted again: --resume begins where there is nothing to resume.
#SBATCH --job-name=aced
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --time=24:00:00
#SBATCH --output=aced-%j.log

set -euo pipefail

GPUS=8
export MASTER=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / GPUS / 2)) # the other half is for data.workers

# run.out, reference.cache and data.index_dir must lie where both nodes see them.
srun --kill-on-bad-exit=1 torchrun \
    --nnodes "$SLURM_NNODES" \
    --nproc-per-node "$GPUS" \
    --rdzv-backend c10d \
    --rdzv-id "$SLURM_JOB_ID" \
    --rdzv-endpoint "$MASTER:29500" \
    -m aced train --resume "$1" data.workers=4 "${@:2}"
