#!/usr/bin/env bash
# From a folder of images to a trained backbone on the CPU: build, make shards, draw a page, train,
# measure what the backbone is worth, and draw a page of its features beside random ones.
#
#   scripts/quickstart.sh [IMAGES]      without IMAGES, scenes with boxes are made to train on; only
#                                       they are evaluated
#   scripts/quickstart.sh --smoke       the same with a few images and steps, to test this script
#
# Everything is in quickstart/, which may be removed; a second start resumes where the first one
# stopped.
set -euo pipefail

# The expected times on two cores, printed at the start.
BUILD_TIME="8 minutes" SHARDS_TIME="1 second" PAGE_TIME="1 second" TRAINING_TIME="2 minutes"
EVALUATION_TIME="20 seconds" FEATURES_TIME="20 seconds"

usage() { sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
fail() { printf 'quickstart: %s\n' "$1" >&2; exit "${2:-1}"; }

# Begins a step; `took` ends it.
step() { printf '\n== %s\n' "$*"; SECONDS=0; }
took() {
    if [ $SECONDS -lt 60 ]; then
        printf 'took %s s\n' $SECONDS
    else
        printf 'took %s min %s s\n' $((SECONDS / 60)) $((SECONDS % 60))
    fi
}

smoke=no
images=
for argument in "$@"; do
    case $argument in
        -h | --help) usage; exit 0 ;;
        --smoke) smoke=yes ;;
        -*) fail "unknown option $argument; --help shows the usage" 2 ;;
        *)
            [ -z "$images" ] || fail "expected one folder; --help shows the usage" 2
            images=$argument
            ;;
    esac
done
if [ -n "$images" ]; then
    [ -d "$images" ] || fail "$images is not a folder"
    images=$(cd "$images" && pwd)
fi

cd "$(dirname "${BASH_SOURCE[0]}")/.."
command -v cargo >/dev/null || fail "cargo is missing; install Rust first"
target=${CARGO_TARGET_DIR:-target}

# Views of 64 pixels instead of 224 take a twelfth of the time. Two of them overlap too little for
# ten boxes of 32 pixels with an IoU of at most 0.5; boxes of 16 pixels and more have room.
view_options=(--size 64 --min-box 16)
# The paper's optimizer is for batches of thousands; docs/small-data.md has the reasons for this one.
# So short a run takes four times its rate.
train_options=(--device cpu --preset small --lr 0.96 --arch resnet18 --hidden 512 --projection 128)
# Each class has a hue of its own: so short a training teaches colors before shapes.
scene_options=(--size 160x120 --hues)
eval_options=(--size 96)
programs=(scrl-prep scrl-inspect scrl-train scrl-eval scrl-embed examples/make_scenes)
build=(--workspace --bin scrl-prep --bin scrl-inspect --bin scrl-train --bin scrl-eval
    --bin scrl-embed --example make_scenes)
if [ $smoke = yes ]; then
    # The programs that cargo test has built; nothing is compiled twice.
    bin=$target/debug out=$target/quickstart-smoke
    rm -rf "$out"
    scenes=8 val_scenes=2 batch=4 pairs=16 log_every=1
    eval_options+=(--epochs 2)
    for program in "${programs[@]}"; do
        [ -x "$bin/$program" ] || { cargo build --locked "${build[@]}"; break; }
    done
else
    bin=$target/release out=quickstart
    scenes=300 val_scenes=300 batch=16 pairs=3300 log_every=10
    cat <<EOF_PLAN
This takes, on two cores:
  build                             about $BUILD_TIME the first time
  make shards of pairs of views     about $SHARDS_TIME
  draw a page of pairs              about $PAGE_TIME
  train a ResNet-18 on the CPU      about $TRAINING_TIME
  evaluate it                       about $EVALUATION_TIME
  draw a page of its features       about $FEATURES_TIME
EOF_PLAN
    step "Build"
    cargo build --release --locked "${build[@]}"
    took
fi

# Shards and runs of other images have folders of their own.
if [ -z "$images" ]; then
    step "Scenes with objects"
    "$bin/examples/make_scenes" "$out/scenes" --images $scenes --val $val_scenes \
        "${scene_options[@]}"
    took
    boxes=$out/scenes images=$(cd "$out/scenes/train2017" && pwd)
    name=scenes
else
    boxes=
    name=$(basename "$images")-$(printf '%s' "$images" | cksum | cut -d' ' -f1)
fi
shards=$out/$name-shards
run=$out/$name-run

is_image=()
for ending in jpg jpeg png webp bmp tif tiff gif ppm pgm; do
    is_image+=(-o -iname "*.$ending")
