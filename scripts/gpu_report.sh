#!/usr/bin/env bash
# Tests and times a pack of scripts/gpu_pack.sh on this machine's GPU, in less than 20 minutes.
#
#   gpu_report.sh [--only PART,PART...] [OUT]      writes OUT/report.md, report.json and logs/
#
# OUT is report by default. The parts: environment, ops, steps, ranks, same_bits, sanitizer, speed,
# profile, shards. Each runs for itself; one that fails is reported, the others still run, and the
# exit code is 1. The report is written after every part, so it is there if the run is cut off.
#
# Needs Python 3 ($PYTHON or python3). The CUDA libraries are those of its nvidia wheels, such as
# PyTorch's, or those of LD_LIBRARY_PATH.
set -euo pipefail
export LC_ALL=C

LIMIT=1170 # seconds for all parts
STEPS=200
BATCH=256

usage() { sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
fail() { printf 'gpu_report: %s\n' "$1" >&2; exit "${2:-1}"; }

known=" environment ops steps ranks same_bits sanitizer speed profile shards "
only=
out=
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --only) [ $# -ge 2 ] || fail "--only needs the names of parts" 2; only=$2; shift ;;
        -*) fail "unknown option $1; --help shows the usage" 2 ;;
        *) [ -z "$out" ] || fail "expected one OUT; --help shows the usage" 2; out=$1 ;;
    esac
    shift
done
for name in ${only//,/ }; do
    [[ $known == *" $name "* ]] || fail "no part is called $name; there are:${known% }" 2
done
python=${PYTHON:-python3}
command -v "$python" >/dev/null || fail "$python is not installed"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ -f "$here/bin.tar.xz" ] ||
    fail "$here has no bin.tar.xz; run the copy in a pack of scripts/gpu_pack.sh"
mkdir -p "${out:-report}"
out=$(cd "${out:-report}" && pwd)
rm -rf "$out/logs" "$out/report.md" "$out/report.json"
mkdir "$out/logs"
# Shards, checkpoints and caches are gigabytes, and OUT is small enough to send around.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
child=
trap 'kill $child 2>/dev/null; exit 130' INT TERM
mkdir "$work/json"
"$python" -m tarfile -e "$here/bin.tar.xz" "$work"
# Tests that find no GPU fail instead of being skipped.
export SCRL_REQUIRE_GPU=1
export here work python STEPS BATCH
export TORCHINDUCTOR_CACHE_DIR=$work/inductor TRITON_CACHE_DIR=$work/triton
touch "$work/parts.tsv"

# PyTorch finds its libraries by itself; other versions in LD_LIBRARY_PATH would come before those.
caller_libraries=${LD_LIBRARY_PATH:-}
wheels=$("$python" - <<'PYTHON' || true
import pathlib, sys
folders = [f for entry in sys.path for f in pathlib.Path(entry or ".").glob("nvidia/*/lib")]
print(":".join(dict.fromkeys(str(f.resolve()) for f in folders)))
PYTHON
)
export LD_LIBRARY_PATH=$wheels${wheels:+${caller_libraries:+:}}$caller_libraries
[ -n "$LD_LIBRARY_PATH" ] || unset LD_LIBRARY_PATH

wanted() { [ -z "$only" ] || [[ ,$only, == *,$1,* ]]; }
record() { # NAME STATE SECONDS NOTE
    printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "${4//$'\t'/ }" >>"$work/parts.tsv"
    printf '%-24s %-10s %6s s  %s\n' "$1" "$2" "$3" "$4"
    "$python" "$work/assemble.py" "$here" "$work" "$out" ||
        printf 'gpu_report: no report after %s\n' "$1" >&2
}
skip() { record "$1" "not there" 0 "$2"; }

# part NAME SECONDS COMMAND...: runs the command on its own. $must is a pattern that its log needs,
# $results a JSON file that it has to write.
part() {
    local name=$1 seconds=$2 left=$((LIMIT - SECONDS)) log=$out/logs/$1.log
    local start status=0 state=ok note='' took
    shift 2
    if [ "$left" -le 0 ]; then
        record "$name" failed 0 "not run, as the $LIMIT s for all parts are over"
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
        cp "$work/log" "$log"
    fi
    took=$(awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
    record "$name" "$state" "$took" "$note"
}
tests() { # NAME SECONDS ARGUMENTS...
    local name=$1 seconds=$2
    shift 2
    must='[1-9][0-9]* passed' part "$name" "$seconds" \
        "$work/bin/cuda_gpu" --test-threads 1 --nocapture "$@"
}
ours() { # NAME ARGUMENTS...
    local results=$work/json/$1.json
    part "$1" 120 "$work/bin/bench_step" --device cuda --arch resnet50 "${@:2}" --json "$results"
}
pytorch() { # NAME MODE PAIRS
    local results=$work/json/$1.json
    if "$python" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)'; then
        part "$1" 150 env LD_LIBRARY_PATH="$caller_libraries" "$python" "$here/bench_pytorch.py" \
            --arch resnet50 --batch-size "$3" --mode "$2" --json "$results"
    else
        skip "$1" "$python has no PyTorch"
    fi
}

