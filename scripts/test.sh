#!/usr/bin/env bash
# Everything a change must pass: format, lints, documentation, the quickstart and the experiment in
# small, every test, the readers of Parquet, and a build with CUDA.
#
# Needs Rust with the toolchain of rust-toolchain.toml, a C and a C++ compiler, and Python 3 with
# venv, in which pip installs the readers of Parquet, a server of S3 and, where there is no nvcc, a
# CUDA toolkit of 2 GB (scripts/cuda_toolkit.sh). With a Chromium, the page of scrl-inspect is tested
# in it. With npm, an emulator of Azure Blob Storage is installed.
# With an MPI library (libopenmpi-dev, openmpi-bin) and libclang, training under mpirun is compiled
# and tested as well.
# SCRL_PYTHON names a Python with PyTorch, torchvision, NumPy, Pillow, pyarrow, safetensors and
# pycocotools, and transformers and timm to test the exports for them; then the comparisons with
# PyTorch run as well, about three minutes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin=${CARGO_TARGET_DIR:-target}/debug

step() { printf '\n== %s\n' "$*"; }

# --workspace throughout: Cargo chooses the features of dependencies for what it builds together,
# and a single package would have them compiled again.
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

features=cuda,cloud
libraries=$(dirname "$(command -v nvcc)")/../lib64
if [ -e "$libraries/libnccl.so" ] || ldconfig -p | grep 'libnccl\.so ' >/dev/null; then
    features+=,nccl
else
    echo "without NCCL, which this toolkit lacks"
fi
if command -v mpicc >/dev/null && command -v mpirun >/dev/null; then features+=,mpi; fi

# Once, with the code of all features.
step "clippy"
cargo clippy --workspace --all-targets --features $features --locked -- -D warnings

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --features $features --locked

# The other programs are built with object stores; this is the only crate that differs without.
step "build without object stores"
cargo check -p scrl-schemas --locked

step "build"
cargo test --workspace --no-run --features cloud --locked

step "quickstart, in small"
scripts/quickstart.sh --smoke

step "experiment, in small"
scripts/experiment.sh --smoke

step "benchmarks, in small"
work=$(mktemp -d)
"$bin/examples/make_scenes" "$work/scenes" --single --images 6 --val 0 --size 160x120
scripts/bench_prep.sh "$work/scenes/train2017" --smoke --bin "$bin" --json "$work/prep.json"
scripts/bench_train.sh --smoke --bin "$bin" --json "$work/train.json"
for file in prep train; do python3 -m json.tool "$work/$file.json" >/dev/null; done
rm -rf "$work"

step "tests"
cargo test --workspace --features cloud --locked

step "training on several processes"
python3 scripts/test_ranks.py --bin "$bin" --kills 1

step "readers of Parquet"
python=$(scripts/readers_python.sh)
"$python" scripts/test_readers.py --bin "$bin"

# A second kind of object store, where npm is at hand: Azure's, of which the emulator takes 186 MB.
step "object stores"
azurite=.venv/azurite
if command -v npm >/dev/null && [ ! -e $azurite/node_modules/.bin/azurite-blob ]; then
    npm install --silent --no-audit --no-fund --prefix $azurite azurite@3.35.0 ||
        echo "no emulator of Azure could be installed"
fi
"$python" scripts/test_object_stores.py --bin "$bin"

step "page of scrl-inspect in Chromium"
"$python" scripts/test_inspect_page.py --bin "$bin"

if [ -n "${SCRL_PYTHON:-}" ]; then
    step "views and training steps compared with torchvision and PyTorch"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    "$bin/examples/make_scenes" "$work/scenes" --single --images 40 --val 0 --size 160x120
    "$bin/scrl-prep" --quiet --epochs 2 --size 64 --min-box 16 "$work/scenes/train2017" \
        "$work/shards"
    "$SCRL_PYTHON" scripts/check_views.py "$work/shards" "$work/scenes/train2017"
    for method in scrl byol; do
        "$bin/scrl-train" --quiet --device cpu --preset paper --method $method --arch resnet18 \
            --hidden 128 --projection 64 --batch-size 8 --accumulate 2 --lr 1 --warmup-epochs 1 --max-steps 3 \
            --log-every 1 --checkpoint-every 3 --out "$work/$method" "$work/shards"
        "$SCRL_PYTHON" scripts/replay_in_pytorch.py "$work/shards" "$work/$method"
    done

    step "exported weights, evaluation and detectors compared with PyTorch"
    "$SCRL_PYTHON" scripts/test_export.py --bin "$bin"
    "$SCRL_PYTHON" scripts/test_eval.py --bin "$bin"
    "$SCRL_PYTHON" scripts/finetune_detection.py --smoke
fi

# Linked with CUDA's libraries; the tests above ran the kernels on the CPU. Where there is no
# driver, a stub of it lets the programs start. Last, since the programs above must not need those
# libraries.
step "CUDA"
export LD_LIBRARY_PATH=$libraries:$libraries/stubs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
scripts/test_gpu_report.sh --features $features
"$bin/scrl-train" --version
cargo test --workspace --features $features --locked --test cuda_cubins --test cuda_plans \
    --test cuda_simulated --test eval_device

step "training under mpirun"
if [[ $features == *mpi* ]]; then
    python3 scripts/test_ranks.py --bin "$bin" --launcher mpirun --short
else
    echo "skipped: no MPI library; on Debian apt-get install libopenmpi-dev openmpi-bin libclang-dev"
fi
