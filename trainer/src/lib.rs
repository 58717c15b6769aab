//! Pretrains a detection backbone from the shards of `scrl-prep` (Roh et al., Spatially Consistent Representation
//! Learning, CVPR 2021).
//!
//! The data's way through this crate, one module a station:
//!
//! ```text
//! shards → data (read, decode, batch) → model (backbone, RoIAlign, heads) → ops (forward, loss, backward)
//!        → optim (LARS, EMA, schedules) → run (checkpoints, metrics)
//! ```
//!
//! [`learner`] puts one step together; [`run::train`] repeats it. [`evaluate`] judges a backbone; [`weights`]
//! reads and writes the files of other programs.

#![deny(missing_docs)]

pub mod data;
mod error;
pub mod evaluate;
pub mod model;
pub mod ops;
pub mod optim;
pub mod train;
pub mod weights;

pub use error::{Error, Result};
