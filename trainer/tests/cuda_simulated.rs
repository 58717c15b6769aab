//! The real programs on a simulated GPU, see `simulated/simulator.h`: that they train as the CPU
//! does, give the same bits in every order that CUDA allows, and end with one line when something
//! fails.
//!
//! `SCRL_SIM_ALL` in the environment tests every seed with every kind of run, and every allocation
//! of a step in the real program, for hours.

#![cfg(feature = "cuda")]

mod prepared;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use libloading::{Library, Symbol};
use prepared::{Prepared, metrics};
use scrl_schemas::ViewEncoding;
use scrl_trainer::model::{Arch, HeadSizes, Regions};
use scrl_trainer::ops::gpu::{Array, Transfers, open, peak_memory};
use scrl_trainer::optim::SgdConfig;
use scrl_trainer::train::{Learner, LearnerConfig, MicroBatch, StepMemory};
use serde_json::Value;

/// The exit code after a broken rule, `VIOLATION` of `simulator.h`.
const VIOLATION: i32 = 86;

/// Longer than any run takes, so that one that hangs is found.
const PATIENCE: Duration = Duration::from_secs(600);

/// Of the losses of bfloat16, and of float32, as for the emulator.
const BF16_TOLERANCE: f32 = 2e-2;
const F32_TOLERANCE: f32 = 1e-3;
/// Of the weights' movement in float32.
const MOVEMENT_TOLERANCE: f64 = 2e-2;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The C++ compiler; `None` with a word where there is none.
fn compiler() -> Option<String> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    if Command::new(&compiler).arg("--version").output().is_err() {
        eprintln!("skipped: no C++ compiler");
        return None;
    }
    Some(compiler)
}

/// Runs a program on the simulated GPU.
fn simulated(program: &Path) -> Command {
    let mut command = Command::new(root().join("scripts/simulate_gpu.sh"));
    command.arg(program).env_remove("RUST_BACKTRACE");
    command
}

/// Small shards, and runs of scrl-train on them.
struct Bench {
    prepared: Prepared,
    shards: PathBuf,
}

/// A run of scrl-train.
struct Run {
    command: Command,
    options: BTreeMap<&'static str, String>,
    out: PathBuf,
    report: PathBuf,
    lines: PathBuf,
}

/// A run that has ended.
struct Ended {
    status: ExitStatus,
    out: PathBuf,
    /// What the program itself wrote on standard error.
    lines: Vec<String>,
    /// The simulator's report; null if it could not be written.
    report: Value,
}

impl Bench {
    /// `None` without a C++ compiler.
    fn new() -> Option<Self> {
        compiler()?;
        let prepared = Prepared::images(16);
        let shards = prepared.prepare_sized("shards", 4, ViewEncoding::Webp, 32);
        Some(Self { prepared, shards })
    }

    /// A run of `steps` steps of two pairs on the simulated GPU.
    fn run(&self, out: &str, steps: u32) -> Run {
        let file = |name: &str| self.prepared.path(&format!("{out}.{name}"));
        let out = self.prepared.path(out);
        let mut command = simulated(Path::new(env!("CARGO_BIN_EXE_scrl-train")));
        command.arg(&self.shards).arg("--quiet").arg("--out").arg(&out);
        let options = [
            ("--device", "cuda"),
            ("--precision", "f32"),
            ("--arch", "resnet18"),
            ("--preset", "paper"),
            // The barriers of LARS's kernels take more time here than the rest of a step.
            ("--optimizer", "sgd"),
            ("--hidden", "16"),
            ("--projection", "8"),
            ("--batch-size", "2"),
            ("--warmup-epochs", "1"),
            ("--log-every", "1"),
            ("--threads", "1"),
        ];
        let options = options.map(|(name, value)| (name, value.to_owned())).into();
        let run = Run { command, options, out, report: file("report"), lines: file("lines") };
        run.option("--max-steps", &steps.to_string())
    }
}

impl Run {
    fn option(mut self, name: &'static str, value: &str) -> Self {
        self.options.insert(name, value.to_owned());
        self
    }

    fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.command.env(name, value.to_string());
        self
    }

    fn start(&mut self) -> Child {
        self.command.env("SCRL_SIM_REPORT", &self.report);
        for (name, value) in &self.options {
            self.command.args([name, value.as_str()]);
        }
        self.command.stderr(File::create(&self.lines).unwrap()).spawn().unwrap()
    }

    fn end(mut self) -> Ended {
        let mut child = self.start();
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > PATIENCE {
                child.kill().unwrap();
                panic!("{:?} hangs", self.command);
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let text = fs::read_to_string(&self.lines).unwrap();
        let of_program = |line: &&str| !line.starts_with("simulated GPU: results");
        let lines: Vec<String> = text.lines().filter(of_program).map(str::to_owned).collect();
        let report = fs::read_to_string(&self.report).unwrap_or_default();
        let report = serde_json::from_str(&report).unwrap_or_default();
        assert_ne!(status.code(), Some(VIOLATION), "{:?}: {lines:?}", self.command);
        Ended { status, out: self.out, lines, report }
    }

    /// Runs to the end of the training.
    fn train(self) -> Ended {
        let ended = self.end();
        assert!(ended.status.success(), "{:?}", ended.lines);
        ended
    }

    /// Runs into a failure, which must be told in one line.
    fn fail(self) -> (String, Ended) {
        let shown = self.out.display().to_string();
        let ended = self.end();
        assert_eq!(ended.status.signal(), None, "{shown}: {:#?}", ended.lines);
        assert!(matches!(ended.status.code(), Some(1 | 2)), "{shown}: {:?}", ended.status);
        let [line] = ended.lines.as_slice() else { panic!("{shown}: {:#?}", ended.lines) };
        (line.clone(), ended)
    }
}

impl Ended {
    fn losses(&self) -> Vec<f32> {
        metrics(&self.out).into_iter().map(|line| line.loss).collect()
    }

    /// A count of the simulator's report.
    fn count(&self, name: &str) -> u64 {
        self.report["calls"][name].as_u64().unwrap_or(0)
    }

    /// Whatever of a run must repeat: losses, other metrics without those of time, weights.
    fn bits(&self) -> (Vec<String>, Vec<u8>) {
        let numbers = metrics(&self.out).into_iter().map(|line| {
            format!("{:?}", (line.loss.to_bits(), line.online_acc, line.projection_std))
        });
        (numbers.collect(), newest_checkpoint(&self.out))
    }
}

fn checkpoints(out: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(out.join("checkpoints")).unwrap();
    let mut paths: Vec<PathBuf> = listed.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn newest_checkpoint(out: &Path) -> Vec<u8> {
    fs::read(checkpoints(out).pop().unwrap()).unwrap()
}

fn assert_close(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    println!("{what}: {found:?}, expected {expected:?}");
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        assert!((found / expected - 1.0).abs() <= tolerance, "{what}: {found} {expected}");
    }
}

/// ‖found − expected‖ / ‖expected − start‖ of the online network's weights after a run.
fn movement_error(found: &Ended, expected: &Ended) -> f64 {
    let load = |path: &Path| candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let paths = checkpoints(&expected.out);
    let [start, end] = [&paths[0], paths.last().unwrap()].map(|path| load(path));
    let found = load(checkpoints(&found.out).last().unwrap());
    let (mut error, mut movement) = (0.0, 0.0);
    let is_weight = |name: &str| name.starts_with("online.") && !name.contains("running");
    for (name, end) in end.iter().filter(|(name, _)| is_weight(name)) {
        let values = |tensor: &Tensor| -> Vec<f32> {
            let tensor = tensor.to_dtype(DType::F32).unwrap();
            tensor.flatten_all().unwrap().to_vec1().unwrap()
        };
        let (start, end, found) = (values(&start[name]), values(end), values(&found[name]));
        for ((start, end), found) in start.iter().zip(&end).zip(&found) {
            error += f64::from(found - end).powi(2);
            movement += f64::from(end - start).powi(2);
        }
    }
    assert!(movement > 0.0);
    (error / movement).sqrt()
}

