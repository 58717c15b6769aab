//! The CUDA path on a GPU: its ops and its steps against the CPU's, and that they repeat their
//! bits. Where there is no GPU, each test says that it was skipped, or fails with
//! `SCRL_REQUIRE_GPU` in the environment. One test at a time has the GPU.

mod device_ops;
mod device_steps;
mod prepared;

use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::DType;
use device_ops::Place;
use device_steps::Case;
use prepared::{Prepared, metrics, run};
use scrl_schemas::ViewEncoding;
use scrl_trainer::model::Arch;
use scrl_trainer::ops::gpu::{open, why_not};
use scrl_trainer::train::{Method, Options, Precision};

/// The GPU, for one test alone.
struct Gpu {
    place: Place,
    _turn: MutexGuard<'static, ()>,
}

/// The first GPU; `None` where it cannot be used.
fn gpu() -> Option<Gpu> {
    static TURN: Mutex<()> = Mutex::new(());
    if let Some(reason) = why_not(0) {
        assert!(std::env::var_os("SCRL_REQUIRE_GPU").is_none(), "{reason}");
        eprintln!("skipped: {reason}");
        return None;
    }
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    Some(Gpu { place: Place::Gpu(open(0).unwrap()), _turn: turn })
}

#[test]
fn ops_f32() {
    let Some(gpu) = gpu() else { return };
    device_ops::all(&gpu.place, DType::F32);
}

#[test]
fn ops_bf16() {
    let Some(gpu) = gpu() else { return };
    device_ops::all(&gpu.place, DType::BF16);
}

#[test]
fn ops_optimizer() {
    let Some(gpu) = gpu() else { return };
    device_ops::optimizer(gpu.place.clone());
}

#[test]
fn ops_weight_copies() {
    let Some(gpu) = gpu() else { return };
    device_ops::weight_copies(gpu.place.clone());
}

#[test]
fn steps_f32() {
    let Some(gpu) = gpu() else { return };
    Case::small(DType::F32).compare_f32(&gpu.place, 2e-2);
}

#[test]
fn steps_one_pair_with_one_box() {
    let Some(gpu) = gpu() else { return };
    let case = Case { pairs: 1, steps: 1, ..Case::small(DType::F32) };
    case.compare_f32(&gpu.place, f64::INFINITY);
}

#[test]
fn steps_byol_accumulate_f32() {
    let Some(gpu) = gpu() else { return };
    let case = Case { method: Method::Byol, accumulate: 3, steps: 2, ..Case::small(DType::F32) };
    case.compare_f32(&gpu.place, 2e-2);
}

#[test]
fn steps_resnet50_f32() {
    let Some(gpu) = gpu() else { return };
    let case = Case {
        arch: Arch::Resnet50,
        pairs: 4,
        size: 96,
        classes: None,
        steps: 1,
        ..Case::small(DType::F32)
    };
    case.compare_f32(&gpu.place, 5e-2);
}

#[test]
fn steps_bf16() {
    let Some(gpu) = gpu() else { return };
    Case { steps: 2, ..Case::bf16(Arch::Resnet18) }.compare_bf16(&gpu.place);
}

#[test]
fn steps_byol_accumulate_bf16() {
    let Some(gpu) = gpu() else { return };
    let case = Case { method: Method::Byol, accumulate: 2, ..Case::bf16(Arch::Resnet18) };
    case.compare_bf16(&gpu.place);
}

#[test]
fn steps_resnet50_bf16() {
    let Some(gpu) = gpu() else { return };
    Case::bf16(Arch::Resnet50).compare_bf16(&gpu.place);
}

#[test]
fn steps_without_boxes_move_only_the_target() {
    let Some(gpu) = gpu() else { return };
    Case::small(DType::F32).update_target(&gpu.place);
}

#[test]
fn same_bits_twice() {
    let Some(gpu) = gpu() else { return };
    for dtype in [DType::F32, DType::BF16] {
        let case = Case { arch: Arch::Resnet50, pairs: 4, steps: 6, ..Case::small(dtype) };
        assert!(case.run(&gpu.place) == case.run(&gpu.place), "{dtype:?}");
    }
}

/// Of a single rank NCCL changes nothing but the rounding of gradients.
#[cfg(feature = "nccl")]
#[test]
fn ranks_of_one_by_nccl() {
    let Some(gpu) = gpu() else { return };
    let candle_core::Device::Cuda(device) = gpu.place.device() else { unreachable!() };
    let ranks = scrl_trainer::collective::Ranks::default().connected(device).unwrap();
    let bf16 = Case { accumulate: 2, steps: 5, ..Case::bf16(Arch::Resnet18) };
    for case in [Case::small(DType::F32), bf16] {
        let (alone, connected) = (case.run(&gpu.place).0, case.run_among(&gpu.place, &ranks));
        assert_eq!(connected.0[0].to_bits(), alone[0].to_bits(), "the first loss");
        for (found, expected) in connected.0.iter().zip(&alone) {
            assert!((found / expected - 1.0).abs() < 2e-2, "{found} where {expected} is expected");
        }
        assert!(case.run_among(&gpu.place, &ranks) == connected, "other bits in a second run");
    }
}

/// Small enough for a tool that checks every access to memory.
#[test]
fn sanitized_step() {
    let Some(gpu) = gpu() else { return };
    for dtype in [DType::F32, DType::BF16] {
        let case = Case { pairs: 2, steps: 1, ..Case::small(dtype) };
        assert!(case.run(&gpu.place).0[0].is_finite());
    }
}

#[test]
fn steps_of_a_run_are_those_on_the_cpu_and_resume() {
    let Some(_gpu) = gpu() else { return };
    let prepared = Prepared::images(10);
    let shards = prepared.prepare("shards", 3, ViewEncoding::Webp);
    let losses = |out: &str, change: &dyn Fn(&mut Options)| -> Vec<f32> {
        run(&prepared.config(&shards, out, change)).unwrap();
        metrics(&prepared.path(out)).into_iter().map(|line| line.loss).collect()
    };
    let on = |device: &'static str| {
        move |options: &mut Options| {
            options.compute.device = Some(device.parse().unwrap());
            options.compute.precision = Some(Precision::F32);
        }
    };
    let (cpu, cuda) = (losses("cpu", &on("cpu")), losses("gpu", &on("cuda")));
    assert_eq!(cpu.len(), cuda.len());
    for (cpu, cuda) in cpu.iter().zip(&cuda) {
        assert!((cpu / cuda - 1.0).abs() < 1e-3, "{cpu} {cuda}");
    }
    losses("pieces", &|options| {
        on("cuda")(options);
        options.max_steps = Some(3);
    });
    assert_eq!(losses("pieces", &on("cuda")), cuda);
}
