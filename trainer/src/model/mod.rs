//! Figure 2 of the paper: the backbone f ([`Backbone`]), the projector g and the predictor q
//! ([`Head`]), and the online and the target network ([`Network`]). The [`Classifier`] is for
//! online evaluation and for linear layers on frozen features.
//!
//! Layers take a candle [`VarBuilder`](candle_nn::VarBuilder) and a [`Tape`](crate::ops::Tape);
//! feature maps are `[N, H, W, C]`.

mod backbone;
mod batch_norm;
mod classifier;
mod head;
mod network;
mod parameters;

pub(crate) use backbone::STEM_CHANNELS;
pub use backbone::{Arch, Backbone, Block};
pub use batch_norm::BatchNormLayer;
pub use classifier::Classifier;
pub use head::Head;
pub use network::{HeadSizes, Network, NetworkOutput, Regions};
pub use parameters::{Parameter, Parameters};
