//! The programs of the CUDA path, run by an emulator on the CPU: the same kernel sources, the same order of work and the
//! same places in memory as on a GPU, against the CPU's learner.
#![cfg(feature = "cuda")]

mod device_steps;
mod emulated;

use device_steps::Case;
use emulated::Emulator;
use scrl_trainer::model::Arch;
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
fn five_steps_in_bfloat16() {
    let Some(emulator) = emulator(Precision::Bf16) else { return };
    Case::small(Precision::Bf16).compare(emulator, 2e-2, f64::INFINITY);
}
