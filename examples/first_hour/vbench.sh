#!/usr/bin/env bash
# VBench from prompts to scores: clips named as it wants them, our native dimensions, and the official package's own where
# an environment with it is named.
#
#     examples/first_hour/vbench.sh VBench_full_info.json out
#     VBENCH_PYTHON=vbench/bin/python examples/first_hour/vbench.sh VBench_full_info.json out --samples 5
#
# The package wants an environment of its own:
#     python3.11 -m venv vbench && vbench/bin/pip install torch==2.13.0 torchvision==0.28.0 vbench==0.1.5 "setuptools<80"
set -euo pipefail
info=${1:?"give VBench_full_info.json"}
out=${2:?"give a folder"}
shift 2

mkdir -p "$out"
videoaccel render --vbench "$info" -o "$out/clips" "$@"
videoaccel evaluate "$out/clips/vbench" --suite vbench --prompts "$info" -o "$out/scores" \
  ${VBENCH_PYTHON:+--official "$VBENCH_PYTHON"} || code=$?
# 3: some dimensions have been named as not run, for want of their networks; all others are there.
[ "${code:-0}" = 0 ] || [ "$code" = 3 ]
