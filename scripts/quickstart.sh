#!/usr/bin/env bash
# From a folder of photos to a trained backbone, in small: build, make shards, train on the CPU, say where it all lies.
#
#   scripts/quickstart.sh [IMAGES]      without IMAGES, scenes are drawn to train on
#   scripts/quickstart.sh --smoke       the same with a few pictures and steps, as a test of this script
#
# Everything goes to quickstart/, which may be removed; a second start goes on where the first one stopped.
set -euo pipefail

usage() { sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
fail() { printf 'quickstart: %s\n' "$1" >&2; exit "${2:-1}"; }
step() { printf '\n== %s\n' "$*"; }

smoke=no
images=
for argument in "$@"; do
    case $argument in
        -h | --help) usage; exit 0 ;;
        --smoke) smoke=yes ;;
        -*) fail "unknown option $argument; --help shows how to start it" 2 ;;
        *) [ -z "$images" ] || fail "more than one folder of images: $images and $argument" 2; images=$argument ;;
    esac
done
if [ -n "$images" ]; then
    [ -d "$images" ] || fail "$images is no folder"
    images=$(cd "$images" && pwd)
fi

cd "$(dirname "${BASH_SOURCE[0]}")/.."
command -v cargo >/dev/null || fail "cargo is missing; install Rust first"
target=${CARGO_TARGET_DIR:-target}

# Views of 96 pixels instead of 224 take a fifth of the time. ResNet's last map is then 3×3 cells instead of 7×7, and
# two views share too little for ten boxes of 32 pixels that hardly overlap; boxes from 16 pixels on leave room for them.
view_options=(--size 96 --min-box 16)
# The learning rate is that of 256 pairs a step and scales with the batch: 16 · 16/256 = 1 at its peak. LARS multiplies
# each step by a thousandth of a tensor's norm, so that the paper's 0.45, made for 8192 pairs, would hardly move anything here.
train_options=(--device cpu --arch resnet18 --hidden 1024 --lr 16 --warmup-epochs 1)
programs=(scrl-prep scrl-inspect scrl-train examples/make_scenes)
build=(--workspace --bin scrl-prep --bin scrl-inspect --bin scrl-train --example make_scenes)
if [ $smoke = yes ]; then
    # What cargo test has built; nothing is compiled twice.
    bin=$target/debug
    out=$target/quickstart-smoke
    rm -rf "$out"
    scenes=8 val_scenes=2 batch=4 pairs=16 log_every=1
    for program in "${programs[@]}"; do
        [ -x "$bin/$program" ] || { cargo build --locked "${build[@]}"; break; }
    done
else
    bin=$target/release
    out=quickstart
    scenes=96 val_scenes=32 batch=16 pairs=1536 log_every=4
    step "Building; for the first time this takes several minutes"
    cargo build --release --locked "${build[@]}"
fi

# Shards and runs of other images or options go beside each other.
if [ -z "$images" ]; then
    step "Drawing scenes with objects to find"
    "$bin/examples/make_scenes" "$out/scenes" --images $scenes --val $val_scenes
    images=$(cd "$out/scenes/train2017" && pwd)
    name=scenes
else
    name=$(basename "$images")-$(printf '%s' "$images" | cksum | cut -d' ' -f1)
fi
shards=$out/$name-shards
run=$out/$name-run

is_image=(-iname '*.jpg' -o -iname '*.jpeg' -o -iname '*.png' -o -iname '*.webp' -o -iname '*.bmp' -o -iname '*.tif'
    -o -iname '*.tiff' -o -iname '*.gif')
list=$(find -L "$images" -type f \( "${is_image[@]}" \) | LC_ALL=C sort)
[ -n "$list" ] || fail "$images holds no images"
count=$(wc -l <<<"$list")
most=$((pairs / 4))
if [ "$count" -gt "$most" ]; then
    # Links to some of them, evenly spread: four epochs or more in a few minutes, the first of them warm-up.
    sample=$out/$name-sample
    rm -rf "$sample"
    mkdir -p "$sample"
    awk -v every="$((count / most))" -v most="$most" 'NR % every == 0 && n < most { n++; print }' <<<"$list" |
        while IFS= read -r file; do
            below=${file#"$images"/}
            mkdir -p "$sample/$(dirname "$below")"
            ln -s "$file" "$sample/$below"
        done
    echo "$images holds $count images; the quickstart takes $most of them"
    images=$sample count=$most
fi
[ "$count" -ge $batch ] || batch=$count
epochs=$(((pairs + count - 1) / count))

step "Making shards: $epochs epochs of $count images"
"$bin/scrl-prep" --epochs $epochs "${view_options[@]}" "$images" "$shards"

step "Drawing the pairs"
"$bin/scrl-inspect" --quiet --html "$out/$name-pairs.html" "$shards"
echo "$out/$name-pairs.html shows them in a browser"

step "Training a ResNet-18 on the CPU"
"$bin/scrl-train" "${train_options[@]}" --batch-size "$batch" --log-every $log_every --out "$run" "$shards"

loss() { sed -E 's/.*"loss":([0-9.]+).*/\1/' | awk '{ sum += $1 } END { printf "%.3f", sum / NR }'; }
step "Done"
cat <<EOF_DONE
The loss began at $(head -n 1 "$run/metrics.jsonl" | loss) and ended at $(tail -n 4 "$run/metrics.jsonl" | loss); for vectors that have nothing to do with each other it is 4.

  $out/$name-pairs.html
      pairs of views with their matched boxes, to look at in a browser
  $shards/
      every pair of views with its matched boxes, as Parquet; in DuckDB for instance
      SELECT path, view1.crop.width, len(boxes) FROM '$shards/epoch=00000/*.parquet' LIMIT 5;
  $run/
      metrics.jsonl and an event file for TensorBoard; checkpoints/
      scripts/plot_metrics.py $run draws it
  $run/backbone.safetensors
      the backbone under torchvision's names; in Python
      model = torchvision.models.resnet18()
      model.load_state_dict(safetensors.torch.load_file("$run/backbone.safetensors"), strict=False)

Next: $bin/scrl-prep --help and $bin/scrl-train --help; README.md says which options matter.
EOF_DONE
