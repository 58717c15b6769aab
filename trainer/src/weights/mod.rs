//! Weights of other programs: read to start from (`scrl-train --init`) or to evaluate
//! (`scrl-eval`), and written for them (`scrl-export`).
//!
//! ```text
//! checkpoints, transformers ────────── safetensors ─┐
//! PyTorch's files ─┐                                ├─ file ─ layouts ─ read (Weights) ─ report
//! NumPy's pickles ─┴─ unpickle ─ stored ─ pth ──────┘                    │
//!                                        safetensors, pth_writer, ─── export ─ names
//!                                        detectron2, transformers
//! ```

mod branch;
mod detectron2;
mod export;
mod file;
mod folder;
mod layouts;
mod names;
mod options;
mod pickle;
mod pth;
mod pth_writer;
mod read;
mod report;
mod safetensors;
mod stored;
#[cfg(test)]
mod tests;
mod transformers;
mod unpickle;

pub use branch::Branch;
pub(crate) use export::backbone_metadata;
pub use export::{Exported, export};
pub(crate) use folder::checkpoints;
pub use folder::weights_file;
pub use options::{ExportFormat, ExportOptions};
pub use read::{HeadStart, Weights};
pub use report::{LeftOut, Report};
pub(crate) use safetensors::{checksum, write_safetensors};
