//! Measures the time of training steps on random views, without loading data: the median of some
//! steps.
//!
//! ```text
//! cargo run --release -p scrl-trainer --example bench_step -- \
//!     --arch resnet18 --size 96 --batch-size 16
//! cargo run --release -p scrl-trainer --features cuda --example bench_step -- \
//!     --device cuda --profile
//! ```

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use candle_core::{DType, Device};
use clap::Parser;
use scrl_preprocess::views::rng::{Purpose, Stream};
use scrl_schemas::Epoch;
use scrl_trainer::data::Batch;
use scrl_trainer::model::{Arch, HeadSizes, Regions};
use scrl_trainer::ops::gpu::{Array, Fetch, PeakMemory, Transfers};
use scrl_trainer::ops::{filter_gradients_by_cudnn, gpu, profile};
use scrl_trainer::optim::SgdConfig;
use scrl_trainer::train::{Learner, LearnerConfig, MicroBatch, Precision, StepMemory};

/// Boxes of a pair, the paper's K.
const BOXES: usize = 10;

/// Steps before the measurement, for caches, plans and allocations to settle.
const WARM_UP: usize = 3;

/// Steps in which each op is measured.
const PROFILED: usize = 3;

#[derive(Parser)]
struct Arguments {
    /// The backbone
    #[arg(long, default_value = "resnet50")]
    arch: Arch,

    /// Side of a view in pixels
    #[arg(long, default_value_t = 224)]
    size: usize,

    /// Pairs of a step
    #[arg(long, default_value_t = 8)]
    batch_size: usize,

    /// cpu or cuda
    #[arg(long, default_value = "cpu")]
    device: String,

    /// f32, or on a GPU also bf16 [default: bf16 on a GPU]
    #[arg(long)]
    precision: Option<Precision>,

    /// Steps to measure
    #[arg(long, default_value_t = 5)]
    steps: usize,

    /// Threads [default: all cores]
    #[arg(long, default_value_t = 0)]
    threads: usize,

    /// Let cuDNN compute the gradients of 1×1 filters, instead of cuBLAS
    #[arg(long)]
    filters_by_cudnn: bool,

    /// Measure each op of a step, too
    #[arg(long)]
    profile: bool,

    /// Write the numbers to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A learner and its input.
struct Bench {
    learner: Learner,
    transfers: Transfers,
    batches: [Batch; 2],
    pending: Option<Fetch>,
    loss: f32,
}

impl Bench {
    /// Takes a step as a run does: the loss of the step before is read while the device computes
    /// this one.
    fn step(&mut self, number: usize) -> Result<()> {
        let batch = &self.batches[number % 2];
        let views = 2 * batch.pairs();
        let mut tensors = self.transfers.upload(&[
            (Array::U8(&batch.pixels), (views, batch.size, batch.size, 3).into()),
            (Array::F32(&batch.rois), (views * BOXES, 5).into()),
        ])?;
        let regions = Regions::Boxes(tensors.remove(1));
        let micro_batch = MicroBatch { pixels: tensors.remove(0), regions, labels: None };
        let computed = self.learner.compute(&micro_batch, batch.matches, None, true)?;
        self.learner.apply(&computed, 0.1, 0.99)?;
        let fetch = self.transfers.fetch(&computed.loss)?;
        self.take(Some(fetch))
    }

    /// Waits for the loss of the pending step, and makes another one pending.
    fn take(&mut self, next: Option<Fetch>) -> Result<()> {
        if let Some(fetch) = std::mem::replace(&mut self.pending, next) {
            self.loss = fetch.wait()?[0];
        }
        Ok(())
    }

    /// Bytes of the parameters, running statistics and velocities.
    fn learner_bytes(&self) -> u64 {
        self.learner.state().map(|parameter| 4 * parameter.tensor().elem_count() as u64).sum()
    }

