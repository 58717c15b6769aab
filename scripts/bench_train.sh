#!/usr/bin/env bash
# Times training steps on the CPU in turns with an older build and with PyTorch, with the peak
# memory of each process; prints a table in Markdown. ResNet-18 at 96 px with 16 pairs, ResNet-50 at
# 224 px with 8, on random views.
#
#   scripts/bench_train.sh [--steps N] [--turns N] [--against BUILD] [--json FILE]
#   scripts/bench_train.sh --smoke [--bin FOLDER]            a few seconds, to test this script
#
#   --steps N        steps of a run, of which the median counts (5)
#   --turns N        runs of each side: A B A B A B are 3 (3)
#   --against BUILD  an older bench_step, or the target folder with it
#   --bin FOLDER     the programs to time; without it the release is built
#   --json FILE      every run, with the processor, the commit and the date
#
# PyTorch is that of the Python in $PYTHON (python3 without it); without PyTorch, it is left out
# with a line. All cores are used.
set -euo pipefail

case ${1:-} in
    -h | --help) sed -n '2,16s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
esac
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
build=()
if [[ " $* " != *" --bin "* ]]; then
    build=(--bin "${CARGO_TARGET_DIR:-$here/../target}/release")
    cargo build --release --workspace --locked --examples --manifest-path "$here/../Cargo.toml" >&2
fi
exec "${PYTHON:-python3}" "$here/bench_turns.py" train "${build[@]}" "$@"