done
list=$(find -L "$images" -type f \( "${is_image[@]:1}" \) | LC_ALL=C sort)
[ -n "$list" ] || fail "no images in $images"
count=$(wc -l <<<"$list")
most=$((pairs / 4))
if [ "$count" -gt "$most" ]; then
    # Links to every k-th image: at least four epochs, the first of which is warm-up.
    sample=$out/$name-sample
    rm -rf "$sample"
    mkdir -p "$sample"
    awk -v every="$((count / most))" -v most="$most" \
        'NR % every == 0 && n < most { n++; print }' <<<"$list" |
        while IFS= read -r file; do
            below=${file#"$images"/}
            mkdir -p "$sample/$(dirname "$below")"
            ln -s "$file" "$sample/$below"
        done
    echo "$images has $count images; the quickstart takes $most of them"
    images=$sample count=$most
fi
[ "$count" -ge $batch ] || batch=$count
epochs=$(((pairs + count - 1) / count))

step "Shards: $epochs epochs of $count images"
"$bin/scrl-prep" --epochs $epochs "${view_options[@]}" "$images" "$shards"
took

step "Page of pairs"
"$bin/scrl-inspect" --quiet --html "$out/$name-pairs.html" "$shards"
echo "$out/$name-pairs.html, to be opened in a browser"
took

step "Training of a ResNet-18 on the CPU"
"$bin/scrl-train" "${train_options[@]}" --batch-size "$batch" --log-every $log_every \
    --out "$run" "$shards"
took

# The first number of this name in FOLDER/results.json.
result() { # NAME FOLDER
    grep -oE "\"$1\":[0-9.]+" "$2/results.json" | head -n 1 | cut -d: -f2
}

# Top-1 in percent of a linear layer on the features of boxes.
roi_top1() { # WEIGHTS FOLDER
    # shellcheck disable=SC2086
    "$bin/scrl-eval" roi --quiet "${eval_options[@]}" --checkpoint $1 --out "$2" \
        --train-images "$boxes/train2017" --train-boxes "$boxes/instances_train2017.json" \
        --val-images "$boxes/val2017" --val-boxes "$boxes/instances_val2017.json" >/dev/null
    result top1 "$2" | awk '{ printf "%.1f", 100 * $1 }'
}

if [ -n "$boxes" ]; then
    step "Evaluation: which of 12 classes is in a box"
    random=$(roi_top1 "random --arch resnet18" "$out/$name-random")
    trained=$(roi_top1 "$run/backbone.safetensors" "$run/roi")
    val_boxes=$(result val_examples "$run/roi")
    took
fi

step "Page of features: trained against random"
features=("$images")
[ -z "$boxes" ] || features=(--boxes "$boxes/instances_val2017.json" "$boxes/val2017")
"$bin/scrl-embed" --quiet --device cpu --size 96 --checkpoint "$run/backbone.safetensors" \
    --against random --html "$out/$name-features.html" "${features[@]}" \
    "$out/$name-features.parquet"
echo "$out/$name-features.html, to be opened in a browser"
took

mean_loss() {
    sed -E 's/.*"loss":([0-9.]+).*/\1/' | awk '{ sum += $1 } END { printf "%.3f", sum / NR }'
}
last=$(tail -n 4 "$run/metrics.jsonl" | mean_loss)
worth=
[ -z "$boxes" ] || worth="Of $val_boxes boxes in other scenes, a linear layer on the backbone's features classifies $trained % correctly,
as one of 12 classes; on the features of the random weights that it began with, $random %."
printf '\n== Done\n'
cat <<EOF_DONE
The loss was $last at the end; unrelated embeddings have a loss of 4.
${worth:+
$worth
}
  $out/$name-pairs.html
      pairs of views with their matched boxes, for a browser
  $out/$name-features.html
      what looks alike to the backbone, trained and random beside each other, for a browser
  $shards/
      all pairs of views with their matched boxes, as Parquet; in DuckDB for instance
      SELECT path, view1.crop.width, len(boxes) FROM '$shards/epoch=00000/*.parquet' LIMIT 5;
  $run/
      metrics.svg draws the loss; metrics.jsonl, an event file for TensorBoard, checkpoints/
  $run/backbone.safetensors
      the backbone under torchvision's names; in Python
      model = torchvision.models.resnet18()
      state = safetensors.torch.load_file("$run/backbone.safetensors")
      model.load_state_dict(state, strict=False)

Next: $bin/scrl-prep --help and $bin/scrl-train --help; README.md explains the main options.
EOF_DONE
