#!/usr/bin/env bash
# Times and tests a pack of scripts/gpu_pack.sh on this machine's GPU, the most telling parts first.
#
#   gpu_report.sh [--minutes N] [--only PART,PART...] [OUT]
#
#   --minutes N      time for all parts (9); what does not fit is left for a second run
#   --only PARTS     these parts alone, of: environment speed profile plans ops shards pytorch eval
#                    steps ranks same_bits sanitizer more
#
# OUT is report by default, and gets report.md, report.json and report.tar with both and all logs.
# Each part runs for itself; one that fails is reported, the others still run, and the exit code is
# 1. All three files are replaced after every part, so that a run that is cut off loses one part.
#
# Needs Python 3 ($PYTHON or python3). The CUDA libraries are those of LD_LIBRARY_PATH, then those
# of Python's nvidia wheels, such as PyTorch's. For a trial the variables REPORT_ARCH, REPORT_SIZE,
# REPORT_PAIRS and REPORT_STEPS, tens of them, make the work smaller than resnet50, 224, 256, 200.
set -euo pipefail
export LC_ALL=C

ARCH=${REPORT_ARCH:-resnet50}
SIZE=${REPORT_SIZE:-224}
PAIRS=${REPORT_PAIRS:-256}
FEW=$((PAIRS / 4))
STEPS=${REPORT_STEPS:-200}
TIMED=$(((STEPS + 9) / 10))
# The page after the last part, and what stands in its way, such as a GPU that is slow to let go.
RESERVE=10

usage() { sed -n '2,17s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
fail() { printf 'gpu_report: %s\n' "$1" >&2; exit "${2:-1}"; }

known="environment speed profile plans ops shards pytorch eval steps ranks same_bits sanitizer more"
minutes=9
only=
out=
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --minutes) [ $# -ge 2 ] || fail "--minutes needs a number" 2; minutes=$2; shift ;;
        --only) [ $# -ge 2 ] || fail "--only needs the names of parts" 2; only=$2; shift ;;
        -*) fail "unknown option $1; --help shows the usage" 2 ;;
        *) [ -z "$out" ] || fail "expected one OUT; --help shows the usage" 2; out=$1 ;;
    esac
    shift
done
[[ $minutes =~ ^[1-9][0-9]*$ ]] || fail "--minutes $minutes is not a positive number" 2
for name in ${only//,/ }; do
    [[ " $known " == *" $name "* ]] || fail "no part is called $name; there are: $known" 2
done
python=${PYTHON:-python3}
command -v "$python" >/dev/null || fail "$python is not installed"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ -f "$here/bin.tar.xz" ] ||
    fail "$here has no bin.tar.xz; run the copy in a pack of scripts/gpu_pack.sh"
mkdir -p "${out:-report}"
out=$(cd "${out:-report}" && pwd)
rm -f "$out"/report.{md,json,tar}
# Shards, checkpoints and caches are gigabytes, and OUT is small enough to send around.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
child=
trap 'kill $child 2>/dev/null; exit 130' INT TERM
mkdir "$work/json" "$work/logs"
touch "$work/parts.tsv"
"$python" -m tarfile -e "$here/bin.tar.xz" "$work"
# Tests that find no GPU fail instead of being skipped.
export SCRL_REQUIRE_GPU=1 RUST_BACKTRACE=0
export here work python ARCH SIZE PAIRS STEPS TIMED
export TORCHINDUCTOR_CACHE_DIR=$work/inductor TRITON_CACHE_DIR=$work/triton

# PyTorch finds its libraries by itself, and does not need ours.
caller_libraries=${LD_LIBRARY_PATH:-}
wheels=$("$python" - <<'PYTHON' || true
import pathlib, sys
folders = [f for entry in sys.path for f in pathlib.Path(entry or ".").glob("nvidia/*/lib")]
print(":".join(dict.fromkeys(str(f.resolve()) for f in folders)))
PYTHON
)
export LD_LIBRARY_PATH=$caller_libraries${caller_libraries:+${wheels:+:}}$wheels
[ -n "$LD_LIBRARY_PATH" ] || unset LD_LIBRARY_PATH

record() { # NAME STATE SECONDS NOTE
    printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "${4//$'\t'/ }" >>"$work/parts.tsv"
    printf '%-24s %-10s %6s s  %s\n' "$1" "$2" "$3" "$4"
    "$python" "$here/gpu_report_page.py" "$here" "$work" "$out" ||
        printf 'gpu_report: no report after %s\n' "$1" >&2
}
skip() { record "$1" "not there" 0 "$2"; }

