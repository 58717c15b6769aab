//! What was taken from a file of weights, in one line.

use std::fmt;
use std::path::PathBuf;

use super::branch::Branch;
use crate::model::Arch;

/// What was recognized in a file, and what was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The file.
    pub path: PathBuf,
    /// The backbone's architecture.
    pub arch: Arch,
    /// The number of its tensors.
    pub tensors: usize,
    /// Such as `encoder_q of MoCo`.
    pub network: String,
    /// The other tensors.
    pub left_out: Vec<LeftOut>,
}

/// Tensors that were left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Their number.
    pub tensors: usize,
    /// Such as `fc` or `encoder_k of MoCo`.
    pub part: String,
    /// Which network they are, if it can be taken instead.
    pub network: Option<Branch>,
}

/// The most parts that are named.
const SHOWN: usize = 5;

impl Report {
    /// Such as `; left out: 269 of encoder_k of MoCo (--network target takes it), 4 of fc`.
    pub fn left_out(&self) -> String {
        let mut parts: Vec<_> = self.left_out.iter().take(SHOWN).map(LeftOut::to_string).collect();
        let rest: usize = self.left_out.iter().skip(SHOWN).map(|part| part.tensors).sum();
        if rest > 0 {
            parts.push(format!("{rest} others"));
        }
        if parts.is_empty() { String::new() } else { format!("; left out: {}", parts.join(", ")) }
    }
}

/// Such as `resnet50 backbone (265 tensors) from moco.pth.tar: encoder_q of MoCo; left out: …`.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, arch, tensors, network, .. } = self;
        let left_out = self.left_out();
        write!(
            f,
            "{arch} backbone ({tensors} tensors) from {}: {network}{left_out}",
            path.display()
        )
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.tensors, self.part)?;
        match self.network {
            Some(network) => write!(f, " (--network {network} takes it)"),
            None => Ok(()),
        }
    }
}