    /// Takes `count` steps and waits for the last: seconds of each, from loss to loss.
    fn steps(&mut self, count: usize) -> Result<Vec<f64>> {
        let mut seconds = Vec::new();
        let mut begin = Instant::now();
        for number in 0..count {
            self.step(number)?;
            // On a GPU the first returns at once, and the last is waited for below.
            if number > 0 || !self.transfers.is_asynchronous() {
                seconds.push(begin.elapsed().as_secs_f64());
                begin = Instant::now();
            }
        }
        self.take(None)?;
        if self.transfers.is_asynchronous() {
            seconds.push(begin.elapsed().as_secs_f64());
        }
        Ok(seconds)
    }
}

fn main() -> Result<()> {
    let given = Arguments::parse();
    rayon::ThreadPoolBuilder::new().num_threads(given.threads).build_global()?;
    let device = match given.device.as_str() {
        "cpu" => Device::Cpu,
        "cuda" => gpu::open(0)?,
        other => bail!("--device: {other:?} is none of cpu, cuda"),
    };
    if given.filters_by_cudnn {
        filter_gradients_by_cudnn();
    }
    let usual = if device.is_cpu() { Precision::F32 } else { Precision::Bf16 };
    let precision = given.precision.unwrap_or(usual);
    let config = LearnerConfig {
        arch: given.arch,
        sizes: HeadSizes { hidden: 4096, projection: 256 },
        seed: 0,
        copy_online: false,
        dtype: if precision == Precision::Bf16 { DType::BF16 } else { DType::F32 },
        optimizer: SgdConfig {
            momentum: 0.9,
            weight_decay: 1e-6,
            trust: Some(1e-3),
            ..SgdConfig::default()
        },
        classes: None,
    };
    let mut bench = Bench {
        learner: Learner::new(&config, &device)?,
        transfers: Transfers::new(&device)?,
        batches: [0, 1].map(|seed| random_batch(given.batch_size, given.size, seed)),
        pending: None,
        loss: f32::NAN,
    };
    bench.steps(WARM_UP)?;
    let mut seconds = bench.steps(given.steps)?;
    seconds.sort_by(f64::total_cmp);
    let milliseconds = |index: usize| 1e3 * seconds[index];
    let (median, last) = (milliseconds(seconds.len() / 2), seconds.len() - 1);
    let pairs_per_s = 1e3 * given.batch_size as f64 / median;
    let tflops = operations(&given) * 1e-9 / median;
    println!(
        "scrl {} {} {}px batch={} {} {precision}: {pairs_per_s:.2} pairs/s ({median:.1} ms/step, \
         {:.1}–{:.1}; {tflops:.3} TFLOP/s; loss {:.4})",
        env!("CARGO_PKG_VERSION"),
        given.arch,
        given.size,
        given.batch_size,
        given.device,
        milliseconds(0),
        milliseconds(last),
        bench.loss
    );
    let memory = gpu::peak_memory(&device)?;
    let step = StepMemory {
        arch: config.arch,
        sizes: config.sizes,
        dtype: config.dtype,
        side: given.size,
        boxes: Some(BOXES),
        accumulates: false,
    };
    let needed = step.bytes(given.batch_size) as u64 + bench.learner_bytes();
    if let Some(PeakMemory { used, reserved }) = memory {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        println!(
            "GPU memory: {:.2} GiB in use, {:.2} reserved, {:.2} computed",
            gib(used),
            gib(reserved),
            gib(needed)
        );
    }
    let mut parts = Vec::new();
    if given.profile {
        profile::begin();
        bench.steps(PROFILED)?;
        println!("\n| op, one by one | ms | fraction | calls |\n|---|---|---|---|");
        let found = profile::end();
        let total: f64 = found.iter().map(|part| part.seconds).sum();
        for part in found {
            let (ms, calls) = (1e3 * part.seconds / PROFILED as f64, part.calls / PROFILED);
            println!(
                "| {} | {ms:.2} | {:.1} % | {calls} |",
                part.name,
                100.0 * part.seconds / total
            );
            parts.push(serde_json::json!({ "name": part.name, "ms": ms, "calls": calls }));
        }
    }
    if let Some(path) = given.json {
        let mut numbers = serde_json::json!({
            "arch": given.arch.name(),
            "batch_size": given.batch_size,
            "precision": precision.name(),
            "steps": given.steps,
            "ms_median": median,
            "ms_min": milliseconds(0),
            "ms_max": milliseconds(last),
            "pairs_per_s": pairs_per_s,
            "tflops": tflops,
            "peak_memory_bytes": memory.map(|memory| memory.used),
            "reserved_memory_bytes": memory.map(|memory| memory.reserved),
            "computed_memory_bytes": needed,
        });
        if given.profile {
            numbers["parts"] = parts.into();
        }
        std::fs::write(path, numbers.to_string())?;
    }
    Ok(())
}

/// Floating-point operations of a step's convolutions and heads: forward in both networks, and
/// backward, twice as many, in the online one.
fn operations(given: &Arguments) -> f64 {
    let views = 2.0 * given.batch_size as f64;
    // torchvision's multiply-adds at 224 px, without the classifier.
    let backbone = match given.arch {
        Arch::Resnet18 => 1.814e9,
        Arch::Resnet34 => 3.663e9,
        Arch::Resnet50 => 4.087e9,
        Arch::Resnet101 => 7.799e9,
    };
    let area = (given.size as f64 / 224.0).powi(2);
    let head = |inputs: usize| (inputs * 4096 + 4096 * 256) as f64 * BOXES as f64;
    let (projector, predictor) = (head(given.arch.channels()), head(256));
    2.0 * views * (4.0 * (backbone * area + projector) + 3.0 * predictor)
}

fn random_batch(pairs: usize, size: usize, seed: u64) -> Batch {
    let mut random = Stream::new(seed, 0, 0, Purpose::View1);
    let pixels = (0..2 * pairs * size * size * 3).map(|_| random.next_u32() as u8).collect();
    let mut rois = Vec::new();
    for view in 0..2 * pairs {
        for _ in 0..BOXES {
            let mut side = || {
                let length = random.uniform(32.0, 32.0f64.max(size as f64 * 0.6));
                let start = random.uniform(0.0, size as f64 - length);
                [start as f32, (start + length) as f32]
            };
            let ([x0, x1], [y0, y1]) = (side(), side());
            rois.extend([view as f32, x0, y0, x1, y1]);
        }
    }
    let image_ids = (0..pairs as i64).collect();
    Batch {
        epoch: Epoch(0),
        pixels,
        size,
        image_ids,
        labels: vec![None; pairs],
        labeled: 0,
        matches: rois.len() / 10,
        rois,
    }
}
