#!/usr/bin/env bash
# Packs the files that a GPU machine without Rust needs to test and time this commit: run
# OUT/gpu_report.sh there.
#
#   scripts/gpu_pack.sh [--images DIR] [--profile P] [--features F] [OUT]
#
#   --images DIR     adds up to 25 MiB of the images below DIR, in their folders, to train on
#   --profile P      Cargo's profile; dev packs what the tests have built, in seconds (release)
#   --features F     Cargo's features (cuda,cloud,nccl)
#
# OUT is .gpu by default, and is replaced. The whole pack is at most 56 MiB: images make do with the
# room that the programs leave.
#
# Needs nvcc: on the PATH, in $SCRL_CUDA or in ~/.cache/scrl-cuda (scripts/cuda_toolkit.sh makes it
# there). The binaries are for the GPUs of CUDA_COMPUTE_CAP, 90 (H100, H200) by default.
set -euo pipefail

MOST_MIB=56
IMAGES_MIB=25

usage() { sed -n '2,15s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
fail() { printf 'gpu_pack: %s\n' "$1" >&2; exit "${2:-1}"; }

images=
profile=release
features=cuda,cloud,nccl
out=
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --images) [ $# -ge 2 ] || fail "--images needs a folder" 2; images=$2; shift ;;
        --profile) [ $# -ge 2 ] || fail "--profile needs a name" 2; profile=$2; shift ;;
        --features) [ $# -ge 2 ] || fail "--features needs their names" 2; features=$2; shift ;;
        -*) fail "unknown option $1; --help shows the usage" 2 ;;
        *) [ -z "$out" ] || fail "expected one OUT; --help shows the usage" 2; out=$1 ;;
    esac
    shift
done
if [ -n "$images" ]; then
    [ -d "$images" ] || fail "$images is not a folder" 2
    images=$(realpath "$images")
fi
root=$(realpath "$(dirname "${BASH_SOURCE[0]}")/..")
out=$(realpath -m "${out:-$root/.gpu}")
# Only a folder that an earlier run made is removed.
if [ -e "$out" ] && [ ! -f "$out/BUILD" ] && [ -n "$(ls -A "$out")" ]; then
    fail "$out holds something else than a pack; name another folder or remove it" 2
fi
cd "$root"

if ! command -v nvcc >/dev/null; then
    toolkit=${SCRL_CUDA:-$HOME/.cache/scrl-cuda}
    [ -f "$toolkit/env.sh" ] ||
        fail "no nvcc on the PATH or in $toolkit; scripts/cuda_toolkit.sh makes one"
    # shellcheck disable=SC1091
    . "$toolkit/env.sh"
fi
# Without a GPU, the build cannot find this out.
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90}

# One call for all of them, and with the features of the tests, since calls that differ resolve
# other features of the dependencies and would build those again.
messages=$(mktemp)
trap 'rm -f "$messages"' EXIT
cargo build --workspace --profile "$profile" --locked --features "$features" --bins \
    --example bench_step --example bench_plans --test cuda_gpu \
    --message-format json-render-diagnostics >"$messages"

rm -rf "$out"
mkdir -p "$out/bin"
# Cargo alone knows where the test binary is, as its name has a hash.
python3 - "$messages" <<'PYTHON' |
import json, sys

wanted = dict.fromkeys(["scrl-train", "scrl-prep", "scrl-eval"], "bin")
wanted |= {"bench_step": "example", "bench_plans": "example", "cuda_gpu": "test"}
found = {}
for line in open(sys.argv[1]):
    message = json.loads(line) if line.startswith("{") else {}
    target = message.get("target", {})
    name = target.get("name")
    if message.get("executable") and name in wanted and wanted[name] in target["kind"]:
        found[name] = message["executable"]
if missing := [name for name in wanted if name not in found]:
    sys.exit(f"gpu_pack: cargo built no {', '.join(missing)}")
for name, path in found.items():
    print(name, path, sep="\t")
PYTHON
    while IFS=$'\t' read -r name path; do
        strip -o "$out/bin/$name" "$path"
        chmod 755 "$out/bin/$name"
    done
# All binaries contain candle's kernels, half of their size. A dictionary larger than two binaries
# stores them once. A trial need not wait for the smallest file.
effort=6
[ "$profile" != dev ] || effort=0
tar -C "$out" --sort=name --owner=0 --group=0 --mtime=@0 -c bin |
    xz --threads=1 --lzma2=preset=$effort,dict=192MiB >"$out/bin.tar.xz"
rm -r "$out/bin"
cp scripts/gpu_report.sh scripts/gpu_report_page.py scripts/bench_pytorch.py scripts/scrl_torch.py \
    "$out/"

commit=$(git rev-parse HEAD 2>/dev/null || echo unknown)
if [ "$commit" != unknown ] && [ -n "$(git status --porcelain --untracked-files=no)" ]; then
    commit+=" with changes"
fi
cat >"$out/BUILD" <<EOF
commit: $commit
date: $(date -u '+%Y-%m-%d %H:%M UTC')
rustc: $(rustc --version)
nvcc: $(nvcc --version | sed -n 's/^Cuda compilation tools, //p')
compute capability: $CUDA_COMPUTE_CAP
profile: $profile, features $features
EOF

bytes() { find "$out" -type f -printf '%s\n' | awk '{ sum += $1 } END { print sum }'; }
if [ -n "$images" ]; then
    # Every k-th of the sorted paths, with the smallest k that fits: the same images every time, and
    # of all classes rather than the first ones.
    room=$(((MOST_MIB << 20) - $(bytes)))
    most=$((IMAGES_MIB << 20))
    python3 - "$images" "$out/images" $((room < most ? room : most)) <<'PYTHON'
import os, shutil, sys
from pathlib import Path

source, out, most = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
endings = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
files = [Path(folder, name) for folder, _, names in os.walk(source) for name in names]
files = sorted((f for f in files if f.suffix.lower() in endings and f.is_file()), key=os.fsencode)
if not files:
    sys.exit(f"gpu_pack: no images below {source}")
sizes = [file.stat().st_size for file in files]
step = next((k for k in range(1, len(files) + 1) if sum(sizes[::k]) <= most), None)
if step is None:
    sys.exit(f"gpu_pack: {files[0]} does not fit into {most / 2**20:.1f} MiB")
for file in files[::step]:
    copy = out / file.relative_to(source)
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, copy)
print(f"images: {len(files[::step])} of {len(files)}")
PYTHON
fi

bytes=$(bytes)
mib=$(awk -v bytes="$bytes" 'BEGIN { printf "%.1f", bytes / 1048576 }')
[ "$bytes" -le $((MOST_MIB << 20)) ] || fail "$out is $mib MiB, over the limit of $MOST_MIB MiB"
printf '%s: %s MiB\n' "$out" "$mib"
