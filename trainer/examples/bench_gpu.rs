//! Times whole training steps on a GPU, on random views or on shards: pairs a second, where a step's time goes, memory, and
//! the share of the rate at which the same GPU multiplies large matrices.
//!
//! ```text
//! cargo run --release -p scrl-trainer --features cuda --example bench_gpu -- resnet50 256 [bf16|f32] [steps] [shards]
//! ```

#[cfg(not(feature = "cuda"))]
fn main() {
    eprintln!("bench_gpu: built without --features cuda");
    std::process::exit(2);
}

#[cfg(feature = "cuda")]
fn main() {
    if let Err(error) = on_gpu::main() {
        eprintln!("bench_gpu: {error}");
        std::process::exit(1);
    }
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use std::sync::Arc;
    use std::time::Instant;

    use candle_core::Device;
    use scrl_preprocess::rng::{Purpose, Stream};
    use scrl_schemas::Epoch;
    use scrl_trainer::Result;
    use scrl_trainer::cuda::{
        Backend, CudaConfig, CudaLearner, Gpu, MicroBatch, Multiply, Numbers, Places, ProductShape, Recorder,
        StepScalars, Work,
    };
    use scrl_trainer::data::{Batch, Dataset, Loader, LoaderConfig, SourceImages};
    use scrl_trainer::learner::{Learner, LearnerConfig};
    use scrl_trainer::model::{Arch, HeadSizes};
    use scrl_trainer::optim::LarsConfig;
    use scrl_trainer::run::{Method, Precision};

    /// Side of random views, and boxes of a pair: the paper's.
    const SIZE: usize = 224;
    const BOXES: usize = 10;

    /// Steps not counted: programs are recorded in the third.
    const WARM_UP: usize = 5;

    /// Steps whose parts are measured.
    const PROFILED: usize = 3;

    /// Side of the matrices that show what the GPU can do, and how often they are multiplied.
    const LARGE: usize = 8192;
    const PRODUCTS: usize = 20;

    pub fn main() -> Result<()> {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let text = |index: usize, default: &'static str| {
            arguments.get(index).map_or(default, String::as_str).to_owned()
        };
        let arch: Arch = text(0, "resnet50").parse().expect("a ResNet's name");
        let pairs: usize = text(1, "256").parse().expect("a number of pairs");
        let precision: Precision = text(2, "bf16").parse().expect("bf16 or f32");
        let steps: usize = text(3, "30").parse().expect("a number of steps");
        let rate = product_rate(precision.into())?;
        let gpu = Gpu::open(0, precision.into())?;
        println!("{}, {arch}, {pairs} pairs, {precision}", gpu.name()?);
        println!("large matrix products: {:.0} TFLOP/s", rate / 1e12);
        let (learner, size, shards) = match arguments.get(4) {
            None => (learner(arch, precision, pairs, (SIZE, BOXES), gpu)?, SIZE, None),
            Some(folder) => {
                let dataset = Dataset::open(folder.as_ref())?;
                let options = &dataset.manifest().options;
                let (size, boxes) = (options.size as usize, options.boxes as usize);
                (learner(arch, precision, pairs, (size, boxes), gpu)?, size, Some(dataset))
            }
        };
        let source = match shards {
            None => Source::Random((0..2).map(|seed| random_batch(pairs, size, seed)).collect()),
            Some(dataset) => Source::Shards(open(&dataset, pairs, WARM_UP + steps + PROFILED)?),
        };
        measure(learner, &source, (pairs, steps), rate)
    }

    /// Where batches come from.
    enum Source {
        Random(Vec<Batch>),
        Shards(Loader),
    }

    fn open(dataset: &Dataset, pairs: usize, batches: usize) -> Result<Loader> {
        let manifest = dataset.manifest();
        let config = LoaderConfig {
            batch_size: pairs,
            batches_per_epoch: dataset.rows_per_epoch() / pairs as u64,
            epochs: manifest.epochs,
            skip: 0,
            sources: Arc::new(SourceImages::new(manifest.images.clone().into())),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            follow: false,
        };
        let there = config.batches_per_epoch * u64::from(config.epochs);
        assert!(there >= batches as u64, "the shards have {there} batches of {pairs}, {batches} are needed");
        Loader::start(dataset, config)
    }

    fn learner(
        arch: Arch,
        precision: Precision,
        pairs: usize,
        (size, boxes): (usize, usize),
        gpu: Gpu,
    ) -> Result<CudaLearner<Gpu>> {
        let config = LearnerConfig {
            arch,
            sizes: HeadSizes { hidden: 4096, projection: 256 },
            seed: 0,
            copy_online: false,
            lars: LarsConfig { momentum: 0.9, weight_decay: 1e-6 },
            classes: None,
        };
        let shape = CudaConfig { method: Method::Scrl, precision, pairs, size, boxes };
        CudaLearner::new(Learner::new(&config, &Device::Cpu)?, shape, gpu)
    }

    fn random_batch(pairs: usize, size: usize, seed: u64) -> Batch {
        let mut random = Stream::new(seed, 0, 0, Purpose::View1);
        let pixels = (0..2 * pairs * size * size * 3).map(|_| random.next_u32() as u8).collect();
        let mut rois = Vec::new();
        for view in 0..2 * pairs {
            for _ in 0..BOXES {
                let mut side = || {
                    let length = random.uniform(32.0, size as f64 * 0.6);
                    let start = random.uniform(0.0, size as f64 - length);
                    [start as f32, (start + length) as f32]
                };
                let ([x0, x1], [y0, y1]) = (side(), side());
                rois.extend([view as f32, x0, y0, x1, y1]);
            }
        }
        let image_ids = (0..pairs as i64).collect();
        Batch { epoch: Epoch(0), pixels, size, image_ids, labels: vec![None; pairs], rois }
    }

    /// Takes a step, and returns the seconds that it waited for its batch.
    fn step(learner: &mut CudaLearner<Gpu>, source: &Source, number: usize) -> Result<f64> {
        let begin = Instant::now();
        let (loaded, waited);
        let batch = match source {
            Source::Random(batches) => {
                waited = 0.0;
                &batches[number % batches.len()]
            }
            Source::Shards(loader) => {
                loaded = loader.next_batch()?.expect("enough batches");
                waited = begin.elapsed().as_secs_f64();
                &loaded
            }
        };
        let scalars = StepScalars { lr: 0.1, tau: 0.99, matches: batch.matches(), labelled: 0 };
        learner.step(&[MicroBatch { batch, classes: None }], scalars, false)?;
        for outcome in learner.outcomes(false)? {
            assert!(outcome.loss.is_finite());
        }
        Ok(waited)
    }

    fn measure(
        mut learner: CudaLearner<Gpu>,
        source: &Source,
        (pairs, steps): (usize, usize),
        rate: f64,
    ) -> Result<()> {
        for number in 0..WARM_UP {
            step(&mut learner, source, number)?;
        }
        learner.outcomes(true)?;
        let begin = Instant::now();
        let mut waited = 0.0;
        for number in 0..steps {
            waited += step(&mut learner, source, number)?;
        }
        let last = learner.outcomes(true)?;
        let seconds = begin.elapsed().as_secs_f64();
        let (free, all) = learner.backend().memory()?;
        let [kept, buffers] = learner.memory();
        let operations = learner.operations();
        println!(
            "{:.0} pairs/s, {:.2} ms a step over {steps} steps, data wait {:.1} %, loss {:.4}",
            (pairs * steps) as f64 / seconds,
            1e3 * seconds / steps as f64,
            100.0 * waited / seconds,
            last.last().map_or(f32::NAN, |outcome| outcome.loss)
        );
        println!(
            "{:.1} TFLOP a step: {:.0} TFLOP/s, {:.1} % of large matrix products",
            operations / 1e12,
            operations * steps as f64 / seconds / 1e12,
            100.0 * operations * steps as f64 / seconds / rate
        );
        println!(
            "GPU memory: {:.2} GiB in use of {:.2}; planned {:.2} kept and {:.2} shared by the step's buffers",
            gib(all - free),
            gib(all),
            gib(kept),
            gib(buffers)
        );
        learner.backend().begin_profile();
        for number in 0..PROFILED {
            step(&mut learner, source, number)?;
        }
        learner.outcomes(true)?;
        let parts = learner.backend().end_profile();
        let total: f64 = parts.iter().map(|part| part.milliseconds).sum();
        println!("\n| part of a step | ms | share | pieces |\n|---|---|---|---|");
        for part in parts {
            println!(
                "| {} | {:.2} | {:.1} % | {} |",
                part.name,
                part.milliseconds / PROFILED as f64,
                100.0 * part.milliseconds / total,
                part.pieces / PROFILED
            );
        }
        println!("| all, one by one | {:.2} | | |", total / PROFILED as f64);
        Ok(())
    }

    fn gib(bytes: usize) -> f64 {
        bytes as f64 / f64::from(1 << 30)
    }

    /// Operations a second of large matrix products on random numbers.
    fn product_rate(numbers: Numbers) -> Result<f64> {
        let mut gpu = Gpu::open(0, numbers)?;
        let bytes = LARGE * LARGE * numbers.bytes();
        let mut recorder = Recorder::new("large products");
        let [left, right, result] = [(); 3].map(|()| recorder.buffer(bytes));
        let shape = ProductShape {
            rows: LARGE,
            columns: LARGE,
            inner: LARGE,
            left_transposed: false,
            right_transposed: true,
            factors: numbers,
            result: numbers,
            accumulate: false,
        };
        (0..PRODUCTS).for_each(|_| recorder.add(Work::Multiply(Multiply { shape, left, right, result })));
        let program = recorder.finish();
        let buffers = gpu.allocate(program.bytes)?;
        let places = Places { buffers, ..Places::default() };
        let mut random = Stream::new(0, 0, 0, Purpose::View2);
        for operand in [left, right] {
            // Small numbers of either sign in both formats.
            let numbers: Vec<u8> = (0..bytes / 2)
                .flat_map(|_| (random.next_u32() as u16 & 0x807f | 0x3f00).to_le_bytes())
                .collect();
            gpu.upload(&numbers, places.address(&program, operand))?;
        }
        gpu.prepare(&program)?;
        gpu.record(false);
        gpu.run(&program, &places)?;
        gpu.synchronize()?;
        let begin = Instant::now();
        gpu.run(&program, &places)?;
        gpu.synchronize()?;
        Ok(program.operations() / begin.elapsed().as_secs_f64())
    }
}
