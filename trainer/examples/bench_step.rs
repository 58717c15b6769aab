//! Times whole training steps on random views, as any trainer's speed is measured: no data path, median of some steps.
//!
//! ```text
//! cargo run --release -p scrl-trainer --example bench_step -- resnet18 96 16 [steps] [threads]
//! ```

use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};
use scrl_preprocess::rng::{Purpose, Stream};
use scrl_trainer::learner::{Learner, LearnerConfig};
use scrl_trainer::model::{Arch, HeadSizes, Regions};
use scrl_trainer::optim::LarsConfig;

/// Boxes a pair, the paper's K.
const BOXES: usize = 10;

/// Steps not counted, for caches and allocations to settle.
const WARM_UP: usize = 2;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, default: usize| -> usize {
        arguments.get(index).map_or(default, |text| text.parse().expect("a number"))
    };
    let arch: Arch = arguments.first().map_or("resnet50", String::as_str).parse().expect("a ResNet's name");
    let (size, pairs, steps) = (number(1, 224), number(2, 8), number(3, 5));
    let threads = number(4, 0);
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().expect("threads");
    let config = LearnerConfig {
        arch,
        sizes: HeadSizes { hidden: 4096, projection: 256 },
        seed: 0,
        copy_online: false,
        dtype: DType::F32,
        lars: LarsConfig { momentum: 0.9, weight_decay: 1e-6 },
        classes: None,
    };
    let mut learner = Learner::new(&config, &Device::Cpu)?;
    let mut random = Stream::new(0, 0, 0, Purpose::View1);
    let bytes: Vec<u8> = (0..2 * pairs * size * size * 3).map(|_| random.next_u32() as u8).collect();
    let pixels = Tensor::from_vec(bytes, (2 * pairs, size, size, 3), &Device::Cpu)?;
    let mut rois = Vec::new();
    for image in 0..2 * pairs {
        for _ in 0..BOXES {
            let mut side = || {
                let length = random.uniform(32.0, 32.0f64.max(size as f64 * 0.6));
                let start = random.uniform(0.0, size as f64 - length);
                [start as f32, (start + length) as f32]
            };
            let ([x0, x1], [y0, y1]) = (side(), side());
            rois.extend([image as f32, x0, y0, x1, y1]);
        }
    }
    let regions = Regions::Boxes(Tensor::from_vec(rois, (2 * pairs * BOXES, 5), &Device::Cpu)?);
    let mut seconds = Vec::new();
    let mut loss = 0.0;
    for step in 0..WARM_UP + steps {
        let start = Instant::now();
        let computed = learner.compute(&pixels, &regions, pairs * BOXES, None)?;
        loss = computed.loss.to_scalar::<f32>()?;
        learner.apply(&computed, 0.1, 0.99)?;
        if step >= WARM_UP {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    println!(
        "scrl {} {arch} {size}px batch={pairs} cpu f32: {:.2} pairs/s ({:.1} ms/step, loss {loss:.4})",
        env!("CARGO_PKG_VERSION"),
        pairs as f64 / median,
        median * 1e3
    );
    Ok(())
}
