//! Plans: how cuDNN computes one pass of a convolution.
//!
//! A convolution is described as a graph of one operation. cuDNN's heuristics then rank the engine
//! configurations that could compute it, and the first one that is acceptable becomes the plan. It
//! must give the same bits every time, it must compute float32 as float32, and it must not ask for
//! too much workspace. Nothing is chosen by measured time, because such a choice could differ from
//! run to run, and other engines give other bits.

use std::fmt;

use candle_core::{DType, Result};
use cudarc::cudnn::sys;
use sys::cudnnBackendAttributeName_t::*;
use sys::cudnnBackendDescriptorType_t::*;
use sys::cudnnBackendHeurMode_t::{self as HeuristicMode, *};
use sys::cudnnBackendNumericalNote_t::*;
use sys::cudnnHandle_t;

use super::descriptor::{Descriptor, Value};
use super::operation::{Operation, Work};

/// The most workspace that a plan may use, in bytes.
const MOST_WORKSPACE: usize = 1 << 30;

/// cuDNN's numerical notes, by their numbers in `cudnn_graph.h`.
const NOTES: [&str; 10] = [
    "tensor cores",
    "down-converts inputs",
    "reduced precision reduction",
    "FFT",
    "nondeterministic",
    "Winograd",
    "Winograd 4x4",
    "Winograd 6x6",
    "Winograd 13x13",
    "strict NaN",
];

/// The GPU that plans are made for.
pub(super) enum Target {
    /// The one of a handle.
    Handle(cudnnHandle_t),
    /// One that need not be there, by its properties.
    Properties(Descriptor),
}

impl Target {
    /// A GPU of these properties, in the JSON that cuDNN itself writes for a device.
    pub fn of_properties(json: &str) -> Result<Self> {
        let attributes = [(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, Value::Text(json))];
        Descriptor::finalized(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &attributes)
            .map(Self::Properties)
    }

    /// The graph of one operation.
    fn graph(&self, operation: &Descriptor) -> Result<Descriptor> {
        let mut attributes = vec![(CUDNN_ATTR_OPERATIONGRAPH_OPS, Value::Descriptor(operation))];
        if let Self::Handle(handle) = self {
            attributes.push((CUDNN_ATTR_OPERATIONGRAPH_HANDLE, Value::Handle(*handle)));
        }
        Descriptor::finalized(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, &attributes)
    }

    /// The configurations for a graph, in the order in which the heuristics recommend them.
    fn configurations(&self, graph: &Descriptor, mode: HeuristicMode) -> Result<Vec<Descriptor>> {
        let mut attributes = vec![
            (CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, Value::Descriptor(graph)),
            (CUDNN_ATTR_ENGINEHEUR_MODE, Value::HeuristicMode(mode)),
        ];
        if let Self::Properties(properties) = self {
            attributes.push((CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, Value::Descriptor(properties)));
        }
        let known = Descriptor::if_supported(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, &attributes)?;
        match known {
            Some(known) => {
                known.descriptors(CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR)
            }
            None => Ok(Vec::new()),
        }
    }

    /// The plan of a configuration, or `None` if cuDNN rejects it.
    fn plan(&self, configuration: &Descriptor) -> Result<Option<Descriptor>> {
        let gpu = match self {
            Self::Handle(handle) => (CUDNN_ATTR_EXECUTION_PLAN_HANDLE, Value::Handle(*handle)),
            Self::Properties(properties) => {
                (CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, Value::Descriptor(properties))
            }
        };
        let configuration = Value::Descriptor(configuration);
        Descriptor::if_supported(
            CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR,
            &[gpu, (CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configuration)],
        )
    }
}

