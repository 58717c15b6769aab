#!/usr/bin/env bash
# Everything a change must pass: format, lints, documentation, the quickstart in small, and every test.
#
# Needs Rust with the toolchain of rust-toolchain.toml, a C and a C++ compiler, and Python 3 with venv, into which pip fetches the
# packages that read Parquet; no CUDA. With a Chromium the page of scrl-inspect is tried in it as well. With a Python that has
# PyTorch, torchvision, NumPy, Pillow, safetensors and pycocotools, named in SCRL_PYTHON, also the comparisons with those.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() { printf '\n== %s\n' "$*"; }

# --workspace throughout: Cargo chooses the features of dependencies for what it builds together, and a single package
# would have them compiled once more.
step "rustfmt"
cargo fmt --all --check

step "Python scripts"
python3 - <<'PYTHON'
import ast, pathlib
for path in sorted(pathlib.Path("scripts").glob("*.py")):
    ast.parse(path.read_text(), str(path))
PYTHON

step "clippy"
cargo clippy --workspace --all-targets --locked -- -D warnings

step "clippy, with CUDA"
cargo clippy --workspace --all-targets --features scrl-trainer/cuda --locked -- -D warnings

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --features scrl-trainer/cuda --locked

step "build"
cargo test --workspace --no-run --locked

step "quickstart, in small"
scripts/quickstart.sh --smoke

step "experiment, in small"
scripts/experiment.sh --smoke

step "tests"
cargo test --workspace --locked

step "readers of Parquet"
python=$(scripts/readers_python.sh)
"$python" scripts/test_readers.py --bin "${CARGO_TARGET_DIR:-target}/debug"

# Compiled and linked without CUDA's libraries, which are looked for when the programs run. Tests that need a GPU say that
# they are skipped where there is none; an emulator runs the kernels on the CPU.
step "CUDA"
cuda=(--workspace --features scrl-trainer/cuda --locked)
cargo build "${cuda[@]}" --bins --example bench_gpu
cargo test "${cuda[@]}" --lib -- cuda::
cargo test "${cuda[@]}" --test cuda_emulated --test cuda_gpu

if [ -n "${SCRL_PYTHON:-}" ]; then
    step "against PyTorch"
    "$SCRL_PYTHON" scripts/test_export.py
    "$SCRL_PYTHON" scripts/test_eval.py
    "$SCRL_PYTHON" scripts/finetune_detection.py --smoke
fi
