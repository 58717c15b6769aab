//! Times the engines of cuDNN that could compute each convolution of a network on a GPU, the one
//! that training uses first: whether another one would be faster. Training itself measures nothing.
//!
//! ```text
//! cargo run --release -p scrl-trainer --features cuda --example bench_plans -- --json plans.json
//! ```

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use clap::Parser;
use scrl_trainer::model::{Arch, Backbone};
use scrl_trainer::ops::gpu::{self, Engines, cudnn_version};
use scrl_trainer::ops::{Geometry, Pass};
use scrl_trainer::train::Precision;
use serde_json::json;

/// Rounds of which the median counts, after one run to warm up.
const ROUNDS: usize = 3;

/// Runs of a round.
const RUNS: usize = 5;

#[derive(Parser)]
struct Arguments {
    /// The backbone
    #[arg(long, default_value = "resnet50")]
    arch: Arch,

    /// Side of a view in pixels
    #[arg(long, default_value_t = 224)]
    size: usize,

    /// Pairs of a step
    #[arg(long, default_value_t = 256)]
    batch_size: usize,

    /// bf16 or f32
    #[arg(long, default_value = "bf16")]
    precision: Precision,

    /// The most engines for a pass
    #[arg(long, default_value_t = 5)]
    engines: usize,

    /// Write the numbers to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> Result<()> {
    let given = Arguments::parse();
    let device = gpu::open(0)?;
    let dtype = if given.precision == Precision::Bf16 { DType::BF16 } else { DType::F32 };
    let mut engines = Engines::new(&device, given.engines)?;
    let (major, minor, patch) = cudnn_version();
    println!("cuDNN {major}.{minor}.{patch}\n");
    println!(
        "| pass | convolution | filter / stride | a step | engine | mode, rank | MiB | ms | TFLOP/s |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let (mut chosen, mut fastest, mut plans) = (0.0, 0.0, Vec::new());
    for ((g, pass), count) in passes(&given, dtype)? {
        let mut timed = Vec::new();
        engines.each((g, pass), dtype, |engine, run| {
            timed.push((engine.clone(), time(&device, run)?));
            Ok(())
        })?;
        let operations = 2 * g.n * g.out_h * g.out_w * g.o * g.kh * g.kw * g.i;
        for (index, (engine, ms)) in timed.iter().enumerate() {
            println!(
                "| {pass} | {}x{}x{} -> {} | {}x{} / {} | {count} | {}{} | {} {} | {:.1} | {ms:.3} | \
                 {:.1} |",
                g.h,
                g.w,
                g.i,
                g.o,
                g.kh,
                g.kw,
                g.stride,
                engine.index,
                if index == 0 { ", chosen" } else { "" },
                engine.mode(),
                engine.rank,
                engine.workspace as f64 / f64::from(1 << 20),
                1e-9 * operations as f64 / ms
            );
        }
        if let Some((_, ms)) = timed.first() {
            chosen += count as f64 * ms;
            fastest += count as f64 * timed.iter().fold(*ms, |least, (_, ms)| least.min(*ms));
        }
        plans.push(json!({
            "pass": pass.to_string(),
            "views": g.n, "height": g.h, "width": g.w, "inputs": g.i, "outputs": g.o,
            "kernel": g.kh, "stride": g.stride, "padding": g.padding, "calls_of_a_step": count,
            "engines": timed.iter().enumerate().map(|(index, (engine, ms))| json!({
                "engine": engine.index, "mode": engine.mode(), "rank": engine.rank,
                "workspace_bytes": engine.workspace, "ms": ms, "chosen": index == 0,
            })).collect::<Vec<_>>(),
        }));
    }
    println!("\nof a step: {chosen:.1} ms by the chosen engines, {fastest:.1} ms by the fastest");
    if let Some(path) = given.json {
        let numbers = json!({
            "cudnn": format!("{major}.{minor}.{patch}"),
            "arch": given.arch.name(), "size": given.size, "batch_size": given.batch_size,
            "precision": given.precision.name(),
            "ms_chosen": chosen, "ms_fastest": fastest, "plans": plans,
        });
        std::fs::write(path, numbers.to_string())?;
    }
    Ok(())
}

/// The distinct passes that cuDNN computes, in the order of the network, and how often a step does.
fn passes(given: &Arguments, dtype: DType) -> Result<Vec<((Geometry, Pass), usize)>> {
    let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
    let backbone = Backbone::new(given.arch, &vb)?;
    let mut passes: Vec<((Geometry, Pass), usize)> = Vec::new();
    for (conv, g) in backbone.convolutions(2 * given.batch_size, given.size)? {
        for pass in conv.passes_by_cudnn(&g, dtype) {
            // The target network has forward passes only.
            let calls = if pass.1 == Pass::Forward { 2 } else { 1 };
            match passes.iter_mut().find(|(known, _)| *known == pass) {
                Some((_, count)) => *count += calls,
                None => passes.push((pass, calls)),
            }
        }
    }
    Ok(passes)
}

/// Milliseconds of a run.
fn time(
    device: &Device,
    run: &mut dyn FnMut() -> candle_core::Result<()>,
) -> candle_core::Result<f64> {
    run()?;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        device.synchronize()?;
        let begin = Instant::now();
        (0..RUNS).try_for_each(|_| run())?;
        device.synchronize()?;
        rounds.push(1e3 * begin.elapsed().as_secs_f64() / RUNS as f64);
    }
    rounds.sort_by(f64::total_cmp);
    Ok(rounds[ROUNDS / 2])
}
