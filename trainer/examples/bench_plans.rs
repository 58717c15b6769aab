//! Times the engines of cuDNN that could compute each convolution of a network on a GPU, the one
//! that training uses first: whether another one would be faster. Training itself measures nothing.
//!
//! ```text
//! cargo run --release -p scrl-trainer --features cuda --example bench_plans -- --json plans.json
//! ```

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use clap::Parser;
use scrl_trainer::model::{Arch, Backbone};
use scrl_trainer::ops::gpu::{self, Engine, Engines, cudnn_version};
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
        "| pass | convolution | filter / stride | a step | chosen | ms | TFLOP/s | fastest | ms |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let (mut ms_chosen, mut ms_fastest, mut plans) = (0.0, 0.0, Vec::new());
    for ((g, pass), count) in passes(&given, dtype)? {
        let mut timed = Vec::new();
        engines.each((g, pass), dtype, |engine, run| {
            timed.push((engine.clone(), time(&device, run)?));
            Ok(())
        })?;
        let fastest = timed.iter().min_by(|(_, a), (_, b)| a.total_cmp(b));
        let (Some((chosen, ms)), Some((best, best_ms))) = (timed.first(), fastest) else {
            bail!("no engine for the {pass} of a {g}");
        };
        let operations = 2 * g.n * g.out_h * g.out_w * g.o * g.kh * g.kw * g.i;
        println!(
            "| {pass} | {}x{}x{} -> {} | {}x{} / {} | {count} | {} | {ms:.3} | {:.1} | {} | \
             {best_ms:.3} |",
            g.h,
            g.w,
            g.i,
            g.o,
            g.kh,
            g.kw,
            g.stride,
            name(chosen),
            1e-9 * operations as f64 / ms,
            name(best)
        );
        ms_chosen += count as f64 * ms;
        ms_fastest += count as f64 * best_ms;
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
    println!(
        "\na step: {ms_chosen:.1} ms by the chosen engines, {ms_fastest:.1} ms by the fastest"
    );
    if let Some(path) = given.json {
        let numbers = json!({
            "cudnn": format!("{major}.{minor}.{patch}"),
            "arch": given.arch.name(), "size": given.size, "batch_size": given.batch_size,
            "precision": given.precision.name(),
            "ms_chosen": ms_chosen, "ms_fastest": ms_fastest, "plans": plans,
        });
        std::fs::write(path, numbers.to_string())?;
    }
    Ok(())
}

fn name(engine: &Engine) -> String {
    format!("{}, {} {}", engine.index, engine.mode(), engine.rank)
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
