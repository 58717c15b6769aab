#!/usr/bin/env bash
# Times scrl-prep on a folder of images, beside other libraries that prepare such views; prints
# tables in Markdown.
#
#   scripts/bench_prep.sh IMAGES [EPOCHS]     EPOCHS: 8, those that share one decode of an image
#
# Builds the release, makes shards of each kind in a temporary folder with all cores (for recipes
# 125 times as many epochs, as they take little time), times the stages of a view, and times
# torchvision, AlbumentationsX and DALI where the Python in $PYTHON (python3 without it) has them.
set -euo pipefail

usage() { sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
fail() { printf 'bench_prep: %s\n' "$1" >&2; exit "${2:-1}"; }

case ${1:-} in
    -h | --help) usage; exit 0 ;;
    '') usage >&2; exit 2 ;;
esac
[ -d "$1" ] || fail "$1 is not a folder" 2
images=$(cd "$1" && pwd)
epochs=${2:-8}
[[ $epochs =~ ^[1-9][0-9]*$ ]] || fail "$epochs is not a number of epochs" 2
python=${PYTHON:-python3}
cores=$(nproc)

cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=${CARGO_TARGET_DIR:-target}
cargo build --release --workspace --locked >&2
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# One row of the table: three runs of scrl-prep, timed from outside as a user would; median and
# range.
run() {
    local epochs=$1 views=$2
    "$python" - "$target/release/scrl-prep" "$images" "$out" "$epochs" "$views" "$cores" <<'PYTHON'
import json, pathlib, resource, shutil, subprocess, sys, time

program, images, out, epochs, views, threads = sys.argv[1:]
folder = pathlib.Path(out, "shards")
command = [program, "--epochs", epochs, "--views", views, "--threads", threads, images, str(folder)]
rates = []
for _ in range(3):
    shutil.rmtree(folder, ignore_errors=True)
    start = time.perf_counter()
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        sys.exit(f"bench_prep: {done.stderr.strip()}")
    epochs_done = [json.loads(path.read_text()) for path in folder.glob("epoch=*/_SUCCESS")]
    shards = [shard for epoch in epochs_done for shard in epoch["parts"]]
    pairs, written = sum(s["rows"] for s in shards), sum(s["bytes"] for s in shards)
    rates.append(pairs / seconds)
low, median, high = sorted(rates)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
mb_per_s, per_pair = median * written / pairs / 1e6, written / pairs
print(f"| scrl-prep --views {views} --epochs {epochs} | {median:,.0f} ({low:,.0f}–{high:,.0f}) "
      f"| {mb_per_s:,.0f} | {per_pair:,.0f} | {peak:,.0f} |", flush=True)
PYTHON
}

# Fills the page cache.
run 1 recipe >/dev/null
printf '\n%s cores, %s images\n\n' "$cores" "$(find "$images" -type f | wc -l)"
printf '| %s threads | pairs/s, median of 3 (min–max) ' "$cores"
printf '| MB/s | bytes a pair | peak MiB |\n|---|---|---|---|---|\n'
for views in webp jpeg recipe; do
    if [ "$views" = recipe ]; then
        run $((epochs * 125)) "$views"
        continue
    fi
    run "$epochs" "$views"
    [ "$epochs" = 1 ] || run 1 "$views"
done
rm -rf "$out/shards"
"$python" scripts/bench_prep_peers.py "$images" --workers "$cores"

printf '\n| stage, one thread | ms |\n|---|---|\n'
# Criterion prints the name, then "time: [low median high]" with units.
SCRL_BENCH_IMAGES="$images" cargo bench --workspace --locked --bench stages -- --quick 2>/dev/null |
    "$python" -c '
import re, sys

name, note = "", ""
scale = {"ns": 1e-6, "µs": 1e-3, "ms": 1.0, "s": 1e3}
for line in sys.stdin:
    if line.startswith("bytes a view"):
        note = line.strip()
    found = re.match(r"(.*?)\s*time:\s*\[\S+ \S+ (\S+) (\S+) ", line)
    if found:
        print(f"| {found[1] or name} | {float(found[2]) * scale[found[3]]:.3f} |")
    elif line.strip():
        name = line.strip()
print("\n" + note)
'
