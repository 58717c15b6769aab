//! Times the convolutions of a network one by one, forward and both gradients, and their batch
//! norms: where a step's time goes. Medians of 5 runs.
//!
//! ```text
//! cargo run --release -p scrl-trainer --example bench_ops -- resnet18 96 16 [threads [side]]
//! ```

use std::collections::BTreeMap;
use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use scrl_trainer::collective::Ranks;
use scrl_trainer::model::{Arch, Backbone};
use scrl_trainer::ops::{BatchNorm, Conv2d, Op, Tape, batch_statistics, keep_freed_memory};

const RUNS: usize = 5;

/// A convolution by its sizes: side of the input, channels in and out, kernel, stride.
type Shape = (usize, usize, usize, usize, usize);

/// The convolutions of a network, and how often each occurs.
fn shapes(arch: Arch, size: usize) -> Result<BTreeMap<Shape, usize>> {
    let backbone = Backbone::new(arch, &VarBuilder::zeros(DType::F32, &Device::Cpu))?;
    let mut found = BTreeMap::new();
    for (_, g) in backbone.convolutions(1, size)? {
        *found.entry((g.h, g.i, g.o, g.kh, g.stride)).or_default() += 1;
    }
    Ok(found)
}

/// Milliseconds, the median of [`RUNS`].
fn time(mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let start = Instant::now();
        work()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[RUNS / 2])
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, default: usize| -> usize {
        arguments.get(index).map_or(default, |text| text.parse().expect("a number"))
    };
    let arch: Arch =
        arguments.first().map_or("resnet18", String::as_str).parse().expect("a ResNet's name");
    let (size, pairs) = (number(1, 96), number(2, 16));
    rayon::ThreadPoolBuilder::new().num_threads(number(3, 0)).build_global().expect("threads");
    keep_freed_memory();
    let device = Device::Cpu;
    println!(
        "| side, in → out, kernel, stride | times | forward | of the input | of the filter | \
         batch norm |"
    );
    println!("|---|---|---|---|---|---|");
    let mut totals = [0.0; 4];
    let mut shapes = shapes(arch, size)?;
    shapes.retain(|shape, _| arguments.len() < 5 || shape.0 == number(4, 0));
    for ((side, inputs, outputs, kernel, stride), count) in shapes {
        let mut conv = Conv2d { stride, padding: kernel / 2, input_gradient: inputs > 3 };
        let x = Tensor::randn(0f32, 1.0, (2 * pairs, side, side, inputs), &device)?;
        let filter = Tensor::randn(0f32, 0.05, (outputs, kernel, kernel, inputs), &device)?;
        let y = conv.forward([&x, &filter])?;
        let grad = Tensor::randn(0f32, 1.0, y.dims(), &device)?;
        let forward = time(|| conv.forward([&x, &filter]).map(drop))?;
        let backward = |input_gradient: bool| {
            let conv = Conv2d { input_gradient, ..conv };
            time(|| {
                let mut tape = Tape::recording();
                let y = tape.apply(conv, [&x, &filter])?;
                tape.backward(&y, grad.clone()).map(drop)
            })
        };
        let of_filter = (backward(false)? - forward).max(0.0);
        let of_input =
            if inputs > 3 { (backward(true)? - forward - of_filter).max(0.0) } else { 0.0 };
        let [weight, bias] = [1.0f32, 0.0].map(|value| Tensor::full(value, outputs, &device));
        let (weight, bias) = (weight?, bias?);
        let norm = time(|| {
            let ranks = Ranks::default();
            let statistics = batch_statistics(&y, &ranks)?;
            let mut tape = Tape::recording();
            let y = tape.apply(BatchNorm::new(statistics, ranks, true), [&y, &weight, &bias])?;
            tape.backward(&y, grad.clone()).map(drop)
        })?;
        let gflop = 2e-9 * (y.elem_count() * kernel * kernel * inputs) as f64;
        let cell = |ms: f64| format!("{ms:.2} ms, {:.0} GFLOP/s", gflop / ms * 1e3);
        println!(
            "| {side}, {inputs} → {outputs}, {kernel}, {stride} | {count} | {} | {} | {} | \
             {norm:.2} ms |",
            cell(forward),
            cell(of_input),
            cell(of_filter),
        );
        for (total, ms) in totals.iter_mut().zip([forward, of_input, of_filter, norm]) {
            *total += ms * count as f64;
        }
    }
    let [forward, of_input, of_filter, norm] = totals;
    println!("| all | | {forward:.0} ms | {of_input:.0} ms | {of_filter:.0} ms | {norm:.0} ms |");
    Ok(())
}
