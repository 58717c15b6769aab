#!/usr/bin/env bash
# Everything a change must pass: format, lints, documentation, the quickstart in small, and every test.
#
# Needs Rust with the toolchain of rust-toolchain.toml, a C compiler and Python 3 with venv, into which pip fetches the
# packages that read Parquet. With a Chromium the page of scrl-inspect is tried in it as well.
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

step "tests"
cargo test --workspace --locked

step "readers of Parquet"
python=$(scripts/readers_python.sh)
"$python" scripts/test_readers.py --bin "${CARGO_TARGET_DIR:-target}/debug"
