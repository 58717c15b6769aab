//! `scrl-train --init`: a learner starts from weights instead of random values.

use std::fmt;
use std::path::PathBuf;

use super::{Branch, Weights, below};
use crate::Result;
use crate::learner::Learner;
use crate::model::{Arch, Parameters};

/// Where a head's initial values come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadStart {
    /// From the file.
    File,
    /// Random, as the file has none.
    Random,
    /// Random, as the file's has other shapes: the first difference.
    Unfit(String),
}

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

/// What became of weights as a learner took them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initialized {
    /// The file.
    pub path: PathBuf,
    /// The backbone, which always comes from the file.
    pub arch: Arch,
    /// Its tensors.
    pub tensors: usize,
    /// The online network's projector.
    pub projector: HeadStart,
    /// The predictor.
    pub predictor: HeadStart,
    /// The target network; its projector as the online one's.
    pub target: TargetStart,
}

impl Weights {
    /// Overwrites the initial values of `learner`: the online backbone; projector and predictor where the file has them in
    /// the same shapes; and, unless the target starts as a copy of the online network, the target where the file has one.
    ///
    /// # Errors
    /// If the file's backbone is of another architecture, or not whole.
    pub fn initialize(&self, learner: &Learner) -> Result<Initialized> {
        let config = *learner.config();
        let (online, target) = (learner.online_parameters(), learner.target_parameters());
        let tensors = self.load_backbone(Branch::Online, config.arch, online)?;
        let projector = self.load_head("online.projector.", online)?;
        let predictor = self.load_head("predictor.", online)?;
        let target = if config.copy_online {
            learner.copy_online()?;
            TargetStart::Online
        } else if self.has_backbone(Branch::Target) {
            self.load_backbone(Branch::Target, config.arch, target)?;
            self.load_head("target.projector.", target)?;
            TargetStart::File
        } else {
            TargetStart::Random
        };
        Ok(Initialized { path: self.path.clone(), arch: config.arch, tensors, projector, predictor, target })
    }

    fn load_backbone(&self, branch: Branch, arch: Arch, parameters: &Parameters) -> Result<usize> {
        self.check_backbone(branch, arch, parameters)?;
        self.load(branch.backbone(), parameters)
    }

    fn load_head(&self, prefix: &str, parameters: &Parameters) -> Result<HeadStart> {
        if self.below(prefix).next().is_none() {
            return Ok(HeadStart::Random);
        }
        if let Some(misfit) = self.misfit(prefix, parameters) {
            return Ok(HeadStart::Unfit(misfit.first));
        }
        self.load(prefix, parameters)?;
        Ok(HeadStart::File)
    }

    /// Sets the parameters below `prefix`, all of whose tensors are there; returns how many those are.
    fn load(&self, prefix: &str, parameters: &Parameters) -> Result<usize> {
        let mut count = 0;
        for parameter in below(parameters, prefix) {
            parameter.set_from_checkpoint(&self.tensors[&parameter.name])?;
            count += 1;
        }
        Ok(count)
    }
}

/// One line, such as `resnet50 backbone (265 tensors), projector, predictor from FILE; target from the same file`.
impl fmt::Display for Initialized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = [("projector", &self.projector), ("predictor", &self.predictor)];
        write!(f, "{} backbone ({} tensors)", self.arch, self.tensors)?;
        for (name, _) in heads.iter().filter(|(_, start)| **start == HeadStart::File) {
            write!(f, ", {name}")?;
        }
        write!(f, " from {}", self.path.display())?;
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
        Ok(())
    }
}
