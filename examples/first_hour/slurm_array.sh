#!/bin/bash
# A night's clips by an array of workers in one shared folder; each may start, end and be preempted at any time.
#
#     sbatch examples/first_hour/slurm_array.sh jobs.jsonl /shared/out
#
#SBATCH --job-name=render
#SBATCH --array=0-15
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --output=%A_%a.log
set -u
jobs=${1:?"give a job file"}
out=${2:?"give a folder that all tasks see"}
shift 2

# srun where Slurm has started us, nothing where it has not: the script runs on a laptop, too.
start=""
if [ -n "${SLURM_JOB_ID:-}" ]; then start="srun --kill-on-bad-exit=0"; fi
$start videoaccel render "$jobs" -o "$out" --no-wait --grace 100 "$@" &
worker=$!
trap 'kill -TERM $worker' TERM
wait $worker || wait $worker
