//! The CUDA path on a GPU: its work and its steps against the CPU's, and that they repeat their bits. Where there is no GPU,
//! each test says that it was skipped.
#![cfg(feature = "cuda")]

mod device_ops;
mod device_steps;
mod prepared;

use std::sync::atomic::AtomicBool;

use device_steps::Case;
use prepared::Prepared;
use scrl_schemas::Encoding;
use scrl_trainer::Error;
use scrl_trainer::cuda::{Gpu, Numbers, why_not};
use scrl_trainer::model::Arch;
use scrl_trainer::run::{Method, Metrics, Options, Precision, Resume, train};

/// The first GPU, or a word on why it cannot be used.
fn gpu(precision: Precision) -> Option<Gpu> {
    match why_not(0) {
        Some(reason) => {
            eprintln!("skipped: {reason}");
            None
        }
        None => Some(Gpu::open(0, precision.into()).unwrap()),
    }
}

#[test]
fn ops_in_float32() {
    let Some(gpu) = gpu(Precision::F32) else { return };
    device_ops::check(gpu, Numbers::F32);
}

#[test]
fn ops_in_bfloat16() {
    let Some(gpu) = gpu(Precision::Bf16) else { return };
    device_ops::check(gpu, Numbers::Bf16);
}

#[test]
fn five_steps_in_float32() {
    let Some(gpu) = gpu(Precision::F32) else { return };
    Case::small(Precision::F32).compare(gpu, 1e-3, 2e-2);
}

#[test]
fn one_pair_with_one_box() {
    let Some(gpu) = gpu(Precision::F32) else { return };
    let case = Case { pairs: 1, steps: 1, ..Case::small(Precision::F32) };
    case.compare(gpu, 1e-3, f64::INFINITY);
}

#[test]
fn micro_batches_of_whole_views_in_float32() {
    let Some(gpu) = gpu(Precision::F32) else { return };
    let case = Case { method: Method::Byol, accumulate: 3, steps: 2, ..Case::small(Precision::F32) };
    case.compare(gpu, 1e-3, 2e-2);
}

#[test]
fn bottlenecks_in_float32() {
    let Some(gpu) = gpu(Precision::F32) else { return };
    let case = Case {
        arch: Arch::Resnet50,
        pairs: 4,
        size: 96,
        classes: None,
        steps: 1,
        ..Case::small(Precision::F32)
    };
    case.compare(gpu, 1e-3, 5e-2);
}

#[test]
fn steps_in_bfloat16() {
    let Some(gpu) = gpu(Precision::Bf16) else { return };
    let case = Case { pairs: 16, steps: 2, ..Case::small(Precision::Bf16) };
    case.compare(gpu, 2e-2, f64::INFINITY);
}

#[test]
fn steps_repeat_their_bits_recorded_or_not() {
    for precision in [Precision::F32, Precision::Bf16] {
        let case = Case { arch: Arch::Resnet50, pairs: 4, steps: 6, ..Case::small(precision) };
        let Some(first) = gpu(precision) else { return };
        let expected = case.run(first);
        assert!(expected == case.run(gpu(precision).unwrap()), "two runs in {precision}");
        let mut plain = gpu(precision).unwrap();
        plain.record(false);
        assert!(expected == case.run(plain), "with and without recorded graphs in {precision}");
    }
}

#[test]
fn a_run_on_the_gpu_is_that_on_the_cpu_and_goes_on() {
    if gpu(Precision::F32).is_none() {
        return;
    }
    let prepared = Prepared::photos(10);
    let shards = prepared.prepare("shards", 3, Encoding::Webp);
    let losses = |out: &str, change: &dyn Fn(&mut Options)| -> Vec<f32> {
        let (config, dataset) = prepared.config(&shards, out, change);
        train(&config, &dataset, &Resume::Auto, &AtomicBool::new(false), &mut |_| ()).unwrap();
        let text = std::fs::read_to_string(prepared.path(out).join("metrics.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str::<Metrics>(line).unwrap().loss).collect()
    };
    let on = |device: &'static str| {
        move |options: &mut Options| {
            options.device = Some(device.to_owned());
            options.precision = Some(Precision::F32);
        }
    };
    let (cpu, gpu) = (losses("cpu", &on("cpu")), losses("gpu", &on("cuda")));
    assert_eq!(cpu.len(), gpu.len());
    for (cpu, gpu) in cpu.iter().zip(&gpu) {
        assert!((cpu / gpu - 1.0).abs() < 1e-3, "{cpu} {gpu}");
    }
    losses("pieces", &|options| {
        on("cuda")(options);
        options.max_steps = Some(3);
    });
    assert_eq!(losses("pieces", &on("cuda")), gpu);
}

#[test]
fn a_batch_that_does_not_fit_is_refused_with_one_that_does() {
    let Some(gpu) = gpu(Precision::Bf16) else { return };
    let case = Case { arch: Arch::Resnet50, pairs: 10_000, size: 224, ..Case::small(Precision::Bf16) };
    match case.try_on(gpu) {
        Err(Error::OutOfMemory { fits, .. }) => assert!(fits > 0 && fits < 10_000, "{fits}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("10000 pairs fit"),
    }
}
