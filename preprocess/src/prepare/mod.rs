//! A run of scrl-prep: planning it, the permutation of each epoch, and writing the shards.
//!
//! ```text
//! options → plan (shuffle, estimate, resume ← journal) → run (lock, epochs ← rows)
//! ```

mod epochs;
mod estimate;
mod journal;
mod lock;
mod options;
mod plan;
pub(crate) mod resume;
pub mod rows;
mod run;
pub(crate) mod shuffle;
mod step_options;
mod values;

pub use estimate::{EpochBytes, Estimate};
pub use options::{Config, MaxIou, Options};
pub use plan::{Job, Outline};
pub use run::Summary;
pub use step_options::StepArguments;
