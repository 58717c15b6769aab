#!/usr/bin/env bash
# Compares backbones of equal budget, random, BYOL and SCRL: pretrains them on synthetic scenes, or
# on your own images with boxes in COCO's format, and compares them with scrl-eval compare on other
# scenes, or on VAL, of which TRAIN must hold no images.
#
#   scripts/experiment.sh [OUT]                                          by default experiment/
#   scripts/experiment.sh photos TRAIN TRAIN.json VAL VAL.json [OUT]     by default photos/
#   scripts/experiment.sh --smoke       both with a few images and steps, to test this script
#
# OUT/compare/compare.html has the results. A second start resumes: finished parts of OUT are kept.
# The variables below make the experiment larger, for instance for a GPU, or compare others:
# ARMS="scrl boxes-1 boxes-5 jitter-10 no-iou-rule" are the ablations of the paper's Tables 6 and 7.
set -euo pipefail

usage() { sed -n '2,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
fail() { printf 'experiment: %s\n' "$1" >&2; exit "${2:-1}"; }
step() { printf '\n== %s (%s)\n' "$*" "$(date -u +%H:%M:%S)"; }

out=
smoke=no
is_of_photos=no
photos=()
for argument in "$@"; do
    case $argument in
        -h | --help) usage; exit 0 ;;
        --smoke) smoke=yes ;;
        -*) fail "unknown option $argument; --help shows the usage" 2 ;;
        photos) is_of_photos=yes ;;
        *)
            if [ $is_of_photos = yes ] && [ ${#photos[@]} -lt 4 ]; then
                [ -e "$argument" ] || fail "$argument is missing"
                photos+=("$argument")
            else
                out=$argument
            fi
            ;;
    esac
done
[ $is_of_photos = no ] || [ ${#photos[@]} = 4 ] ||
    fail "photos needs TRAIN TRAIN.json VAL VAL.json; --help shows the usage" 2

# What is pretrained, with which seeds, for how many epochs, and the size of the views.
: "${ARMS:=byol scrl}" "${SEEDS:=0 1 2}" "${VIEW:=64}" "${MIN_BOX:=16}"
train="--arch resnet18 --batch-size 32 --hidden 512 --projection 128"
if [ $is_of_photos = yes ]; then
    : "${out:=photos}" "${EPOCHS:=7}" "${TRAIN:=$train --preset small}"
else
    # The learning rate is for 256 pairs: at its peak 4 · 32/256 = 0.5, for BYOL and SCRL alike.
    : "${out:=experiment}" "${EPOCHS:=8}" "${TRAIN:=$train --preset paper --lr 4 --warmup-epochs 1}"
fi
# Scenes to pretrain on, and others to compare on. In these each class has a hue of its own; with
# EVAL_LOOK= only shape and texture distinguish the classes, which takes longer pretraining to learn.
: "${SCENES:=1200}" "${SCENE_SIZE:=160x120}" "${EVAL_SCENES:=600}" "${EVAL_VAL:=600}"
: "${EVAL_LOOK=--hues}" "${COMPARE:=--size 128}"
if [ $smoke = yes ]; then
    out=${CARGO_TARGET_DIR:-target}/experiment-smoke
    rm -rf "$out"
    SCENES=16 EPOCHS=2 SEEDS="0 1" EVAL_SCENES=8 EVAL_VAL=8
    TRAIN="--preset paper --arch resnet18 --batch-size 8 --hidden 32 --projection 16 --lr 4"
    TRAIN+=" --warmup-epochs 1"
    COMPARE="--size 64 --epochs 4"
fi

programs=$(dirname "${BASH_SOURCE[0]}")/..
target=${CARGO_TARGET_DIR:-$programs/target}
bin=${BIN:-$target/release}
if [ $smoke = yes ]; then bin=$target/debug; fi
for program in scrl-prep scrl-train scrl-eval examples/make_scenes; do
    [ -x "$bin/$program" ] && continue
    step "Build"
    (cd "$programs" && cargo build --release --locked --workspace --bins --examples)
    break
done
mkdir -p "$out"

make_scenes() { # FOLDER ARGUMENTS …
    [ -f "$out/$1/instances_val2017.json" ] ||
        "$bin/examples/make_scenes" "$out/$1" --size "$SCENE_SIZE" "${@:2}"
}

# A run of scrl-train in $out/NAME/SEED.
pretrain() { # NAME SEED
    local run=$out/$1/$2 method=scrl preparation=()
    [ ! -f "$run/backbone.safetensors" ] || return 0
    case $1 in
        scrl) ;;
        byol) method=byol ;;
        boxes-*) preparation=(--boxes "${1#boxes-}") ;;
        jitter-*) preparation=(--box-jitter "0.${1#jitter-}") ;;
        no-iou-rule) preparation=(--iou none) ;;
        *) fail "$1 is none of scrl, byol, boxes-N, jitter-N, no-iou-rule" 2 ;;
    esac
    # BYOL and SCRL see the same views.
    local shards=$out/shards/${1/byol/scrl}-$2
    step "Pretraining $1, seed $2"
    "$bin/scrl-prep" --quiet --seed "$2" --epochs "$EPOCHS" --size "$VIEW" --min-box "$MIN_BOX" \
        --views recipe "${preparation[@]}" "$images" "$shards"
    # shellcheck disable=SC2086
    "$bin/scrl-train" $TRAIN --method $method --seed "$2" --checkpoint-every 1000 \
        --out "$run" "$shards"
}

# Pretrains all arms on the images, and compares them with random weights on the boxes.
experiment() {
    local arms=() seed name
    for seed in $SEEDS; do
        arms+=(--arm random)
        for name in $ARMS; do
            pretrain "$name" "$seed"
            arms+=(--arm "$name=$out/$name/$seed")
        done
    done
    step "Comparison"
    # shellcheck disable=SC2086
    "$bin/scrl-eval" compare $COMPARE --seed "${SEEDS%% *}" --seeds "$(wc -w <<<"$SEEDS")" \
        "${arms[@]}" --train-images "${boxes[0]}" --train-boxes "${boxes[1]}" \
        --val-images "${boxes[2]}" --val-boxes "${boxes[3]}" --out "$out/compare"
}

if [ $is_of_photos = yes ]; then
    images=${photos[0]} boxes=("${photos[@]}")
    experiment
    exit
fi

step "Scenes"
make_scenes scenes --images "$SCENES" --val 0 --seed 0
# shellcheck disable=SC2086
make_scenes boxes --images "$EVAL_SCENES" --val "$EVAL_VAL" --seed 1 $EVAL_LOOK
images=$out/scenes/train2017
boxes=("$out/boxes/train2017" "$out/boxes/instances_train2017.json"
    "$out/boxes/val2017" "$out/boxes/instances_val2017.json")
experiment
if [ $smoke = yes ]; then
    # The same on the other scenes, as if they were photos.
    images=${boxes[0]} out=$out/photos
    TRAIN="--preset small --arch resnet18 --batch-size 8 --hidden 32 --projection 16"
    experiment
fi
