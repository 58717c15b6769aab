//! The plans that cuDNN makes for every convolution of every architecture on six GPUs. None of them
//! need be there, as plans can be made from a GPU's properties. `--nocapture` shows all of them.

use std::collections::HashSet;

use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use scrl_trainer::model::{Arch, Backbone};
use scrl_trainer::ops::gpu::{Engine, cudnn_version, engines_without_device};
use scrl_trainer::ops::{Geometry, Pass};

/// The views of 8 pairs and of 256, the default of `--batch-size`.
const VIEWS: [usize; 2] = [16, 512];

/// Sides of views, in pixels.
const SIZES: [usize; 3] = [64, 96, 224];

/// The distinct passes at one size: of 11 convolutions of 3×3 and 7×7 all three, but not the gradient
/// of pixels; of 6 of 1×1 with stride 2 two, and of 12 with stride 1 the filter's gradient.
const PASSES: usize = 3 * 11 - 1 + 2 * 6 + 12;

/// The most workspace that a plan may use.
const MOST_WORKSPACE: usize = 1 << 30;

/// A GPU.
struct Card {
    name: &'static str,
    /// Its compute capability, times ten.
    capability: u32,
    multiprocessors: u32,
    /// The highest clocks of multiprocessors and memory, in MHz.
    clocks: [u32; 2],
    /// Width of the memory's bus, in bits.
    bus: u32,
    l2_mib: f64,
    memory_mib: u64,
}

/// From the output of NVIDIA's deviceQuery on such cards; of the H200 and the B200 from that of
/// nvidia-smi and PyTorch's `get_device_properties`, and the H200's bus from its six stacks of HBM3e
/// of 1,024 bits. Only the capability and the multiprocessors must be exact: with half the clock of
/// the multiprocessors, half the bus, cache or memory, cuDNN 9.28 chooses the same.
const CARDS: [Card; 6] = [
    Card {
        name: "NVIDIA A100-SXM4-80GB",
        capability: 80,
        multiprocessors: 108,
        clocks: [1410, 1593],
        bus: 5120,
        l2_mib: 40.0,
        memory_mib: 81_051,
    },
    Card {
        name: "NVIDIA L40S",
        capability: 89,
        multiprocessors: 142,
        clocks: [2520, 9001],
        bus: 384,
        l2_mib: 96.0,
        memory_mib: 45_373,
    },
    Card {
        name: "NVIDIA H100 80GB HBM3",
        capability: 90,
        multiprocessors: 132,
        clocks: [1980, 2619],
        bus: 5120,
        l2_mib: 50.0,
        memory_mib: 81_090,
    },
    Card {
        name: "NVIDIA H200",
        capability: 90,
        multiprocessors: 132,
        clocks: [1980, 3201],
        bus: 6144,
        l2_mib: 60.0,
        memory_mib: 143_156,
    },
    Card {
        name: "NVIDIA B200",
        capability: 100,
        multiprocessors: 148,
        clocks: [1965, 3996],
        bus: 7680,
        l2_mib: 126.5,
        memory_mib: 182_631,
    },
    Card {
        name: "NVIDIA GeForce RTX 5090",
        capability: 120,
        multiprocessors: 170,
        clocks: [2407, 14_001],
        bus: 512,
        l2_mib: 96.0,
        memory_mib: 32_101,
    },
];

impl Card {
    /// The properties as cuDNN writes them for a device. What no field has is a constant of the
    /// compute capability, from the table of technical specifications in the CUDA programming
    /// guide.
    fn properties(&self) -> String {
        // KiB of shared memory of a block, threads and blocks of a multiprocessor.
        let [shared_kib, threads, blocks] = match self.capability {
            80 => [163, 2048, 32],
            90 | 100 => [227, 2048, 32],
            89 | 120 => [99, 1536, 24],
            other => panic!("compute capability {other}"),
        };
        serde_json::json!({
            "deviceName": self.name,
            "deviceVer": 10 * self.capability,
            "driverVer": 13_000,
            "cudaDeviceId": 0,
            "pciDeviceId": 0,
            "isTccDriver": 0,
            "supportCoopLaunch": 1,
            "multiProcessorCount": self.multiprocessors,
            "smClockRateKHz": 1000 * self.clocks[0],
            "memClockRateKHz": 1000 * self.clocks[1],
            "memoryBusWidth": self.bus,
            "l2CacheSize": (self.l2_mib * 1024.0 * 1024.0) as u64,
            "totalGlobalMem": self.memory_mib << 20,
            "warpSize": 32,
            "maxThreadsPerBlock": 1024,
            "maxThreadsPerSM": threads,
            "maxCtasPerSM": blocks,
            "maxBlockSize": [1024, 1024, 64],
            "maxGridSize": [i32::MAX, 65_535, 65_535],
            "regsPerBlock": 65_536,
            "maxRegistersPerSM": 65_536,
            "maxSharedMemoryPerBlock": 48 << 10,
            "maxSharedMemoryPerBlockOptin": shared_kib << 10,
            "reservedSharedMemoryPerBlock": 1 << 10,
        })
        .to_string()
    }
}

