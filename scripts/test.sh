#!/usr/bin/env bash
# Everything a change must pass: format, lints, documentation, the quickstart in small, and every test.
#
# Needs Rust with the toolchain of rust-toolchain.toml, a C and a C++ compiler, and Python 3 with venv, into which pip fetches the
# packages that read Parquet and, where there is no nvcc, a CUDA toolkit of 2 GB (scripts/cuda_toolkit.sh). With a Chromium the
# page of scrl-inspect is tried in it as well. With a Python that has PyTorch, torchvision, NumPy, Pillow, safetensors and pycocotools, named in SCRL_PYTHON, also the comparisons with those.
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

step "CUDA toolkit"
if ! command -v nvcc >/dev/null; then
    scripts/cuda_toolkit.sh
    # shellcheck disable=SC1091
    . "$HOME/.cache/scrl-cuda/env.sh"
fi
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90}

# Once, with the code of all features.
step "clippy"
cargo clippy --workspace --all-targets --features cuda --locked -- -D warnings

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --features cuda --locked

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

if [ -n "${SCRL_PYTHON:-}" ]; then
    step "against PyTorch"
    "$SCRL_PYTHON" scripts/test_export.py
    "$SCRL_PYTHON" scripts/test_eval.py
    "$SCRL_PYTHON" scripts/finetune_detection.py --smoke
fi

# Linked against CUDA's libraries; the tests above have run the kernels on the CPU. Where there is no driver, a stub of it lets the
# program start. Last, as the programs above must not need those libraries.
step "CUDA"
cargo build --workspace --bins --features cuda --locked
libraries=$(dirname "$(command -v nvcc)")/../lib64
LD_LIBRARY_PATH=$libraries:$libraries/stubs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} \
    "${CARGO_TARGET_DIR:-target}/debug/scrl-train" --version
