#!/usr/bin/env bash
# One clip from all GPUs of a machine (or from CPU processes), and the proof that it is one GPU's clip.
#
#     RANKS=8 examples/first_hour/torchrun.sh out --steps 30
set -euo pipefail
out=${1:?"give a folder"}
shift
ranks=${RANKS:-2}
prompt="a green star grows on a dark green background"

torchrun --nproc-per-node "$ranks" -m videoaccel generate "$prompt" -o "$out/shared.mp4" "$@"
videoaccel generate "$prompt" -o "$out/alone.mp4" "$@"
videoaccel verify "$prompt" --ranks "$ranks" "$@"
