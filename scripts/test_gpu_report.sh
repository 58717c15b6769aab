#!/usr/bin/env bash
# Tests scripts/gpu_pack.sh and gpu_report.sh without a GPU: packs the programs of the tests, and
# runs every part of the report, which must fail or be skipped in seconds and leave a whole report.
# Where scripts/simulate_gpu.sh is, the parts that it can do run on a simulated GPU, in small.
#
#   scripts/test_gpu_report.sh [--features F]      of gpu_pack.sh
#
# Needs nvcc, and CUDA's libraries and a driver, which may be a stub, in LD_LIBRARY_PATH.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case ${1:-} in
    -h | --help) sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
esac
fail() { printf 'test_gpu_report: %s\n' "$1" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# 41 images in two class folders: one more than ten batches of four pairs.
python3 - "$work/images" <<'PYTHON'
import pathlib, random, struct, sys, zlib

def png(side, seed):
    rows = b"".join(b"\0" + random.Random(f"{seed} {y}").randbytes(3 * side) for y in range(side))
    chunk = lambda name, data: (struct.pack(">I", len(data)) + name + data
                                + struct.pack(">I", zlib.crc32(name + data)))
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows))
            + chunk(b"IEND", b""))

for number in range(41):
    path = pathlib.Path(sys.argv[1], "ab"[number % 2], f"{number:02}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(80, number))
PYTHON
scripts/gpu_pack.sh --profile dev "$@" --images "$work/images" "$work/pack"

export REPORT_ARCH=resnet18 REPORT_SIZE=64 REPORT_PAIRS=4 REPORT_STEPS=10

# check EXPECTED PART...: the report of OUT is whole, and these parts ended as expected.
check() {
    python3 - "$work/out" "$@" <<'PYTHON'
import json, pathlib, sys, tarfile

out, expected, names = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
files = sorted(path.name for path in out.iterdir())
assert files == ["report.json", "report.md", "report.tar"], files
report = json.loads((out / "report.json").read_text())
state = {part["part"]: part["state"] for part in report["parts"]}
with tarfile.open(out / "report.tar") as tar:
    inside = tar.getnames()
    assert tar.extractfile("report.json").read() == (out / "report.json").read_bytes()
page = (out / "report.md").read_text()
for name in names:
    assert state.get(name) in expected.split(","), f"{name}: {state.get(name)}\n{page}"
    if state[name] in ("ok", "failed"):
        assert f"logs/{name}.log" in inside, inside
print(f"{len(state)} parts, {len(inside)} files in report.tar")
PYTHON
}

status=0
"$work/pack/gpu_report.sh" --minutes 2 "$work/out" || status=$?
[ $status = 1 ] || fail "exit code $status of a report without a GPU, where 1 is expected"
check failed environment scrl_bf16_4 profile plans ops shards_train steps same_bits
check "failed,not there" eval pytorch_eager_4 sanitizer ranks
check ok shards_prepare

SCRL_SIM_DRY=1 scripts/simulate_gpu.sh "$work/pack/gpu_report.sh" --minutes 5 \
    --only speed,profile,shards,eval "$work/out"
check ok scrl_bf16_4 scrl_bf16_1 cudnn_filters_4 profile shards_prepare shards_train
check ok eval
