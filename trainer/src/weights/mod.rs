//! Weights of other programs: read to start from (`scrl-train --init`) or to evaluate
//! (`scrl-eval`), and written for them (`scrl-export`).
//!
//! ```text
//! a checkpoint, backbone.safetensors ── safetensors ─┐
//! torchvision's state dict ───── safetensors or pth ─┼─ file ─ names ─ read (Weights)
//! the authors' checkpoint ────────────────────── pth ┘                   │
//!                                        safetensors, pth_writer, ─── export
//!                                        detectron2, transformers
//! ```

mod branch;
mod detectron2;
mod export;
mod file;
mod folder;
mod names;
mod options;
mod pickle;
mod pth;
mod pth_writer;
mod read;
mod safetensors;
#[cfg(test)]
mod tests;
mod transformers;

pub use branch::Branch;
pub(crate) use export::backbone_metadata;
pub use export::{Exported, export};
pub use folder::weights_file;
pub use options::{ExportFormat, ExportOptions};
pub use read::{HeadStart, Weights};
pub(crate) use safetensors::{checksum, write_safetensors};
