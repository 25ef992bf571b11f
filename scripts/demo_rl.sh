#!/usr/bin/env bash
# Tune the small model of scripts/demo.sh by rewards for five minutes, then sample 24 crystals. Two CPU
# cores are enough, no network. `make demo-rl` runs this, after `make demo`.
#
#   scripts/demo_rl.sh [RUNS] [OUT]      default: runs out/demo_rl
#
# A second run replaces the first.
set -euo pipefail

runs=${1:-runs}
out=${2:-out/demo_rl}

if [ ! -d "$runs/demo_ldm" ]; then
  echo "$runs/demo_ldm is missing: run scripts/demo.sh (make demo) first" >&2
  exit 2
fi

chemeleon rl train --preset demo/dng -o "$runs/demo_rl" --overwrite "rl.ldm_ckpt_path=$runs/demo_ldm"
chemeleon sample --model "$runs/demo_rl" -n 24 --seed 7 -o "$out" \
  --format cif,extxyz,json --table --contact-sheet --overwrite

cat <<EOF

The reward over the updates is in $runs/demo_rl/report.html, the crystals are in $out.
EOF