/// The distinct passes of all architectures that cuDNN computes, with the gradients of 1×1 filters,
/// which `filter_gradients_by_cudnn` adds.
fn passes(views: usize, size: usize, dtype: DType) -> Vec<(Geometry, Pass)> {
    let mut seen = HashSet::new();
    let mut passes = Vec::new();
    for &arch in Arch::ALL {
        let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
        for (conv, g) in Backbone::new(arch, &vb).unwrap().convolutions(views, size).unwrap() {
            let mut of_conv = conv.passes_by_cudnn(&g, dtype);
            of_conv.extend((g.kh == 1).then_some((g, Pass::Filter)));
            passes.extend(of_conv.into_iter().filter(|pass| seen.insert(*pass)));
        }
    }
    assert_eq!(passes.len(), PASSES);
    passes
}

/// The engine, which has to be there and to compute what is promised.
fn check(card: &Card, dtype: DType, pass: &(Geometry, Pass), engine: Option<Engine>) -> Engine {
    let name = format!("{}, {dtype:?}, {} of a {}", card.name, pass.1, pass.0);
    let engine = engine.unwrap_or_else(|| panic!("no engine: {name}"));
    println!("{name}: {engine}");
    assert!(engine.workspace <= MOST_WORKSPACE, "{name}: {engine}");
    let unwanted = match dtype {
        DType::BF16 => {
            assert!((engine.mode(), engine.rank) == ("A", 0), "{name}: {engine}");
            &["nondeterministic", "unknown"][..]
        }
        _ => &[
            "nondeterministic",
            "unknown",
            "tensor cores",
            "down-converts inputs",
            "reduced precision reduction",
        ],
    };
    assert!(!engine.notes.iter().any(|note| unwanted.contains(note)), "{name}: {engine}");
    engine
}

/// What the plans of a GPU have in common: a row of the table in `docs/gpu.md`.
fn summary(card: &Card, dtype: DType, views: usize, size: usize, engines: &[Engine]) -> String {
    let count = |is: &dyn Fn(&Engine) -> bool| engines.iter().filter(|engine| is(engine)).count();
    let most = engines.iter().map(|engine| engine.workspace).max().unwrap_or(0);
    format!(
        "| {} | {dtype:?} | {views} of {size} | {} | {} | {} | {} | {:.0} |",
        card.name,
        count(&|engine| engine.rank == 0 && !engine.is_fallback),
        count(&|engine| engine.rank > 0 && !engine.is_fallback),
        count(&|engine| engine.is_fallback),
        count(&|engine| engine.notes.iter().any(|note| note.starts_with("Winograd"))),
        most as f64 / f64::from(1 << 20)
    )
}

/// Bits that repeat cost nothing in bfloat16: no engine that cuDNN recommends first is passed over.
/// In float32 there is an engine without TF32 for each pass.
#[test]
fn every_pass_has_a_plan_on_every_gpu() {
    let mut summaries = Vec::new();
    for (views, size) in VIEWS.into_iter().flat_map(|views| SIZES.map(|size| (views, size))) {
        for dtype in [DType::BF16, DType::F32] {
            let passes = passes(views, size, dtype);
            for card in &CARDS {
                let engines = engines_without_device(&card.properties(), dtype, &passes).unwrap();
                let engines: Vec<Engine> = passes
                    .iter()
                    .zip(engines)
                    .map(|(pass, engine)| check(card, dtype, pass, engine))
                    .collect();
                summaries.push(summary(card, dtype, views, size, &engines));
            }
        }
    }
    let (major, minor, patch) = cudnn_version();
    println!("\ncuDNN {major}.{minor}.{patch}, {PASSES} passes:\n");
    println!(
        "| GPU | type | views | first choice | mode A, later | fallback | Winograd | most MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|\n{}", summaries.join("\n"));
}

#[test]
fn properties_that_are_none_are_refused() {
    let message = engines_without_device("{}", DType::F32, &[]).unwrap_err().to_string();
    assert!(message.contains("DEVICEPROP"), "{message}");
}
