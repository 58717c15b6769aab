#!/usr/bin/env bash
# Compares backbones of equal budget, random, BYOL and SCRL: pretrained on synthetic scenes and
# evaluated with both protocols of scrl-eval; then SCRL with other boxes, as in the paper's Tables 6
# and 7. Or pretrained and evaluated on your own images with boxes in COCO's format, of which VAL
# holds other ones than TRAIN.
#
#   scripts/experiment.sh [OUT] [main|ablations|all]     by default experiment/ and main
#   scripts/experiment.sh photos TRAIN TRAIN.json VAL VAL.json [OUT]     by default photos/
#   scripts/experiment.sh --smoke       both with a few images and steps, to test this script
#
# A second start resumes: finished parts of OUT are kept. OUT/results.md and OUT/*.svg have the
# results. The variables below make the experiment larger, for instance for a GPU.
set -euo pipefail

usage() { sed -n '2,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
fail() { printf 'experiment: %s\n' "$1" >&2; exit "${2:-1}"; }
step() { printf '\n== %s (%s)\n' "$*" "$(date -u +%H:%M:%S)"; }

out=experiment
what=main
smoke=no
photos=()
for argument in "$@"; do
    case $argument in
        -h | --help) usage; exit 0 ;;
        --smoke) smoke=yes ;;
        -*) fail "unknown option $argument; --help shows the usage" 2 ;;
        photos) what=photos out=photos ;;
        main | ablations | all) what=$argument ;;
        *)
            if [ $what = photos ] && [ ${#photos[@]} -lt 4 ]; then
                [ -e "$argument" ] || fail "$argument is missing"
                photos+=("$(realpath "$argument")")
            else
                out=$argument
            fi
            ;;
    esac
done
[ $what != photos ] || [ ${#photos[@]} = 4 ] ||
    fail "photos needs TRAIN TRAIN.json VAL VAL.json; --help shows the usage" 2
[ $smoke = no ] || out=${CARGO_TARGET_DIR:-target}/experiment-smoke

# The scenes for pretraining, its length, and the size of the views.
: "${SCENES:=1200}" "${EPOCHS:=8}" "${SEEDS:=0 1 2}" "${ABLATION_SEEDS:=${SEEDS%% *}}"
: "${SCENE_SIZE:=160x120}" "${VIEW:=64}" "${MIN_BOX:=16}"
# The learning rate is for 256 pairs: at its peak 4 · 32/256 = 0.5, for BYOL and SCRL alike.
train="--arch resnet18 --batch-size 32 --hidden 512 --projection 128"
[ $what = photos ] || train+=" --preset paper --lr 4 --warmup-epochs 1"
[ $what != photos ] || train+=" --preset small"
: "${TRAIN:=$train}"
# For photos: pairs of a pretraining, what is pretrained, and what of the ablations is, after the
# first number of pairs.
: "${PAIRS:=25000 100000}" "${BACKBONES:=byol scrl}" "${PHOTO_ABLATIONS=boxes-1 boxes-5}"
linear="--size 64 --crops 4"
[ $what != photos ] || linear="--size 128 --crops 2"
# Other scenes train and test the linear layers: scenes with boxes and, with one object each, scenes
# with classes. Each class has a hue of its own; with EVAL_LOOK= only shape and texture distinguish
# the classes, which takes longer pretraining to learn.
: "${EVAL_SCENES:=600}" "${EVAL_VAL:=600}" "${SINGLE_SCENES:=600}" "${SINGLE_VAL:=600}"
: "${EVAL_LOOK=--hues}" "${ROI:=--size 128}" "${LINEAR:=$linear}"
# For photos, the linear layer is fitted on a few labeled boxes as well; the global protocol gets the
# images whose boxes are all of one class.
: "${ROI_FEW:=$ROI --boxes-per-class 10 --epochs 800}"
if [ $smoke = yes ]; then
    rm -rf "$out"
    SCENES=16 EPOCHS=2 SEEDS="0 1" EVAL_SCENES=8 EVAL_VAL=8 SINGLE_SCENES=48 SINGLE_VAL=24
    TRAIN="--preset paper --arch resnet18 --batch-size 8 --hidden 32 --projection 16 --lr 4"
    TRAIN+=" --warmup-epochs 1"
    ROI="--size 64 --epochs 4" LINEAR="--size 64 --crops 1 --epochs 4"
    PAIRS=16
    ROI_FEW="--size 64 --boxes-per-class 2 --epochs 4"
fi

cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=${CARGO_TARGET_DIR:-target}
bin=${BIN:-$target/release}
if [ $smoke = yes ]; then bin=$target/debug; fi
for program in scrl-prep scrl-train scrl-eval examples/make_scenes examples/plot_experiment; do
    [ -x "$bin/$program" ] && continue
    step "Build"
    cargo build --release --locked --workspace --bins --examples
    break
done
mkdir -p "$out"

make_scenes() { # FOLDER ARGUMENTS …
    [ -f "$out/$1/instances_val2017.json" ] ||
        "$bin/examples/make_scenes" "$out/$1" --size "$SCENE_SIZE" "${@:2}"
}

# Writes a pretrained backbone to $out/NAME/SEED, without the checkpoints.
pretrain() { # NAME SEED
    local run=$out/$1/$2 method=scrl preparation=()
    [ ! -f "$run/backbone.safetensors" ] || return 0
    case ${1##*/} in
        scrl) ;;
        byol) method=byol ;;
        boxes-*) preparation=(--boxes "${1##*boxes-}") ;;
        jitter-*) preparation=(--box-jitter "0.${1##*jitter-}") ;;
        no-iou-rule) preparation=(--iou none) ;;
        *) fail "$1 is none of scrl, byol, boxes-N, jitter-N, no-iou-rule" 2 ;;
    esac
    # BYOL and SCRL see the same views.
    local shards=$out/shards/${1//\//-}-$2
    shards=${shards/byol-/scrl-}
    step "Pretraining $1, seed $2"
    "$bin/scrl-prep" --quiet --seed "$2" --epochs "$EPOCHS" --size "$VIEW" --min-box "$MIN_BOX" \
        --views recipe "${preparation[@]}" "$images" "$shards"
    # shellcheck disable=SC2086
    "$bin/scrl-train" $TRAIN --method $method --seed "$2" --checkpoint-every 1000 \
        --out "$run" "$shards"
    rm -rf "$run/checkpoints"
}

