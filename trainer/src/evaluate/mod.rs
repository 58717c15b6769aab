//! Evaluation of a backbone by linear layers on its frozen features (`scrl-eval`).
//!
//! ```text
//! options ─ annotations (boxes in COCO's format) ─┐          ┌─ frozen_backbone ─┐
//!           class_images (images in folders) ─────┴─ inputs ─┴─ features ─ cache ┴─ linear_layer
//!                                                                                        │
//!                                                            results.json ─ results ─ confusion
//!                                                            confusion.png ─ drawing ────┘
//! ```
//!
//! `annotations` has its files read by `coco`. [`evaluate_boxes`] is the protocol of section 4.2.5 of
//! the paper: classify the boxes of objects from RoIAligned features. [`evaluate_images`] is the usual linear evaluation on ImageNet:
//! classify images from pooled features.

mod annotations;
mod cache;
mod class_images;
mod coco;
mod compare;
mod confusion;
mod drawing;
mod features;
mod frozen_backbone;
mod image_folder;
mod inputs;
mod linear;
mod linear_layer;
mod options;
mod results;
mod roi;

pub use annotations::LeftOut;
pub use compare::{
    Accuracy, Arm, ArmDifference, ArmResults, ClassSummary, CompareConfig, CompareOptions,
    Comparison, Difference, Measure, Setup, compare,
};
pub use frozen_backbone::BackboneSource;
pub use linear::evaluate_images;
pub use linear_layer::LinearLayerConfig;
pub use options::{
    BackboneOptions, BoxesOptions, EvalConfig, EvalOptions, LinearConfig, LinearOptions, RoiConfig,
    RoiOptions,
};
pub use results::{ClassResult, Results};
pub use roi::evaluate_boxes;
