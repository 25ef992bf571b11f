#!/usr/bin/env bash
#SBATCH --job-name=chemeleon
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#
# Train on several nodes with Slurm: one task per node, one process per GPU.
#
#   sbatch [--nodes=4 ...] scripts/launch_slurm.sh ldm train --preset mp_20/null -o runs/big
#   scripts/launch_slurm.sh --dry-run ldm train --preset mp_20/null      # print the command only
#
# Everything after --dry-run goes to `chemeleon`. The lines above are defaults: options given to
# sbatch win. Set trainer.max_minutes a little below --time: the run then ends in order and is saved,
# and the next job goes on from there with `--resume runs/big`.
#
# Environment:
#   GPUS_PER_NODE    processes on each node        default: what Slurm gave, else 1
#   MASTER_PORT      port on the first node        default: 20000 + job id modulo 20000
#   VENV             environment with chemeleon    default: .venv where that exists
set -euo pipefail

dry_run=false
if [[ ${1:-} == --dry-run ]]; then
  dry_run=true
  shift
fi
if [[ $# -eq 0 || ${1:-} == -h || ${1:-} == --help ]]; then
  sed -n '/^# Train on/,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
  exit $(($# == 0 ? 2 : 0))
fi
if ! $dry_run && [[ -z ${SLURM_JOB_ID:-} ]]; then
  echo "launch_slurm.sh: not inside a Slurm job: start it with sbatch, or look at it with --dry-run" >&2
  exit 2
fi

nodes=${SLURM_JOB_NUM_NODES:-1}
gpus=${GPUS_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}
port=${MASTER_PORT:-$((20000 + ${SLURM_JOB_ID:-0} % 20000))}
first=localhost
if [[ -n ${SLURM_JOB_NODELIST:-} ]] && command -v scontrol >/dev/null; then
  first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
fi
venv=${VENV:-.venv}
accelerate=accelerate
if [[ -x $venv/bin/accelerate ]]; then
  accelerate=$venv/bin/accelerate
fi

launch=(
  "$accelerate" launch
  --num_machines "$nodes"
  --num_processes "$((nodes * gpus))"
  --main_process_ip "$first"
  --main_process_port "$port"
  --mixed_precision no # chemeleon's own trainer.precision decides
  --dynamo_backend no
)
if ((nodes * gpus > 1)); then
  launch+=(--multi_gpu)
fi

# The rank of a node is known only on the node, so each task reads it there.
# shellcheck disable=SC2016
words=("${launch[@]}" --machine_rank '$SLURM_NODEID' -m chemeleon "$@")
quoted=()
for word in "${words[@]}"; do
  if [[ $word == '$SLURM_NODEID' ]]; then
    quoted+=('"$SLURM_NODEID"')
  else
    quoted+=("$(printf '%q' "$word")")
  fi
done
on_node="exec ${quoted[*]}"
run=(srun --nodes="$nodes" --ntasks="$nodes" --kill-on-bad-exit=1 bash -c "$on_node")

if $dry_run; then
  printf "srun --nodes=%s --ntasks=%s --kill-on-bad-exit=1 bash -c '%s'\n" \
    "$nodes" "$nodes" "${on_node//\'/\'\\\'\'}"
else
  exec "${run[@]}"
fi
