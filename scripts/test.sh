#!/usr/bin/env bash
# Everything a change must pass: format, lints, documentation, the quickstart in small, and every test.
#
# Needs Rust with the toolchain of rust-toolchain.toml, a C compiler and Python 3; no Python packages. With a Python that has
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

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

step "build"
cargo test --workspace --no-run --locked

step "quickstart, in small"
scripts/quickstart.sh --smoke

step "experiment, in small"
scripts/experiment.sh --smoke

step "tests"
cargo test --workspace --locked

if [ -n "${SCRL_PYTHON:-}" ]; then
    step "against PyTorch"
    "$SCRL_PYTHON" scripts/test_export.py
    "$SCRL_PYTHON" scripts/test_eval.py
    "$SCRL_PYTHON" scripts/finetune_detection.py --smoke
fi
