//! Evaluation of a backbone by linear layers or nearest neighbors on its frozen features
//! (`scrl-eval`).
//!
//! ```text
//! options ─ annotations (boxes in COCO's format) ─┐          ┌─ frozen_backbone ─┐
//!           class_images ─ source_images ─────────┴─ inputs ─┴─ features ─ cache ┴─ linear_layer
//!                                            box_features, image_features              └ knn ─ neighbors
//!                                                            results.json ─ results ─ confusion
//!                                                            confusion.png ─ drawing ────┘
//! ```
//!
//! `annotations` has its files read by `coco`. [`evaluate_boxes`] is the protocol of section 4.2.5 of
//! the paper: classify the boxes of objects from RoIAligned features. [`evaluate_images`] is the usual linear evaluation on ImageNet:
//! classify images from pooled features. [`evaluate_neighbors`] classifies either by votes of
//! nearest neighbors. [`compare()`] compares several backbones on the same boxes.

mod annotations;
mod box_features;
mod cache;
mod class_images;
mod coco;
pub mod compare;
mod confusion;
mod drawing;
mod embed;
mod features;
mod frozen_backbone;
mod image_features;
mod image_folder;
mod inputs;
mod knn;
mod linear;
mod linear_layer;
mod neighbors;
mod options;
mod results;
mod roi;
mod source_images;

pub use annotations::LeftOut;
pub use compare::{CompareConfig, CompareOptions, Comparison, compare};
pub use embed::{Duplicates, EmbedConfig, EmbedOptions, Embedded, embed};
pub use frozen_backbone::BackboneSource;
pub use knn::evaluate_neighbors;
pub use linear::evaluate_images;
pub use linear_layer::LinearLayerConfig;
pub use options::{
    BackboneConfig, BackboneOptions, BoxFiles, EvalConfig, EvalOptions, ImageFiles, InputOptions,
    KnnConfig, KnnFiles, KnnOptions, LinearConfig, LinearLayerOptions, LinearOptions, RoiConfig,
    RoiOptions,
};
pub use results::{ClassResult, Results};
pub use roi::evaluate_boxes;
