//! Pretrains a detection backbone from the shards of `scrl-prep` (Roh et al., Spatially Consistent Representation
//! Learning, CVPR 2021).

#![deny(missing_docs)]

pub mod learner;
pub mod model;
pub mod ops;
pub mod optim;