/// At a small learning rate: at a large one, two runs on the CPU itself that start a rounding error
/// apart soon differ, as batch norms are of so few values here.
fn ten_steps(method: &str) {
    let Some(bench) = Bench::new() else { return };
    let run = |out: &str| {
        bench
            .run(out, 10)
            .option("--method", method)
            .option("--optimizer", "lars")
            .option("--batch-size", "4")
            .option("--lr", "0.01")
    };
    let expected = run("cpu").option("--device", "cpu").train();
    let f32 = run("f32").train();
    assert_close(&f32.losses(), &expected.losses(), F32_TOLERANCE, "float32");
    let error = movement_error(&f32, &expected);
    println!("the weights' movement differs by {error:.1e}");
    assert!(error <= MOVEMENT_TOLERANCE, "{error}");
    let bf16 = run("bf16").option("--precision", "bf16").train();
    // Roundings average out over the steps: one step is of too few pixels for that.
    let mean = |ended: &Ended| [ended.losses().iter().sum::<f32>() / 10.0];
    assert_close(&mean(&bf16), &mean(&expected), BF16_TOLERANCE, "mean of bfloat16");
}

#[test]
fn ten_steps_of_scrl_are_those_of_the_cpu() {
    ten_steps("scrl");
}

#[test]
fn ten_steps_of_byol_are_those_of_the_cpu() {
    ten_steps("byol");
}

/// Twenty orders of the streams, five of each kind of run, or with `SCRL_SIM_ALL` twenty of each.
#[test]
fn every_order_of_the_streams_gives_the_same_bits() {
    let Some(bench) = Bench::new() else { return };
    let kinds = [("scrl", "f32"), ("scrl", "bf16"), ("byol", "f32"), ("byol", "bf16")];
    for (number, (method, precision)) in kinds.into_iter().enumerate() {
        let run = |out: String| {
            bench.run(&out, 2).option("--method", method).option("--precision", precision)
        };
        let expected = run(format!("{method}-{precision}")).train().bits();
        let all = std::env::var_os("SCRL_SIM_ALL").is_some();
        for seed in (0..20).filter(|seed| all || seed % kinds.len() == number) {
            let found = run(format!("{method}-{precision}-{seed}"))
                .env("SCRL_SIM_SEED", seed)
                .env("SCRL_SIM_LATE_COPIES", 1)
                .train();
            assert_eq!(found.bits().0, expected.0, "seed {seed}");
            assert!(found.bits().1 == expected.1, "seed {seed}: other weights");
            fs::remove_dir_all(found.out).unwrap();
        }
    }
}

