//! How good is a backbone? Linear layers on features that no longer change (`scrl-eval`).
//!
//! ```text
//! boxes (COCO's lists) ─ annotations ─┐            ┌─ frozen: the backbone, its batch norms tracked anew ─┐
//! photos in class folders ── photos ──┴─ pictures ─┤                                                      ├─ features ─ probe
//!                                                  └──────────────── cache (parts of features) ───────────┘     └─ results,
//!                                                                                                                  confusion
//! ```
//!
//! [`evaluate_boxes`] is the protocol of section 4.2.5 of the paper: classify the boxes of objects from RoIAligned
//! features. [`evaluate_photos`] is the usual one of ImageNet: classify photos from pooled features.

mod annotations;
mod cache;
mod confusion;
mod frozen;
mod linear;
mod photos;
mod pictures;
mod probe;
mod results;
mod roi;
mod watch;

pub use annotations::{BoxedImage, BoxedImages, LabelledBox, LeftOut};
pub use confusion::Confusion;
pub use frozen::{FrozenBackbone, Start};
pub use linear::{LinearConfig, evaluate_photos};
pub use photos::Photos;
pub use probe::ProbeConfig;
pub use results::{ClassResult, Results};
pub use roi::{RoiConfig, evaluate_boxes};
pub use watch::{Progress, Watch};

use std::path::PathBuf;

/// What both protocols are told.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Whose features.
    pub start: Start,
    /// The folder for results and features, made where it is missing.
    pub out: PathBuf,
    /// Side of the pictures in pixels.
    pub size: u32,
    /// Pictures that go through the backbone together; what its batch norms track depends on it.
    pub images_per_batch: usize,
    /// The linear layer's training.
    pub probe: ProbeConfig,
}
