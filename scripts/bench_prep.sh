#!/usr/bin/env bash
# Times scrl-prep on a folder of images in turns with an older build and with other libraries that
# prepare such views, and then the stages of a view; prints tables in Markdown.
#
#   scripts/bench_prep.sh IMAGES [--epochs N] [--turns N] [--against BUILD] [--json FILE]
#   scripts/bench_prep.sh IMAGES --smoke [--bin FOLDER]      a few seconds, to test this script
#
#   --epochs N       epochs of a run, which share one decode of an image up to 8 (8)
#   --turns N        runs of each side: A B A B A B are 3 (3)
#   --against BUILD  an older scrl-prep, or the target folder with it
#   --bin FOLDER     the programs to time; without it the release is built
#   --json FILE      every run, with the processor, the commit and the date
#
# The libraries are those that the Python in $PYTHON (python3 without it) has of AlbumentationsX,
# torchvision and DALI; the others are left out with a line. All cores are used.
set -euo pipefail

usage() { sed -n '2,15s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
fail() { printf 'bench_prep: %s\n' "$1" >&2; exit "${2:-1}"; }

case ${1:-} in
    -h | --help) usage; exit 0 ;;
    '' | -*) usage >&2; exit 2 ;;
esac
[ -d "$1" ] || fail "$1 is not a folder" 2
images=$(cd "$1" && pwd)
shift
python=${PYTHON:-python3}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [[ " $* " == *" --bin "* ]]; then
    exec "$python" "$here/bench_turns.py" prep "$images" "$@"
fi
target=${CARGO_TARGET_DIR:-$here/../target}
cargo build --release --workspace --locked --manifest-path "$here/../Cargo.toml" >&2
"$python" "$here/bench_turns.py" prep "$images" --bin "$target/release" "$@"

cd "$here/.."
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