environment() {
    local fields status=0 program missing
    date -u '+date: %Y-%m-%d %H:%M UTC'
    fields=name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit,compute_cap
    if nvidia-smi --query-gpu=$fields --format=csv,noheader >"$work/gpu"; then
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

# In turns, so that a GPU that slows down as it warms is visible as a difference between our two
# runs.
speed() {
    local pairs mode
    for pairs in 256 64; do
        ours "scrl_bf16_${pairs}_first" --batch-size $pairs --precision bf16 --steps 20
        for mode in eager compile; do pytorch "pytorch_${mode}_$pairs" $mode $pairs; done
        ours "scrl_bf16_${pairs}_again" --batch-size $pairs --precision bf16 --steps 20
    done
    ours scrl_f32_64 --batch-size 64 --precision f32 --steps 20
}

# The pack has few images, and an epoch drops its last short batch: copies make epochs of ten steps
# or more. Below their class folders, so that classes stay what they are.
prepare() {
    "$python" - "$here/images" "$work/images" $((10 * BATCH)) <<'PYTHON'
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
    steps=$(($(find "$work/images" -type f | wc -l) / BATCH))
    # One more than it takes, as an image that cannot be read makes an epoch shorter.
    epochs=$(((STEPS + steps - 1) / steps + 1))
    printf '%s epochs of %s steps\n' "$epochs" "$steps"
    printf '%s\n' $((epochs / 2 < 10 ? epochs / 2 : 10)) >"$work/warmup"
    "$work/bin/scrl-prep" --epochs "$epochs" "$work/images" "$work/shards"
}
train() {
    "$work/bin/scrl-train" --device cuda --arch resnet50 --batch-size "$BATCH" \
        --max-steps "$STEPS" --warmup-epochs "$(cat "$work/warmup")" --log-every 20 \
        --out "$work/run" "$work/shards" || return
    if ! grep -qE "\"step\": ?$STEPS\b" "$work/run/metrics.jsonl"; then
        printf 'step %s was not reached\n' "$STEPS"
        return 1
    fi
}
export -f prepare train
shards() {
    if ! find "$here/images" -type f 2>/dev/null | grep -q .; then
        skip shards_prepare "the pack has no images"
        return
    fi
    part shards_prepare 150 bash -c 'set -euo pipefail; prepare'
    if [ "$(tail -1 "$work/parts.tsv" | cut -f2)" = ok ]; then
        part shards_train 200 bash -c 'set -uo pipefail; train'
    fi
}

cat >"$work/assemble.py" <<'PYTHON'
"""Writes report.md and report.json from what the parts have left so far."""
import json, pathlib, re, statistics, sys

here, work, out = map(pathlib.Path, sys.argv[1:4])
# Dense TFLOP/s without sparsity, from NVIDIA's data sheets: bf16 on tensor cores, f32 without TF32.
PEAKS = {
    "H200": (989, 67), "H100 PCIe": (756, 51), "H100 NVL": (835, 60), "H100": (989, 67),
    "A100": (312, 19.5), "L40S": (362, 91.6),
}
TITLES = {
    "environment": "environment", "ops": "ops against the CPU", "steps": "steps against the CPU",
    "ranks": "one rank by NCCL", "same_bits": "same bits twice", "sanitizer": "compute-sanitizer on one step",
    "profile": "profile by op",
    "shards_prepare": "shards from the images", "shards_train": "200 steps from the shards",
}

def read(path):
    return path.read_text(errors="replace") if path.exists() else ""

def keys(path):
    return dict(line.split(": ", 1) for line in read(path).splitlines() if ": " in line)

def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    cells = [[str(cell).replace("|", "\\|") for cell in line] for line in lines]
    return ["| " + " | ".join(line) + " |" for line in cells] + [""]

def number(value, digits=1):
    return "" if value is None else f"{value:,.{digits}f}"

parts = []
for line in read(work / "parts.tsv").splitlines():
    name, state, seconds, note = line.split("\t")
    parts.append({"part": name, "state": state, "seconds": float(seconds), "note": note})
build, environment = keys(here / "BUILD"), keys(out / "logs/environment.log")
gpu = environment.get("gpu", "unknown")
peak = dict(zip(("bf16", "f32"), next((p for name, p in PEAKS.items() if name in gpu), ())))

results = {}
for part in parts:
    try:
        results[part["part"]] = json.loads(read(work / f"json/{part['part']}.json"))
    except ValueError:
        continue
for result in results.values():
    of = peak.get(result.get("precision"))
    result["share_of_peak"] = result["tflops"] / of if of and result.get("tflops") else None
profile = results.pop("profile", None)
# A killed run can leave half a line.
lines = read(work / "run/metrics.jsonl").splitlines()
metrics = [json.loads(line) for line in lines if line.endswith("}")]
data = {"build": build, "environment": environment, "parts": parts, "speed": results,
        "profile": profile, "shards": metrics}
(out / "report.json").write_text(json.dumps(data, indent=1) + "\n")

page = ["# scrl on a GPU", ""]
bad = [p["part"] for p in parts if p["state"] == "failed"]
page += [f"{len(parts)} parts, {len(bad)} failed" + (f": {', '.join(bad)}." if bad else "."), ""]
built = [(f"build: {name}", value) for name, value in build.items()]
page += table(["machine and build", ""], [*environment.items(), *built])
page += ["## Parts", ""]
titles = {p["part"]: TITLES.get(p["part"], p["part"].replace("_", " ")) for p in parts}
page += table(["part", "result", "seconds", ""], [
    (titles[p["part"]], p["state"], number(p["seconds"]), p["note"]) for p in parts])
for name in bad:
    log = [line[:300] for line in read(out / f"logs/{name}.log").splitlines()[-15:]]
    page += [f"The end of `logs/{name}.log`:", "", "````text", *log, "````", ""]

if results:
    page += ["## Speed", "", "Milliseconds a step: median (min–max), in the order in which they"
             f" ran. The peak of this GPU is {peak.get('bf16', 'unknown')} TFLOP/s in bf16 and"
             f" {peak.get('f32', 'unknown')} in f32. Each program counts its own operations, so"
             " compare pairs/s.", ""]
    head = ["run", "precision", "pairs", "ms a step", "pairs/s", "TFLOP/s", "of peak"]
    page += table([*head, "peak memory, GiB"], [
        (name.replace("_", " "), r.get("precision"), r.get("batch_size"),
         f"{number(r.get('ms_median'))} ({number(r.get('ms_min'))}–{number(r.get('ms_max'))})",
         number(r.get("pairs_per_s")), number(r.get("tflops")),
         "unknown" if r["share_of_peak"] is None else f"{r['share_of_peak']:.1%}",
         number((r.get("peak_memory_bytes") or 0) / 2**30, 2)) for name, r in results.items()])
    for size in 256, 64:
        mine = [r["pairs_per_s"] for n, r in results.items() if n.startswith(f"scrl_bf16_{size}_")]
        for mode in "eager", "compile":
            other = results.get(f"pytorch_{mode}_{size}")
            if mine and other:
                ratio = statistics.mean(mine) / other["pairs_per_s"]
                page += [f"- {size} pairs: scrl-train has {ratio:.2f} times the pairs/s of PyTorch,"
                         f" {mode} mode."]
    page += [""]
if profile and profile.get("parts"):
    ops = sorted(profile["parts"], key=lambda op: -op["ms"])
    total = sum(op["ms"] for op in ops) or 1
    page += ["## Profile", "", f"{profile['batch_size']} pairs, {profile['precision']}; a step took"
             f" {number(profile['ms_median'])} ms while profiled, the ops {number(total)} ms"
             " together.", ""]
    page += table(["op", "ms", "of all ops", "calls"], [
        (op["name"], number(op["ms"], 2), f"{op['ms'] / total:.1%}", op["calls"])
        for op in ops[:40]])
if metrics:
    page += ["## Training from shards", ""]
    said = re.findall(r"^\d+ (?:images|epochs).*", read(out / "logs/shards_prepare.log"), re.M)
    later = metrics[1:] or metrics
    page += [f"{'; '.join(said)}. After the first line, the median is"
             f" {number(statistics.median(m['pairs_per_s'] for m in later))} pairs/s, and"
             f" {statistics.median(m['data_wait'] for m in later):.1%} of the time was spent"
             " waiting for data.", ""]
    page += table(["step", "epoch", "loss", "learning rate", "boxes", "pairs/s", "data wait"], [
        (m["step"], m["epoch"], number(m["loss"], 4), f"{m['lr']:.4g}", m["boxes"],
         number(m["pairs_per_s"]), f"{m['data_wait']:.1%}") for m in metrics])
(out / "report.md").write_text("\n".join(page).rstrip() + "\n")
PYTHON

if wanted environment; then part environment 30 bash -c environment; fi
if wanted ops; then tests ops 150 ops; fi
if wanted steps; then tests steps 200 steps; fi
if wanted ranks; then tests ranks 60 ranks; fi
if wanted same_bits; then tests same_bits 90 same_bits; fi
if wanted sanitizer; then sanitizer; fi
if wanted speed; then speed; fi
if wanted profile; then ours profile --batch-size 256 --precision bf16 --steps 5 --profile; fi
if wanted shards; then shards; fi

printf '%s\n' "$out/report.md"
! cut -f2 "$work/parts.tsv" | grep -qx failed