#[test]
fn a_killed_run_resumes_with_the_same_bits() {
    let Some(bench) = Bench::new() else { return };
    let run = |out: &str| bench.run(out, 5).option("--checkpoint-every", "2");
    let expected = run("complete").train();
    let mut killed = run("killed");
    let mut child = killed.start();
    let start = Instant::now();
    // After the third step, the second checkpoint is complete.
    while !killed.out.join("metrics.jsonl").exists() || metrics(&killed.out).len() < 3 {
        assert!(start.elapsed() < PATIENCE, "no third step");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(checkpoints(&killed.out).len() < checkpoints(&expected.out).len());
    let resumed = run("killed").train();
    assert_eq!(resumed.losses(), expected.losses());
    assert!(resumed.bits() == expected.bits());
}

/// An error of memory must name the options that help.
fn assert_advice(line: &str, what: &str) {
    for option in ["--batch-size", "--accumulate"] {
        assert!(line.contains(option), "{what}: {line}");
    }
}

#[test]
fn a_failed_allocation_ends_in_one_line() {
    let Some(bench) = Bench::new() else { return };
    let run = |out: &str, steps| bench.run(out, steps).env("SCRL_SIM_DRY", 1);
    let (one, two) = (run("one", 1).train(), run("two", 2).train());
    let (before, all) = (one.count("allocations"), two.count("allocations"));
    let checkpoint = fs::read(&checkpoints(&two.out)[0]).unwrap();
    // Parameters are made before the first step; the second step is complete.
    let step = all - before;
    let wanted = |count: u64| -> Vec<u64> {
        let of_parameters = (1..4).chain((4..before).step_by((before / count) as usize));
        of_parameters.chain((before..all).step_by((step / count).max(1) as usize)).collect()
    };
    let every = std::env::var_os("SCRL_SIM_ALL").is_some();
    for n in if every { (1..=all).collect() } else { wanted(8) } {
        let failing = run(&format!("failing-{n}"), 2).env("SCRL_SIM_FAIL_ALLOCATION", n);
        let (line, ended) = failing.fail();
        assert_advice(&line, &format!("allocation {n}"));
        if ended.out.join("checkpoints").exists() {
            assert!(newest_checkpoint(&ended.out) == checkpoint, "allocation {n}");
            fs::remove_dir_all(ended.out).unwrap();
        }
    }
}

#[test]
fn too_little_memory_ends_in_one_line() {
    let Some(bench) = Bench::new() else { return };
    let run = |out: &str| bench.run(out, 1).env("SCRL_SIM_DRY", 1);
    let peak = run("enough").train().report["peak_bytes"].as_u64().unwrap();
    for part in [4, 2] {
        let limit = peak * (part - 1) / part;
        let (line, _) = run(&format!("part-{part}")).env("SCRL_SIM_MEMORY", limit).fail();
        assert_advice(&line, &format!("{limit} of {peak} bytes"));
    }
}

#[test]
fn an_illegal_address_ends_in_one_line() {
    let Some(bench) = Bench::new() else { return };
    let run = |out: &str| bench.run(out, 2).env("SCRL_SIM_DRY", 1);
    let all = run("complete").train().count("operations");
    for n in [1, all / 3, all / 2, all - 1] {
        let (line, _) = run(&format!("failing-{n}")).env("SCRL_SIM_FAIL_OPERATION", n).fail();
        assert!(line.contains("illegal") || line.contains("ILLEGAL"), "operation {n}: {line}");
    }
}

#[test]
fn no_engine_of_cudnn_ends_in_one_line() {
    let Some(bench) = Bench::new() else { return };
    for precision in ["f32", "bf16"] {
        let run = bench.run(precision, 1).option("--precision", precision);
        let (line, _) = run.env("SCRL_SIM_NO_ENGINES", 1).fail();
        assert!(line.contains("cuDNN has no engine"), "{line}");
    }
}

#[test]
fn devices_that_lack_something_train_all_the_same() {
    let Some(bench) = Bench::new() else { return };
    let expected = bench.run("all", 2).train();
    let without_pools = bench.run("without-pools", 2).env("SCRL_SIM_NO_POOLS", 1).train();
    assert!(without_pools.bits() == expected.bits());
    assert_eq!(without_pools.count("cuMemAllocAsync"), 0);
    let nchw = bench.run("nchw", 2).env("SCRL_SIM_ONLY_NCHW", 1).train();
    assert_close(&nchw.losses(), &expected.losses(), F32_TOLERANCE, "NCHW");
}

#[test]
fn evaluation_is_that_of_the_cpu() {
    if compiler().is_none() {
        return;
    }
    let prepared = Prepared::classes(10);
    let evaluate = |device: &str| -> Value {
        let out = prepared.path(device);
        let options = "linear --checkpoint random --arch resnet18 --size 64 --images-per-batch 4 \
                       --crops 1 --epochs 4 --warmup-epochs 1";
        let output = simulated(Path::new(env!("CARGO_BIN_EXE_scrl-eval")))
            .args(options.split_whitespace())
            .args(["--device", device, "--precision", "f32", "--out"])
            .arg(&out)
            .arg("--images")
            .arg(prepared.path("images"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&fs::read(out.join("results.json")).unwrap()).unwrap()
    };
    let [cpu, cuda] = ["cpu", "cuda"].map(evaluate);
    assert_eq!(cpu["confusion"], cuda["confusion"]);
    let [cpu, cuda] = [cpu, cuda].map(|results| [results["train_loss"].as_f64().unwrap() as f32]);
    assert_close(&cuda, &cpu, F32_TOLERANCE, "loss of the linear layer");
}

/// Of two processes, each with a GPU, NCCL changes nothing but roundings.
#[cfg(feature = "nccl")]
#[test]
fn two_processes_train_as_one() {
    let Some(bench) = Bench::new() else { return };
    let run = |out: &str| bench.run(out, 3).option("--batch-size", "4");
    let expected = run("one").train().losses();
    let two = |out: &str| -> Ended {
        // The ranks use the port after that of the launcher.
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let ranks = [0, 1].map(|rank| {
            let mut run = run(out).option("--device", "cuda:0");
            run.lines = bench.prepared.path(&format!("{out}.lines.{rank}"));
            run.report = bench.prepared.path(&format!("{out}.report.{rank}"));
            run.env("RANK", rank)
                .env("LOCAL_RANK", rank)
                .env("WORLD_SIZE", 2)
                .env("LOCAL_WORLD_SIZE", 2)
                .env("MASTER_ADDR", "127.0.0.1")
                .env("MASTER_PORT", address.port() - 1)
        });
        let ended = std::thread::scope(|scope| {
            let ranks = ranks.map(|rank| scope.spawn(|| rank.train()));
            ranks.map(|rank| rank.join().unwrap())
        });
        assert!(ended.iter().all(|rank| rank.count("ncclAllReduce") > 0));
        let [first, _] = ended;
        first
    };
    let found = two("two");
    // Kernels of batch norm add up float32, in another order for another number of rows.
    assert_close(&found.losses(), &expected, F32_TOLERANCE, "losses");
    assert!(two("again").bits() == found.bits());
}

/// The whole test program of a GPU, or without `SCRL_SIM_ALL` its ops and what is short.
#[test]
fn tests_of_a_gpu_pass() {
    if compiler().is_none() {
        return;
    }
    // Cargo builds it into the same folder, if it builds it.
    let folder = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let programs = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let is_it = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with("cuda_gpu-") && !name.contains('.')
    };
    let modified = |path: &PathBuf| fs::metadata(path).unwrap().modified().unwrap();
    let Some(program) = programs.filter(is_it).max_by_key(modified) else {
        eprintln!("skipped: the test cuda_gpu is not built");
        return;
    };
    let mut command = simulated(&program);
    command.env("SCRL_REQUIRE_GPU", "1").arg("--test-threads=1");
    if std::env::var_os("SCRL_SIM_ALL").is_none() {
        command.args(["--skip", "steps_", "--skip", "same_bits_twice", "--skip", "ranks_"]);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success());
    assert!(text.contains("test ops_f32 ... ok"));
}

/// Takes one step of views with a box each, of which nothing is computed; its sizes are all that
/// count.
fn dry_step(
    learner: &mut Learner,
    transfers: &mut Transfers,
    views: usize,
    side: usize,
) -> candle_core::Result<()> {
    let pixels = vec![0; views * side * side * 3];
    let rois = vec![[0.0, 4.0, 4.0, 20.0, 20.0]; views].concat();
    let arrays = [
        (Array::U8(&pixels), (views, side, side, 3).into()),
        (Array::F32(&rois), (views, 5).into()),
    ];
    let [pixels, rois] = transfers.upload(&arrays)?.try_into().unwrap();
    let batch = MicroBatch { pixels, regions: Regions::Boxes(rois), labels: None };
    let computed = learner.compute(&batch, views / 2, None, true)?;
    learner.apply(&computed, 0.01, 0.97)?;
    transfers.fetch(&computed.loss)?.wait()?;
    Ok(())
}

fn dry_config(arch: Arch, dtype: DType) -> LearnerConfig {
    LearnerConfig {
        arch,
        sizes: HeadSizes { hidden: 24, projection: 16 },
        seed: 7,
        copy_online: false,
        dtype,
        optimizer: SgdConfig { trust: Some(1e-3), ..SgdConfig::default() },
        classes: None,
    }
}

/// In the simulated GPU's process: what is allocated at once in a step is what was computed.
#[test]
#[ignore = "runs in `what_runs_in_the_process_of_the_gpu`"]
fn the_computed_memory_in_process() {
    let device: Device = open(0).unwrap();
    let mut before = 0;
    // The pool's peak is of all steps so far, so each needs more than the ones before.
    for (arch, dtype, side, views) in [
        (Arch::Resnet18, DType::BF16, 96, 64),
        (Arch::Resnet18, DType::F32, 64, 256),
        (Arch::Resnet50, DType::BF16, 224, 64),
        (Arch::Resnet50, DType::F32, 96, 256),
        (Arch::Resnet101, DType::BF16, 224, 128),
    ] {
        let config = dry_config(arch, dtype);
        let mut learner = Learner::new(&config, &device).unwrap();
        let mut transfers = Transfers::new(&device).unwrap();
        for _ in 0..2 {
            dry_step(&mut learner, &mut transfers, views, side).unwrap();
        }
        let of_learner: usize =
            learner.state().map(|parameter| 4 * parameter.tensor().elem_count()).sum();
        let step = StepMemory {
            arch,
            sizes: config.sizes,
            dtype,
            side,
            boxes: Some(1),
            accumulates: false,
        };
        let computed = (of_learner + step.bytes(views / 2)) as f64;
        let counted = peak_memory(&device).unwrap().unwrap().used;
        println!("{arch} {dtype:?}: {computed:.3e} bytes computed, {counted:.3e} counted");
        assert!(counted > before, "{arch} {dtype:?}");
        assert!((computed / counted as f64 - 1.0).abs() < 0.05, "{arch} {dtype:?}");
        before = counted;
    }
}

/// In the simulated GPU's process: any allocation of a step fails, and the next step is as ever.
#[test]
#[ignore = "runs in `what_runs_in_the_process_of_the_gpu`"]
fn every_allocation_of_a_step_in_process() {
    // SAFETY: this is the simulated driver, which the process has loaded already.
    let driver = unsafe { Library::new("libcuda.so.1") }.unwrap();
    // SAFETY: the function is declared like this in rules.cpp.
    let fail: Symbol<unsafe extern "C" fn(u64)> =
        unsafe { driver.get(b"scrl_sim_fail_allocation") }.unwrap();
    let device: Device = open(0).unwrap();
    for dtype in [DType::F32, DType::BF16] {
        let config = dry_config(Arch::Resnet18, dtype);
        let mut learner = Learner::new(&config, &device).unwrap();
        let mut failed = 0;
        for n in 1.. {
            // Another slot is made at the first and at the second step.
            let mut transfers = Transfers::new(&device).unwrap();
            // SAFETY: it sets a number.
            unsafe { fail(n) };
            match dry_step(&mut learner, &mut transfers, 4, 32) {
                Ok(()) => break,
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.contains("MEMORY") || text.contains("ALLOC"), "{n}: {text}");
                    failed += 1;
                }
            }
        }
        // SAFETY: as above; 0 is no allocation's number.
        unsafe { fail(0) };
        println!("{failed} allocations of a step in {dtype:?}");
        assert!(failed > 100);
    }
}

