//! The device that a program computes on, and the number format of its feature maps.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use candle_core::{DType, Device};
use clap::Args;
use scrl_cli::{LocalWorld, Reporter, choices};
use scrl_schemas::named_choice;

use crate::error::refuse;
use crate::ops::gpu;
use crate::{Error, Result};

/// The resolved name of the CPU.
const CPU: &str = "cpu";

/// The start of a resolved GPU's name.
const CUDA: &str = "cuda:";

/// A GPU whose kernels the driver has compiled before is ready sooner.
const USUAL_START: Duration = Duration::from_secs(2);

named_choice! {
    /// The number format of the feature maps.
    pub enum Precision {
        /// bfloat16 with float32 master weights.
        Bf16 = "bf16",
        /// float32 throughout.
        F32 = "f32",
    }
}

/// The device to compute on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU if this program can use one and there is one, otherwise the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this number; without one, of several processes on a machine each its own.
    Cuda(Option<usize>),
}

impl std::str::FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(None)),
            _ => {
                let number = text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
                number
                    .map(|number| Self::Cuda(Some(number)))
                    .ok_or_else(|| format!("{text:?} is none of auto, cpu, cuda, cuda:N"))
            }
        }
    }
}

/// The options of every program that computes a network.
#[derive(Args, Clone, Debug, Default)]
pub struct DeviceOptions {
    /// auto, cpu, cuda or cuda:N [default: auto]
    #[arg(long, value_name = "NAME")]
    pub device: Option<DeviceChoice>,

    /// Number format of the feature maps [default: bf16 on CUDA, f32 on the CPU]
    #[arg(long, value_name = "NAME", value_parser = choices!(Precision))]
    pub precision: Option<Precision>,
}

/// A device and a number format that fit, resolved from [`DeviceOptions`].
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceConfig {
    /// The device used: `cpu` or `cuda:N`.
    pub name: String,
    /// The reason why `--device auto` chose the CPU.
    pub why_cpu: Option<String>,
    /// The number format of the feature maps.
    pub precision: Precision,
}

impl DeviceOptions {
    /// Chooses the device and the number format. `exchanging` processes exchange tensors from GPU to
    /// GPU, for which they need NCCL.
    ///
    /// # Errors
    /// [`Error::Option`] for a GPU that cannot be used, and for bfloat16 on the CPU.
    pub fn resolve(&self, exchanging: bool) -> Result<DeviceConfig> {
        let (name, why_cpu) = choose(self.device.unwrap_or(DeviceChoice::Auto), exchanging)?;
        let usual = if name == CPU { Precision::F32 } else { Precision::Bf16 };
        let precision = self.precision.unwrap_or(usual);
        if precision == Precision::Bf16 && name == CPU {
            return refuse("precision", "bf16 needs a GPU; on the CPU it is f32");
        }
        Ok(DeviceConfig { name, why_cpu, precision })
    }
}

impl Precision {
    /// The type of the feature maps.
    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::Bf16 => DType::BF16,
            Self::F32 => DType::F32,
        }
    }
}

/// Whether a resolved name is a GPU's.
pub(crate) fn is_gpu(name: &str) -> bool {
    name != CPU
}

/// Opens the device of a resolved name, and reports why where that takes long.
pub(crate) fn open_device(name: &str, reporter: &Reporter) -> Result<Device> {
    let number = name.strip_prefix(CUDA).and_then(|number| number.parse().ok());
    let Some(number) = number else { return Ok(Device::Cpu) };
    let (done, is_done) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if is_done.recv_timeout(USUAL_START) == Err(RecvTimeoutError::Timeout) {
                reporter.say(
                    "the driver compiles the kernels for this GPU: 5 to 20 seconds, at the first \
                     start only",
                );
            }
        });
        let device = gpu::open(number).map_err(|error| Error::Device(error.to_string()));
        drop(done);
        device
    })
}

/// The device's name, and where that is the CPU because no GPU can be used, the reason.
fn choose(choice: DeviceChoice, exchanging: bool) -> Result<(String, Option<String>)> {
    let number = match choice {
        DeviceChoice::Cpu => return Ok((CPU.to_owned(), None)),
        DeviceChoice::Auto | DeviceChoice::Cuda(None) => {
            own_gpu(LocalWorld::detect(), gpu::count())
        }
        DeviceChoice::Cuda(Some(number)) => number,
    };
    let reason = match gpu::why_not(number) {
        None if !exchanging || cfg!(feature = "nccl") => {
            return Ok((format!("{CUDA}{number}"), None));
        }
        None => "GPUs of several processes need a build with --features nccl".to_owned(),
        Some(reason) => reason,
    };
    match choice {
        DeviceChoice::Auto => Ok((CPU.to_owned(), Some(reason))),
        _ => refuse("device", format!("{reason}; or use --device cpu")),
    }
}

/// The number of a process's GPU among the `count` that it sees: that of the process on this
/// machine. Launchers may let each process see a GPU of its own alone.
fn own_gpu(local: LocalWorld, count: usize) -> usize {
    if count == 1 { 0 } else { local.rank as usize }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_process_of_a_machine_has_a_gpu() {
        for (rank, size, count, expected) in
            [(0, 1, 4, 0), (3, 4, 4, 3), (3, 4, 1, 0), (2, 4, 0, 2)]
        {
            assert_eq!(own_gpu(LocalWorld { rank, size }, count), expected);
        }
    }
}
