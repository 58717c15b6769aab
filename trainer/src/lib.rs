//! Pretrains a detection backbone from the shards of `scrl-prep` (Roh et al., Spatially Consistent
//! Representation Learning, CVPR 2021).
//!
//! The data's way through this crate, one folder a station:
//!
//! ```text
//! shards → data (read, decode, batch) → model (backbone, RoIAlign, heads)
//!        → ops (forward, backward) → optim (LARS, EMA, schedules)
//!        → train (steps, checkpoints, metrics)
//! ```
//!
//! [`train::Learner`] computes one step; [`train::train`] repeats it, alone or among the processes that
//! [`collective`] connects. [`evaluate`] measures a
//! backbone; [`weights`] reads and writes the files of other programs.

#![deny(missing_docs)]

pub mod collective;
pub mod data;
mod error;
pub mod evaluate;
pub mod model;
pub mod ops;
pub mod optim;
pub mod train;
pub mod weights;

pub use error::{Error, Result};
