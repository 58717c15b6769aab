//! The programs of the CUDA path, run by an emulator on the CPU: the same kernel sources, the same order of work and the
//! same places in memory as on a GPU, against the CPU's learner.
#![cfg(feature = "cuda")]

mod device_ops;
mod device_steps;
mod emulated;

use device_steps::Case;
use emulated::Emulator;
use scrl_trainer::cuda::Numbers;
use scrl_trainer::model::{Arch, Role};
use scrl_trainer::run::{Method, Precision};

/// An emulator, or a word on why there is none.
fn emulator(precision: Precision) -> Option<Emulator> {
    let emulator = Emulator::new(precision.into());
    if emulator.is_none() {
        eprintln!("skipped: no C++ compiler");
    }
    emulator
}

#[test]
fn five_steps_in_float32() {
    let Some(emulator) = emulator(Precision::F32) else { return };
    Case::small(Precision::F32).compare(emulator, 1e-3, 2e-2);
}

#[test]
fn micro_batches_of_whole_views_in_float32() {
    let Some(emulator) = emulator(Precision::F32) else { return };
    let case = Case { method: Method::Byol, accumulate: 2, steps: 2, ..Case::small(Precision::F32) };
    case.compare(emulator, 1e-3, 2e-2);
}

#[test]
fn one_pair_with_one_box() {
    let Some(emulator) = emulator(Precision::F32) else { return };
    let case = Case { pairs: 1, steps: 1, ..Case::small(Precision::F32) };
    case.compare(emulator, 1e-3, f64::INFINITY);
}

#[test]
fn bottlenecks_and_micro_batches_in_float32() {
    let Some(emulator) = emulator(Precision::F32) else { return };
    let case = Case {
        arch: Arch::Resnet50,
        pairs: 2,
        size: 72,
        accumulate: 2,
        classes: None,
        steps: 1,
        ..Case::small(Precision::F32)
    };
    case.compare(emulator, 1e-3, 5e-2);
}

#[test]
fn steps_in_bfloat16() {
    let Some(emulator) = emulator(Precision::Bf16) else { return };
    let case = Case { pairs: 8, steps: 2, ..Case::small(Precision::Bf16) };
    case.compare(emulator, 2e-2, f64::INFINITY);
}

#[test]
fn a_step_without_boxes_moves_only_the_target() {
    let Some(emulator) = emulator(Precision::F32) else { return };
    let case = Case::small(Precision::F32);
    let mut device = case.on(emulator);
    let bits = |learner: &scrl_trainer::learner::Learner| -> Vec<Vec<f32>> {
        learner.state().map(|parameter| device_steps::numbers(&parameter.tensor)).collect()
    };
    let before = bits(device.learner());
    let scalars = scrl_trainer::cuda::StepScalars { lr: 1.0, tau: 0.5, matches: 0, labelled: 0 };
    device.step(&[], scalars, false).unwrap();
    assert!(device.outcomes(true).unwrap().is_empty());
    let learner = device.settle().unwrap();
    let after = bits(learner);
    for (index, parameter) in learner.state().enumerate() {
        let target = parameter.layer.starts_with("target.");
        // Batch norms start the same in both networks.
        let moves = target && !matches!(parameter.role, Role::Affine | Role::RunningStatistics);
        assert_eq!(before[index] != after[index], moves, "{}", parameter.layer);
    }
}

#[test]
fn ops_in_float32() {
    let Some(emulator) = emulator(Precision::F32) else { return };
    device_ops::check(emulator, Numbers::F32);
}

#[test]
fn ops_in_bfloat16() {
    let Some(emulator) = emulator(Precision::Bf16) else { return };
    device_ops::check(emulator, Numbers::Bf16);
}