/// The engine of a plan, and its place among those that cuDNN's heuristics recommend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engine {
    /// Its number among cuDNN's engines for the pass.
    pub index: i64,
    /// Whether only the fallback mode of the heuristics knows an acceptable engine; usually it is
    /// mode A, which ranks by expected time.
    pub is_fallback: bool,
    /// How many the mode recommends more.
    pub rank: usize,
    /// How many the mode ranks.
    pub ranked: usize,
    /// What cuDNN notes about its arithmetic.
    pub notes: Vec<&'static str>,
    /// Bytes of workspace.
    pub workspace: usize,
}

impl Engine {
    /// The heuristic mode: `A` or `fallback`.
    pub fn mode(&self) -> &'static str {
        if self.is_fallback { "fallback" } else { "A" }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, rank, ranked, notes, workspace, .. } = self;
        write!(f, "engine {index}, rank {rank} of {ranked} in mode {}", self.mode())?;
        write!(f, ", {:.1} MiB of workspace", *workspace as f64 / (1 << 20) as f64)?;
        notes.iter().try_for_each(|note| write!(f, ", {note}"))
    }
}

/// Whether an engine with these numerical notes gives the same bits every time, and float32 for
/// float32.
fn is_acceptable(notes: &[u32], dtype: DType) -> bool {
    let unwanted = match dtype {
        DType::BF16 => &[CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC][..],
        // Tensor cores multiply float32 as TF32, which has fewer bits.
        _ => &[
            CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC,
            CUDNN_NUMERICAL_NOTE_TENSOR_CORE,
            CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS,
            CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION,
        ],
    };
    !unwanted.iter().any(|&note| notes.contains(&(note as u32)))
}

/// One way to compute a pass. The fields are dropped in their order.
pub(super) struct Plan {
    pub engine: Engine,
    pub descriptor: Descriptor,
    _configuration: Descriptor,
}

/// The acceptable plans for a pass, the recommended one first. What they refer to lives as long as
/// they do; the fields are dropped in their order.
pub(super) struct Plans {
    pub plans: Vec<Plan>,
    graph: Descriptor,
    _operation: Operation,
}

impl Plans {
    /// The first ones, at most `most`.
    pub fn choose(target: &Target, work: Work, most: usize) -> Result<Self> {
        let operation = Operation::new(work)?;
        let graph = target.graph(&operation.descriptor)?;
        let mut chosen = Self { plans: Vec::new(), graph, _operation: operation };
        // The fallback mode knows slower engines that take more shapes.
        for mode in [CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK] {
            if chosen.plans.len() < most {
                chosen.add(target, mode, work, most)?;
            }
        }
        Ok(chosen)
    }

    /// Adds those of one mode.
    fn add(
        &mut self,
        target: &Target,
        mode: HeuristicMode,
        (.., dtype, _): Work,
        most: usize,
    ) -> Result<()> {
        let configurations = target.configurations(&self.graph, mode)?;
        let ranked = configurations.len();
        for (rank, configuration) in configurations.into_iter().enumerate() {
            let engines = configuration
                .descriptors(CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_BACKEND_ENGINE_DESCRIPTOR)?;
            let Some(engine) = engines.first() else { continue };
            let notes = engine.numerical_notes()?;
            if !is_acceptable(&notes, dtype) {
                continue;
            }
            let Some(descriptor) = target.plan(&configuration)? else { continue };
            let workspace = descriptor.integer(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE)?;
            let workspace = usize::try_from(workspace).unwrap_or(usize::MAX);
            if workspace > MOST_WORKSPACE {
                continue;
            }
            let name = |&note: &u32| NOTES.get(note as usize).copied().unwrap_or("unknown");
            let engine = Engine {
                index: engine.integer(CUDNN_ATTR_ENGINE_GLOBAL_INDEX)?,
                is_fallback: mode == CUDNN_HEUR_MODE_FALLBACK,
                rank,
                ranked,
                notes: notes.iter().map(name).collect(),
                workspace,
            };
            self.plans.push(Plan { engine, descriptor, _configuration: configuration });
            if self.plans.len() == most {
                break;
            }
        }
        Ok(())
    }
}
