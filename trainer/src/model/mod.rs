//! Figure 2 of the paper, a part a file: the backbone f ([`Backbone`]), the projector g and predictor q ([`Head`]), and
//! the two networks made of them ([`Network`]).

mod backbone;
mod batch_norm;
mod head;
mod network;
mod parameters;

pub use backbone::{Arch, Backbone, Block, BlockShape};
pub use batch_norm::BatchNormLayer;
pub use head::Head;
pub use network::{HeadSizes, Network, Regions};
pub use parameters::{Builder, Parameter, Parameters, Role};
