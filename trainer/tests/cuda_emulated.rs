//! The CUDA path by an emulator on the CPU: the same kernel sources, launched by the same ops as on
//! a GPU, against the CPU.

mod device_ops;
mod device_steps;
mod emulated;

use candle_core::DType;
use device_ops::Place;
use device_steps::Case;
use emulated::CompiledKernels;
use scrl_trainer::model::Arch;
use scrl_trainer::train::Method;

/// The emulator, or a word on why there is none.
fn place() -> Option<Place> {
    let kernels = CompiledKernels::new();
    if kernels.is_none() {
        eprintln!("skipped: no C++ compiler");
    }
    Some(Place::Emulated(kernels?))
}

macro_rules! ops {
    ($($name:ident => $check:path, $dtype:expr;)*) => {
        $(#[test]
        fn $name() {
            let Some(place) = place() else { return };
            $check(place, $dtype);
        })*
    };
}

ops! {
    ops_input_f32 => device_ops::input, DType::F32;
    ops_input_bf16 => device_ops::input, DType::BF16;
    ops_convolutions_f32 => device_ops::convolutions, DType::F32;
    ops_convolutions_bf16 => device_ops::convolutions, DType::BF16;
    ops_batch_norms_f32 => device_ops::batch_norms, DType::F32;
    ops_batch_norms_bf16 => device_ops::batch_norms, DType::BF16;
    ops_pooling_f32 => device_ops::pooling, DType::F32;
    ops_pooling_bf16 => device_ops::pooling, DType::BF16;
    ops_heads_f32 => device_ops::heads, DType::F32;
    ops_heads_bf16 => device_ops::heads, DType::BF16;
}

#[test]
fn ops_optimizer() {
    let Some(place) = place() else { return };
    device_ops::optimizer(place);
}

#[test]
fn ops_weight_copies() {
    let Some(place) = place() else { return };
    device_ops::weight_copies(place);
}

#[test]
fn steps_f32() {
    let Some(place) = place() else { return };
    Case::small(DType::F32).compare_f32(&place, 2e-2);
}

#[test]
fn steps_byol_accumulate_f32() {
    let Some(place) = place() else { return };
    let case = Case { method: Method::Byol, accumulate: 2, steps: 2, ..Case::small(DType::F32) };
    case.compare_f32(&place, 2e-2);
}

#[test]
fn steps_one_pair_with_one_box() {
    let Some(place) = place() else { return };
    let case = Case { pairs: 1, steps: 1, ..Case::small(DType::F32) };
    case.compare_f32(&place, f64::INFINITY);
}

#[test]
fn steps_resnet50_accumulate_f32() {
    let Some(place) = place() else { return };
    let case = Case {
        arch: Arch::Resnet50,
        pairs: 2,
        size: 72,
        accumulate: 2,
        classes: None,
        steps: 1,
        ..Case::small(DType::F32)
    };
    case.compare_f32(&place, 5e-2);
}

/// Steps in bfloat16: of ResNet-18, of BYOL with two micro-batches, and of ResNet-50.
fn bf16() -> [Case; 3] {
    let resnet18 = Case::bf16(Arch::Resnet18);
    [
        Case { steps: 2, ..resnet18 },
        Case { method: Method::Byol, accumulate: 2, ..resnet18 },
        Case::bf16(Arch::Resnet50),
    ]
}

#[test]
fn steps_bf16() {
    let Some(place) = place() else { return };
    bf16()[0].compare_bf16(&place);
}

#[test]
fn steps_byol_accumulate_bf16() {
    let Some(place) = place() else { return };
    bf16()[1].compare_bf16(&place);
}

#[test]
fn steps_resnet50_bf16() {
    let Some(place) = place() else { return };
    bf16()[2].compare_bf16(&place);
}

/// Prints how far steps of correct arithmetic scatter, which the bounds of a `Deviation` allow for:
/// `cargo test --test cuda_emulated scatter -- --ignored --nocapture`.
fn scatter(case: Case) {
    let kernels = CompiledKernels::new().unwrap();
    let place = Place::Emulated(kernels.clone());
    case.scatter(&place, 13, |number| kernels.set_noise(7919 * number));
}

#[test]
#[ignore = "measures for minutes"]
fn scatter_bf16() {
    scatter(bf16()[0]);
}

#[test]
#[ignore = "measures for minutes"]
fn scatter_byol_accumulate_bf16() {
    scatter(bf16()[1]);
}

#[test]
#[ignore = "measures for minutes"]
fn scatter_resnet50_bf16() {
    scatter(bf16()[2]);
}

#[test]
fn steps_same_bits_twice() {
    let Some(place) = place() else { return };
    let case = Case { steps: 2, ..Case::small(DType::BF16) };
    assert!(case.run(&place) == case.run(&place));
}

#[test]
fn box_features_of_held_out_pairs() {
    let Some(place) = place() else { return };
    Case::small(DType::F32).compare_box_features(&place);
}

#[test]
fn steps_without_boxes_move_only_the_target() {
    let Some(place) = place() else { return };
    Case::small(DType::F32).update_target(&place);
}