# The protocols for a pretrained backbone, or for the random weights that scrl-train starts from.
evaluate() { # NAME SEED PROTOCOL …
    local run=$out/$1/$2 weights=$out/$1/$2/backbone.safetensors protocol
    [ "$1" != random ] || weights="random --arch resnet18"
    for protocol in "${@:3}"; do
        [ ! -f "$run/$protocol/results.json" ] || continue
        step "Evaluating $1, seed $2: $protocol"
        # shellcheck disable=SC2086
        case $protocol in
            linear)
                "$bin/scrl-eval" linear $LINEAR --checkpoint $weights --seed "$2" \
                    --out "$run/linear" --images "${classes[0]}" --val "${classes[1]}"
                ;;
            *)
                local options=$ROI
                [ "$protocol" = roi ] || options=$ROI_FEW
                # Protocols on boxes use the same features.
                mkdir -p "$run/features" "$run/$protocol"
                ln -sfn ../features "$run/$protocol/features"
                "$bin/scrl-eval" roi $options --checkpoint $weights --seed "$2" \
                    --out "$run/$protocol" --train-images "${boxes[0]}" \
                    --train-boxes "${boxes[1]}" --val-images "${boxes[2]}" --val-boxes "${boxes[3]}"
                ;;
        esac
    done
    rm -rf "$run/features" "$run"/*/features
}

report() {
    python3 scripts/experiment_table.py "$out"
    "$bin/examples/plot_experiment" "$out"
}

# All budgets on images with boxes: $out/random/SEED and $out/pairs-PAIRS/NAME/SEED.
compare_photos() { # TRAIN TRAIN.json VAL VAL.json
    local images=$1 boxes=("$@") count pairs seed
    count=$(find -L "$images" -type f -regextype posix-extended \
        -iregex '.*\.(jpe?g|png|webp|bmp|tiff?|gif|p[pgn]m)' | wc -l)
    [ "$count" -gt 0 ] || fail "no images in $images"
    local classes=("$out/classes/train" "$out/classes/val")
    local protocols=(roi roi-few linear)
    [ -d "$out/classes" ] || python3 scripts/class_folders.py "$@" "$out/classes"
    [ -d "${classes[0]}" ] || protocols=(roi roi-few)
    for seed in $SEEDS; do evaluate random "$seed" "${protocols[@]}"; done
    for pairs in $PAIRS; do run_budget "$pairs" "$BACKBONES"; done
    run_budget "${PAIRS%% *}" "$PHOTO_ABLATIONS"
}

# Of a caller that knows the images, their count, and the protocols.
run_budget() { # PAIRS NAMES
    local EPOCHS=$((($1 + count - 1) / count)) seed name
    for seed in $SEEDS; do
        for name in $2; do
            pretrain "pairs-$1/$name" "$seed"
            evaluate "pairs-$1/$name" "$seed" "${protocols[@]}"
            report
        done
    done
}

if [ $what = photos ]; then
    compare_photos "${photos[@]}"
    exit
fi

step "Scenes"
make_scenes scenes --images "$SCENES" --val 0 --seed 0
# shellcheck disable=SC2086
make_scenes boxes --images "$EVAL_SCENES" --val "$EVAL_VAL" --seed 1 $EVAL_LOOK
# shellcheck disable=SC2086
make_scenes single --images "$SINGLE_SCENES" --val "$SINGLE_VAL" --seed 2 --single $EVAL_LOOK

images=$out/scenes/train2017
boxes=("$out/boxes/train2017" "$out/boxes/instances_train2017.json"
    "$out/boxes/val2017" "$out/boxes/instances_val2017.json")
classes=("$out/single/train2017" "$out/single/val2017")

if [ "$what" != ablations ]; then
    for seed in $SEEDS; do
        for name in scrl byol; do pretrain $name "$seed"; done
    done
    [ -n "${PRETRAIN_ONLY:-}" ] || for seed in $SEEDS; do
        for name in random byol scrl; do evaluate $name "$seed" roi linear; done
    done
fi
if [ "$what" != main ]; then
    ablations="boxes-1 boxes-5 jitter-10 jitter-20 no-iou-rule"
    for seed in $ABLATION_SEEDS; do
        for name in $ablations; do pretrain "$name" "$seed"; done
        [ -z "${PRETRAIN_ONLY:-}" ] || continue
        for name in scrl $ablations; do evaluate "$name" "$seed" roi linear; done
    done
fi
[ -n "${PRETRAIN_ONLY:-}" ] || report
if [ $smoke = yes ]; then
    # The same script on the scenes with one object each, as if they were photos.
    boxes=("$out/single/train2017" "$out/single/instances_train2017.json"
        "$out/single/val2017" "$out/single/instances_val2017.json")
    out=$out/photos
    TRAIN="--preset small --arch resnet18 --batch-size 8 --hidden 32 --projection 16"
    compare_photos "${boxes[@]}"
fi
