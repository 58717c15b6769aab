#!/usr/bin/env bash
# How fast a GPU trains: whole steps on random views and, where shards are named, on those; beside a PyTorch program.
#
#   scripts/bench_train.sh [ARCH] [PAIRS]        resnet50 and 256 without them
#
# From the environment:
#   SCRL_BENCH_GPU        the program to time, built elsewhere; otherwise it is built here (Rust, no CUDA toolkit)
#   SCRL_BENCH_SHARDS     shards whose batches are taken too, to see how long steps wait for data
#   SCRL_BENCH_REFERENCE  a command to time in turns with it, such as
#                         "python3 reference.py --batch 256 --amp bf16 --channels-last --compile"
#   SCRL_BENCH_ROUNDS     how often they take turns: 2 without it
#
# The CUDA libraries are those of LD_LIBRARY_PATH, or of the Python at hand (scripts/cuda_libraries.sh).
set -euo pipefail

usage() { sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
fail() { printf 'bench_train: %s\n' "$1" >&2; exit "${2:-1}"; }

case ${1:-} in
    -h | --help) usage; exit 0 ;;
    -*) fail "unknown option $1; --help shows how to start it" 2 ;;
esac
arch=${1:-resnet50}
pairs=${2:-256}
[[ $pairs =~ ^[1-9][0-9]*$ ]] || fail "$pairs is no number of pairs" 2

shards=${SCRL_BENCH_SHARDS:+$(realpath "$SCRL_BENCH_SHARDS")}
program=${SCRL_BENCH_GPU:+$(realpath "$SCRL_BENCH_GPU")}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -z "$program" ]; then
    cargo build --release --locked -p scrl-trainer --features cuda --example bench_gpu >&2
    program=$(realpath "${CARGO_TARGET_DIR:-target}/release/examples/bench_gpu")
fi
if libraries=$(scripts/cuda_libraries.sh 2>/dev/null); then
    eval "$(tail -1 <<<"$libraries")"
fi

date -u '+%Y-%m-%d %H:%M UTC'
git rev-parse --short HEAD 2>/dev/null || true
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || fail "nvidia-smi does not answer"
for round in $(seq "${SCRL_BENCH_ROUNDS:-2}"); do
    printf '\n== round %s: random views\n' "$round"
    "$program" "$arch" "$pairs" bf16 30
    if [ -n "$shards" ]; then
        printf '\n== round %s: shards\n' "$round"
        "$program" "$arch" "$pairs" bf16 30 "$shards"
    fi
    if [ -n "${SCRL_BENCH_REFERENCE:-}" ]; then
        printf '\n== round %s: %s\n' "$round" "$SCRL_BENCH_REFERENCE"
        bash -c "$SCRL_BENCH_REFERENCE"
    fi
done