# part NAME SECONDS COMMAND...: runs the command on its own, for the SECONDS or what is left of all.
# $must is a pattern that its log needs, $results a JSON file that it has to write.
part() {
    local name=$1 seconds=$2 left=$((60 * minutes - RESERVE - SECONDS)) log=$work/logs/$1.log
    local start status=0 state=ok note='' took
    shift 2
    if [ "$left" -le 0 ]; then
        record "$name" "no time" 0 "the $minutes minutes are over"
        return
    fi
    [ "$left" -ge "$seconds" ] || seconds=$left
    start=$EPOCHREALTIME
    # In the background, as bash answers Ctrl-C during a wait but not during a command.
    timeout -k 5 "$seconds" "$@" >"$log" 2>&1 </dev/null &
    child=$!
    wait $child || status=$?
    child=
    case $status in
        0) note=$(grep -oE "${must:-^$}" "$log" | tail -1 || true) ;;
        124 | 137) state=failed note="timed out after $seconds s" ;;
        *) state=failed note="exit code $status" ;;
    esac
    if [ "$state" = ok ] && [ -n "${must:-}" ] && [ -z "$note" ]; then
        state=failed note="no test ran"
    elif [ "$state" = ok ] && [ -n "${results:-}" ] &&
        ! "$python" -m json.tool "$results" >/dev/null 2>&1; then
        state=failed note="wrote no results"
    fi
    if [ "$(stat -c %s "$log")" -gt 65536 ]; then
        { head -c 16384 "$log"; printf '\n... cut here ...\n'; tail -c 32768 "$log"; } >"$work/log"
        mv "$work/log" "$log"
    fi
    took=$(awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
    record "$name" "$state" "$took" "$note"
}
tests() { # NAME SECONDS
    must='[1-9][0-9]* passed' part "$1" "$2" \
        "$work/bin/cuda_gpu" --test-threads 1 --nocapture "$1"
}
ours() { # NAME ARGUMENTS...
    local results=$work/json/$1.json
    part "$1" 60 "$work/bin/bench_step" --device cuda --arch "$ARCH" --size "$SIZE" \
        "${@:2}" --json "$results"
}
pytorch() { # MODE PAIRS SECONDS
    local name=pytorch_$1_$2 results
    results=$work/json/$name.json
    if "$python" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)'; then
        part "$name" "$3" env LD_LIBRARY_PATH="$caller_libraries" \
            "$python" "$here/bench_pytorch.py" --arch "$ARCH" --size "$SIZE" --batch-size "$2" \
            --mode "$1" --steps "$TIMED" --json "$results"
    else
        skip "$name" "$python has no PyTorch"
    fi
}
has_images() { find "$here/images" -type f 2>/dev/null | grep -q .; }

environment() {
    local fields status=0 program missing
    date -u '+date: %Y-%m-%d %H:%M UTC'
    fields=name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit,compute_cap
    if nvidia-smi --query-gpu=$fields --format=csv,noheader >"$work/gpu" 2>/dev/null; then
        head -1 "$work/gpu" | sed 's/, /\n/g' |
            paste -d' ' <(printf '%s\n' gpu: driver: 'gpu memory:' 'highest clock:' \
                'highest memory clock:' 'power limit:' 'compute capability:') -
        printf 'gpus: %s\n' "$(wc -l <"$work/gpu")"
        printf 'CUDA of the driver: %s\n' \
            "$(nvidia-smi | sed -n 's/.*CUDA Version: *\([0-9.]*\).*/\1/p')"
    else
        printf 'gpu: none, as nvidia-smi fails\n'
        status=1
    fi
    printf 'CPU: %s\n' "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)"
    printf 'CPU cores: %s\n' "$(nproc)"
    printf 'memory: %s\n' "$(awk '/MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)"
    printf 'glibc: %s\n' "$(getconf GNU_LIBC_VERSION | sed 's/glibc //')"
    "$python" - <<'PYTHON'
import importlib.metadata, platform
found = importlib.metadata.distributions()
names = {d.metadata["Name"]: d.version for d in found if d.metadata["Name"]}
kept = [n for n in sorted(names) if n.startswith(("torch", "triton", "nvidia-cu", "nvidia-nccl"))]
print("Python:", ", ".join([platform.python_version()] + [f"{n} {names[n]}" for n in kept]))
PYTHON
    for program in "$work"/bin/*; do
        missing=$(ldd "$program" 2>&1 | awk '/not found/ { printf "%s ", $0 }' | tr -s ' \t' ' ')
        if [ -n "$missing" ]; then
            printf 'missing for %s: %s\n' "${program##*/}" "$missing"
            status=1
        fi
    done
    printf 'CUDA libraries: %s\n' \
        "$(ldd "$work/bin/scrl-train" | awk '/lib(cu|nv|nccl)/ { print $3 }' | tr '\n' ' ')"
    return $status
}
export -f environment

plans() {
    local results=$work/json/plans.json
    part plans 60 "$work/bin/bench_plans" --arch "$ARCH" --size "$SIZE" --batch-size "$PAIRS" \
        --precision bf16 --json "$results"
}