#[test]
fn what_runs_in_the_process_of_the_gpu() {
    if compiler().is_none() {
        return;
    }
    for test in ["every_allocation_of_a_step_in_process", "the_computed_memory_in_process"] {
        let mut command = simulated(&std::env::current_exe().unwrap());
        command.env("SCRL_SIM_DRY", "1").args(["--exact", test, "--ignored", "--nocapture"]);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        println!("{text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && text.contains("1 passed"), "{test}");
    }
}

/// The simulator finds what it is there to find.
#[test]
fn broken_rules_end_the_process() {
    let Some(compiler) = compiler() else { return };
    assert!(simulated(Path::new("true")).status().unwrap().success());
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("rules_test");
    // The script puts the libraries first, then those of the toolkit.
    let found = simulated(Path::new("printenv")).arg("LD_LIBRARY_PATH").output().unwrap();
    let found = String::from_utf8(found.stdout).unwrap();
    let [libraries, toolkit] = found.trim().split(':').take(2).collect::<Vec<_>>()[..] else {
        panic!("{found}")
    };
    let compiled = Command::new(compiler)
        .args(["-std=c++17", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"])
        .arg(&program)
        .arg(root().join("trainer/tests/simulated/rules_test.cpp"))
        .arg("-I")
        .arg(Path::new(toolkit).parent().unwrap().join("include"))
        .arg("-L")
        .arg(libraries)
        .args(["-l:libcuda.so.1", "-l:libcublas.so.13"])
        .status()
        .unwrap();
    assert!(compiled.success());
    let run = |arguments: &[&str]| simulated(&program).args(arguments).output().unwrap();
    let cases = String::from_utf8(run(&[]).stdout).unwrap();
    for (name, report) in cases.lines().map(|line| line.split_once('\t').unwrap()) {
        let output = run(&[name]);
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text).unwrap();
        let expected = if text.contains("broken rule") { VIOLATION } else { 0 };
        assert_eq!(output.status.code(), Some(expected), "{name}: {text}");
        assert!(text.contains(report), "{name}: {text}");
    }
    assert!(cases.lines().count() > 10);
}
