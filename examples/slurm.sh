#!/bin/bash
# Train on two nodes of eight GPUs: sbatch examples/slurm.sh my.toml run.out=/shared/runs/mine
# One torchrun on each node; they meet on the first node. A job that ended, for whatever reason, goes on when the same
# line is submitted again: --resume begins where there is nothing to resume.
#
# It also goes on by itself. What happens before the time limit, and when the job is preempted:
#   1. SLURM sends USR1 to this script 300 s before the end (--signal), or TERM when it preempts.
#   2. This script passes it on to the torchrun of each node (scancel), and they to their processes.
#   3. The processes finish their step, write a checkpoint and end with status 75. torchrun itself ends with 1.
#   4. This script puts the job back into the queue (scontrol requeue), under the same number.
# A run that ends well or fails by itself is not queued again. Choose the time in --signal and GRACE for one step and
# one checkpoint; for preemption SLURM's own GraceTime must be as long.
#SBATCH --job-name=aced
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=aced-%j.log

set -euo pipefail

GPUS=8
GRACE=240 # seconds from the signal until torchrun kills what has not ended; older versions of torch take 30 whatever it says
export MASTER=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / GPUS / 2)) # the other half is for data.workers
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=$GRACE

# run.out, reference.cache and data.index_dir must lie where both nodes see them.
srun --kill-on-bad-exit=0 --wait="$GRACE" torchrun \
    --nnodes "$SLURM_NNODES" \
    --nproc-per-node "$GPUS" \
    --rdzv-backend c10d \
    --rdzv-id "$SLURM_JOB_ID" \
    --rdzv-endpoint "$MASTER:29500" \
    -m aced train --resume "$1" data.workers=4 "${@:2}" &
STEP=$!

SIGNALLED= AGAIN=
pass_on() {
    SIGNALLED=1 AGAIN=1
    scancel --signal=TERM "$SLURM_JOB_ID" || true # to the step and not to this script; torchrun knows no USR1
}
trap pass_on USR1 TERM

# A signal ends `wait`, which then knows nothing of the step.
while
    STATUS=0
    wait "$STEP" || STATUS=$?
    [ -n "$AGAIN" ]
do
    AGAIN=
done

if [ -n "$SIGNALLED" ] && [ "$STATUS" -ne 0 ]; then
    scontrol requeue "$SLURM_JOB_ID" || true # where SLURM has preempted the job, it may have done so itself
fi
exit "$STATUS"