# The pack has few images, and an epoch drops its last short batch: copies make epochs of ten steps
# or more. Below their class folders, so that classes stay what they are.
prepare() {
    "$python" - "$here/images" "$work/images" $((10 * PAIRS)) <<'PYTHON'
import pathlib, shutil, sys
source, out, least = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
files = sorted(f for f in source.rglob("*") if f.is_file())
copies = -(-least // len(files))
for file in files:
    folder = out / file.parent.relative_to(source)
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(copies):
        shutil.copyfile(file, folder / f"{index:03}-{file.name}")
print(f"{len(files)} images, {copies} copies of each")
PYTHON
    local steps epochs
    steps=$(($(find "$work/images" -type f | wc -l) / PAIRS))
    # One more than it takes, as an image that cannot be read makes an epoch shorter.
    epochs=$(((STEPS + steps - 1) / steps + 1))
    printf '%s epochs of %s steps\n' "$epochs" "$steps"
    printf '%s\n' $((epochs / 2 < 10 ? epochs / 2 : 10)) >"$work/warmup"
    "$work/bin/scrl-prep" --epochs "$epochs" --size "$SIZE" "$work/images" "$work/shards"
}
train() {
    "$work/bin/scrl-train" --device cuda --preset paper --arch "$ARCH" --batch-size "$PAIRS" \
        --max-steps "$STEPS" --warmup-epochs "$(cat "$work/warmup")" --log-every "$TIMED" \
        --out "$work/run" "$work/shards" || return
    if ! grep -qE "\"step\": ?$STEPS\b" "$work/run/metrics.jsonl"; then
        printf 'step %s was not reached\n' "$STEPS"
        return 1
    fi
}
export -f prepare train
shards() {
    if ! has_images; then
        skip shards_prepare "the pack has no images"
        return
    fi
    part shards_prepare 90 bash -c 'set -euo pipefail; prepare'
    if [ "$(tail -1 "$work/parts.tsv" | cut -f2)" = ok ]; then
        part shards_train 90 bash -c 'set -uo pipefail; train'
    fi
}

evaluate() {
    if ! has_images; then
        skip eval "the pack has no images"
    elif ! "$work/bin/scrl-eval" linear --help 2>/dev/null | grep -q -e --device; then
        skip eval "scrl-eval has no --device, or does not start"
    else
        local results=$work/eval/results.json
        part eval 60 "$work/bin/scrl-eval" linear --device cuda \
            --images "$here/images" --checkpoint random --arch "$ARCH" --size "$SIZE" --crops 2 \
            --out "$work/eval"
    fi
}

sanitizer() {
    local folders tool
    IFS=: read -ra folders <<<"$wheels"
    for tool in "$(command -v compute-sanitizer || true)" /usr/local/cuda/bin/compute-sanitizer \
        "${folders[@]/%lib/bin/compute-sanitizer}" \
        "${folders[@]/%lib/compute-sanitizer/compute-sanitizer}"; do
        if [ -f "$tool" ] && [ -x "$tool" ]; then
            must='[1-9][0-9]* passed' part sanitizer 120 \
                "$tool" --error-exitcode 1 "$work/bin/cuda_gpu" --exact sanitized_step
            return
        fi
    done
    skip sanitizer "no compute-sanitizer on the PATH, in /usr/local/cuda or in the nvidia wheels"
}

for name in $known; do
    [ -z "$only" ] || [[ ,$only, == *,$name,* ]] || continue
    case $name in
        environment) part environment 20 bash -c environment ;;
        speed)
            for pairs in "$PAIRS" "$FEW"; do
                ours "scrl_bf16_$pairs" --batch-size "$pairs" --precision bf16 --steps "$TIMED"
            done
            # The other way of computing the gradients of 1x1 filters.
            ours "cudnn_filters_$PAIRS" --batch-size "$PAIRS" --precision bf16 --steps "$TIMED" \
                --filters-by-cudnn
            ;;
        profile) ours profile --batch-size "$PAIRS" --precision bf16 --steps 5 --profile ;;
        plans | shards | sanitizer) $name ;;
        ops) tests ops 90 ;;
        # A compilation takes longer than the steps that it is for.
        pytorch) pytorch eager "$PAIRS" 30; pytorch compile "$PAIRS" 120 ;;
        eval) evaluate ;;
        steps) tests steps 120 ;;
        ranks | same_bits) tests "$name" 60 ;;
        more)
            ours "scrl_bf16_${PAIRS}_again" --batch-size "$PAIRS" --precision bf16 --steps "$TIMED"
            ours "scrl_f32_$FEW" --batch-size "$FEW" --precision f32 --steps "$TIMED"
            pytorch eager "$FEW" 30
            pytorch compile "$FEW" 120
            ;;
    esac
done

if cut -f2 "$work/parts.tsv" | grep -qx "no time"; then
    printf 'the parts without time can run alone: --only with their names\n'
fi
printf '%s\n' "$out/report.md"
! cut -f2 "$work/parts.tsv" | grep -qx failed
