#!/usr/bin/env bash
# How fast shards are made from a folder of photos, beside what else prepares such views; the answer is a table in Markdown.
#
#   scripts/bench_prep.sh IMAGES [EPOCHS]     EPOCHS: 8 without it, as many as share one decoding of each photo
#
# Builds the release, makes shards of each kind in a temporary folder with all cores (of recipes 125 times as many epochs, as
# they take no time), times the stages of a view, and times torchvision, AlbumentationsX and DALI where the Python in $PYTHON
# (python3 without it) has them.
set -euo pipefail

usage() { sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
fail() { printf 'bench_prep: %s\n' "$1" >&2; exit "${2:-1}"; }

case ${1:-} in
    -h | --help) usage; exit 0 ;;
    '') usage >&2; exit 2 ;;
esac
[ -d "$1" ] || fail "$1 is no folder" 2
images=$(cd "$1" && pwd)
epochs=${2:-8}
[[ $epochs =~ ^[1-9][0-9]*$ ]] || fail "$epochs is no number of epochs" 2
python=${PYTHON:-python3}
cores=$(nproc)

cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=${CARGO_TARGET_DIR:-target}
cargo build --release --workspace --locked >&2
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# One line of the table: three runs of scrl-prep, timed from outside as a user would; the middle one, and the range.
run() {
    local epochs=$1 views=$2
    "$python" - "$target/release/scrl-prep" "$images" "$out" "$epochs" "$views" "$cores" <<'PYTHON'
import json, pathlib, resource, shutil, subprocess, sys, time

program, images, out, epochs, views, threads = sys.argv[1:]
shards = pathlib.Path(out, "shards")
command = [program, "--epochs", epochs, "--views", views, "--threads", threads, images, str(shards)]
rates = []
for _ in range(3):
    shutil.rmtree(shards, ignore_errors=True)
    start = time.perf_counter()
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        sys.exit(f"bench_prep: {done.stderr.strip()}")
    parts = [part for path in shards.glob("epoch=*/_SUCCESS") for part in json.loads(path.read_text())["parts"]]
    pairs, written = sum(part["rows"] for part in parts), sum(part["bytes"] for part in parts)
    rates.append(pairs / seconds)
low, middle, high = sorted(rates)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
print(f"| scrl-prep --views {views} --epochs {epochs} | {middle:,.0f} ({low:,.0f}–{high:,.0f}) "
      f"| {middle * written / pairs / 1e6:,.0f} | {written / pairs:,.0f} | {peak:,.0f} |", flush=True)
PYTHON
}

# Fills the page cache.
run 1 recipe >/dev/null
printf '\n%s cores, %s photos\n\n' "$cores" "$(find "$images" -type f | wc -l)"
printf '| %s threads | pairs/s | MB/s | bytes a pair | peak MiB |\n|---|---|---|---|---|\n' "$cores"
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
# Criterion prints the name, then "time: [low middle high]" with units.
SCRL_BENCH_IMAGES="$images" cargo bench --workspace --locked --bench stages -- --quick 2>/dev/null |
    "$python" -c '
import re, sys

name, scale = "", {"ns": 1e-6, "µs": 1e-3, "ms": 1.0, "s": 1e3}
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
