//! Figure 2 of the paper, a part a file: the backbone f ([`Backbone`]), the projector g and predictor q ([`Head`]), and
//! the two networks made of them ([`Network`]); and beside them the [`Classifier`] that only watches.

mod backbone;
mod batch_norm;
mod classifier;
mod head;
mod network;
mod parameters;

pub use backbone::{Arch, Backbone, Block};
pub use batch_norm::BatchNormLayer;
pub use classifier::Classifier;
pub use head::Head;
pub use network::{HeadSizes, Network, NetworkOutput, Regions};
pub use parameters::{Parameter, Parameters};
