#!/usr/bin/env bash
# Compares backbones of equal budget, random, BYOL and SCRL: pretrained on synthetic scenes and
# evaluated with both protocols of scrl-eval; then SCRL with other boxes, as in the paper's Tables 6
# and 7.
#
#   scripts/experiment.sh [OUT] [main|ablations|all]     by default experiment/ and main
#   scripts/experiment.sh --smoke       a few images and steps, to test this script
#
# A second start resumes: finished parts of OUT are kept. OUT/results.md and OUT/*.svg have the
# results. The variables below make the experiment larger, for instance for a GPU.
set -euo pipefail

usage() { sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
fail() { printf 'experiment: %s\n' "$1" >&2; exit "${2:-1}"; }
step() { printf '\n== %s (%s)\n' "$*" "$(date -u +%H:%M:%S)"; }

out=experiment
what=main
smoke=no
for argument in "$@"; do
    case $argument in
        -h | --help) usage; exit 0 ;;
        --smoke) smoke=yes ;;
        -*) fail "unknown option $argument; --help shows the usage" 2 ;;
        main | ablations | all) what=$argument ;;
        *) out=$argument ;;
    esac
done
[ $smoke = no ] || out=${CARGO_TARGET_DIR:-target}/experiment-smoke

# The scenes for pretraining, its length, and the size of the views.
: "${SCENES:=1200}" "${EPOCHS:=8}" "${SEEDS:=0 1 2}" "${ABLATION_SEEDS:=${SEEDS%% *}}"
: "${SCENE_SIZE:=160x120}" "${VIEW:=64}" "${MIN_BOX:=16}"
# The learning rate is for 256 pairs: at its peak 4 · 32/256 = 0.5, for BYOL and SCRL alike.
train="--arch resnet18 --batch-size 32 --hidden 512 --projection 128 --lr 4 --warmup-epochs 1"
: "${TRAIN:=$train}"
# Other scenes train and test the linear layers: scenes with boxes and, with one object each, scenes
# with classes. Each class has a hue of its own; with EVAL_LOOK= only shape and texture distinguish
# the classes, which takes longer pretraining to learn.
: "${EVAL_SCENES:=600}" "${EVAL_VAL:=600}" "${SINGLE_SCENES:=600}" "${SINGLE_VAL:=600}"
: "${EVAL_LOOK=--hues}" "${ROI:=--size 128}" "${LINEAR:=--size 64 --crops 4}"
if [ $smoke = yes ]; then
    rm -rf "$out"
    SCENES=16 EPOCHS=2 SEEDS="0 1" EVAL_SCENES=8 EVAL_VAL=8 SINGLE_SCENES=48 SINGLE_VAL=24
    TRAIN="--arch resnet18 --batch-size 8 --hidden 32 --projection 16 --lr 4 --warmup-epochs 1"
    ROI="--size 64 --epochs 4" LINEAR="--size 64 --crops 1 --epochs 4"
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
pretrain() { # NAME SEED METHOD PREPARATION …
    local run=$out/$1/$2 shards=$out/shards/$1-$2
    [ ! -f "$run/backbone.safetensors" ] || return 0
    step "Pretraining $1, seed $2"
    "$bin/scrl-prep" --quiet --seed "$2" --epochs "$EPOCHS" --size "$VIEW" --min-box "$MIN_BOX" \
        --views recipe "${@:4}" "$out/scenes/train2017" "$shards"
    # shellcheck disable=SC2086
    "$bin/scrl-train" $TRAIN --method "$3" --seed "$2" --checkpoint-every 1000000 \
        --out "$run" "$shards"
    rm -rf "$run/checkpoints"
}

# Both protocols for a pretrained backbone, or for the random weights that scrl-train starts from.
evaluate() { # NAME SEED
    local run=$out/$1/$2 weights=$out/$1/$2/backbone.safetensors boxes=$out/boxes
    [ "$1" != random ] || weights="random --arch resnet18"
    for protocol in roi linear; do
        [ ! -f "$run/$protocol/results.json" ] || continue
        step "Evaluating $1, seed $2: $protocol"
        # shellcheck disable=SC2086
        if [ $protocol = roi ]; then
            "$bin/scrl-eval" roi $ROI --checkpoint $weights --seed "$2" --out "$run/roi" \
                --train-images "$boxes/train2017" \
                --train-boxes "$boxes/instances_train2017.json" \
                --val-images "$boxes/val2017" --val-boxes "$boxes/instances_val2017.json"
        else
            "$bin/scrl-eval" linear $LINEAR --checkpoint $weights --seed "$2" --out "$run/linear" \
                --images "$out/single/train2017" --val "$out/single/val2017"
        fi
        rm -rf "$run/$protocol/features"
    done
}

step "Scenes"
make_scenes scenes --images "$SCENES" --val 0 --seed 0
# shellcheck disable=SC2086
make_scenes boxes --images "$EVAL_SCENES" --val "$EVAL_VAL" --seed 1 $EVAL_LOOK
# shellcheck disable=SC2086
make_scenes single --images "$SINGLE_SCENES" --val "$SINGLE_VAL" --seed 2 --single $EVAL_LOOK

if [ "$what" != ablations ]; then
    for seed in $SEEDS; do
        pretrain scrl "$seed" scrl
        pretrain byol "$seed" byol
    done
    [ -n "${PRETRAIN_ONLY:-}" ] || for seed in $SEEDS; do
        for name in random byol scrl; do evaluate $name "$seed"; done
    done
fi
if [ "$what" != main ]; then
    for seed in $ABLATION_SEEDS; do
        pretrain boxes-1 "$seed" scrl --boxes 1
        pretrain boxes-5 "$seed" scrl --boxes 5
        pretrain jitter-10 "$seed" scrl --box-jitter 0.1
        pretrain jitter-20 "$seed" scrl --box-jitter 0.2
        pretrain no-iou-rule "$seed" scrl --iou none
        [ -z "${PRETRAIN_ONLY:-}" ] || continue
        for name in scrl boxes-1 boxes-5 jitter-10 jitter-20 no-iou-rule; do
            evaluate $name "$seed"
        done
    done
fi
if [ -z "${PRETRAIN_ONLY:-}" ]; then
    python3 scripts/experiment_table.py "$out"
    "$bin/examples/plot_experiment" "$out"
fi
