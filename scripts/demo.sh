#!/usr/bin/env bash
# Train a small VAE and a small latent diffusion model on the embedded demo set, then sample 24
# crystals. Two CPU cores are enough. `make demo` runs this inside the environment it made.
#
#   scripts/demo.sh [RUNS] [OUT]      default: runs out/demo
#
# A second run replaces the first.
set -euo pipefail

runs=${1:-runs}
out=${2:-out/demo}

say() { printf '\n== %s\n' "$*"; }

say "1/3 autoencoder: crystals to latents and back"
chemeleon vae train --preset demo/dng -o "$runs/demo_vae" --overwrite

say "2/3 latent diffusion: noise to latents"
chemeleon ldm train --preset demo/null -o "$runs/demo_ldm" --overwrite \
  "ldm.vae_ckpt_path=$runs/demo_vae"

say "3/3 sampling 24 crystals"
chemeleon sample --model "$runs/demo_ldm" -n 24 --seed 7 -o "$out" \
  --format cif,extxyz,json --table --contact-sheet --overwrite

cat <<EOF

The models are in $runs/demo_vae and $runs/demo_ldm, what they logged in metrics.jsonl there.
The crystals, their picture and manifest.json are in $out:
EOF
ls "$out"
