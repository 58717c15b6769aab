//! `scrl-train --init`: a learner that starts from the weights in a file.

use std::fmt;

use super::learner::Learner;
use crate::Result;
use crate::weights::{Branch, HeadStart, Report, Weights};

/// Where the target network's initial values come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetStart {
    /// From the file.
    File,
    /// From the online network.
    Online,
    /// Random, as the file has no target network.
    Random,
}

/// The initial values that a learner took from a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initialized {
    /// The backbone, which always comes from the file.
    pub report: Report,
    /// The online network's projector.
    pub projector: HeadStart,
    /// The predictor.
    pub predictor: HeadStart,
    /// The target network; its projector as the online one's.
    pub target: TargetStart,
}

impl Learner {
    /// Overwrites the initial values by those of a file: the online backbone; projector and
    /// predictor where the file has them in the same shapes; and, unless the target starts as a
    /// copy of the online network, the target where the file has one.
    ///
    /// # Errors
    /// If the file's backbone is of another architecture, or incomplete.
    pub(super) fn initialize(&self, weights: Weights) -> Result<Initialized> {
        let mut report = weights.report(None)?;
        let weights = weights.into_start();
        let config = *self.config();
        let (online, target) = (self.online_parameters(), self.target_parameters());
        weights.load_backbone(Branch::Online, config.arch, online)?;
        let projector = weights.load_head("online.projector.", online)?;
        let predictor = weights.load_head("predictor.", online)?;
        let target = if config.copy_online {
            self.copy_online()?;
            TargetStart::Online
        } else if weights.has_backbone(Branch::Target) {
            weights.load_backbone(Branch::Target, config.arch, target)?;
            weights.load_head("target.projector.", target)?;
            TargetStart::File
        } else {
            TargetStart::Random
        };
        if target == TargetStart::File {
            report.left_out.retain(|part| part.network.is_none());
        }
        Ok(Initialized { report, projector, predictor, target })
    }
}

/// One line, such as `resnet50 backbone (265 tensors), projector, predictor from FILE:
/// online.backbone of scrl-train; target from the same file; left out: 12 of momentum`.
impl fmt::Display for Initialized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { path, arch, tensors, network, .. } = &self.report;
        let heads = [("projector", &self.projector), ("predictor", &self.predictor)];
        write!(f, "{arch} backbone ({tensors} tensors)")?;
        for (name, _) in heads.iter().filter(|(_, start)| **start == HeadStart::File) {
            write!(f, ", {name}")?;
        }
        write!(f, " from {}: {network}", path.display())?;
        let target = match self.target {
            TargetStart::File => "from the same file",
            TargetStart::Online => "a copy of the online network",
            TargetStart::Random => "random (--target-init online copies the online network)",
        };
        write!(f, "; target {target}")?;
        for (name, start) in heads {
            match start {
                HeadStart::File => {}
                HeadStart::Random => write!(f, "; {name} random")?,
                HeadStart::Unfit(first) => write!(f, "; {name} random, as {first}")?,
            }
        }
        // The option is scrl-export's.
        f.write_str(&self.report.left_out().replace("(--network", "(scrl-export --network"))
    }
}
