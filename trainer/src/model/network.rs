//! The online and the target network: a backbone, RoIAlign and a projector; the online network has
//! a predictor as well.

use candle_core::{Device, Result, Tensor};
use candle_nn::VarBuilder;

use super::backbone::{Arch, Backbone};
use super::head::Head;
use super::parameters::Parameters;
use crate::ops::{GlobalAveragePool, RoiAlign, Tape};

/// Widths of the projector and the predictor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadSizes {
    /// Of the hidden layer.
    pub hidden: usize,
    /// Of the output: the dimension of projections and predictions.
    pub projection: usize,
}

/// The regions of the map whose features are compared between the views.
#[derive(Clone, Debug)]
pub enum Regions {
    /// Matched boxes (SCRL): RoIs `[R, 5]` of image number, x0, y0, x1, y1 in pixels of the view.
    Boxes(Tensor),
    /// The whole view (BYOL).
    Whole,
}

/// The output of a network for both views of a batch.
pub struct NetworkOutput {
    /// f: the backbone's map `[2B, H, W, C]`.
    pub map: Tensor,
    /// g: a projection of each region, `[R, projection]`.
    pub projections: Tensor,
    /// q: the online network's predictions, `[R, projection]`; for the target network the
    /// projections.
    pub predictions: Tensor,
}

/// f and g, and q for the online network.
pub struct Network {
    backbone: Backbone,
    projector: Head,
    predictor: Option<Head>,
}

impl Network {
    /// The online network; its parameters are named `online.…` and `predictor.…`.
    pub fn online(
        arch: Arch,
        sizes: HeadSizes,
        seed: u64,
        device: &Device,
    ) -> Result<(Self, Parameters)> {
        Parameters::build(Some(seed), device, |vb| {
            let HeadSizes { hidden, projection } = sizes;
            let network = Self::new(arch, sizes, &vb.pp("online"))?;
            let predictor = Head::new(projection, hidden, projection, &vb.pp("predictor"))?;
            Ok(Self { predictor: Some(predictor), ..network })
        })
    }

    /// The target network; its parameters are named `target.…`, in the order of the online ones.
    pub fn target(
        arch: Arch,
        sizes: HeadSizes,
        seed: u64,
        device: &Device,
    ) -> Result<(Self, Parameters)> {
        Parameters::build(Some(seed), device, |vb| Self::new(arch, sizes, &vb.pp("target")))
    }

    fn new(arch: Arch, sizes: HeadSizes, vb: &VarBuilder) -> Result<Self> {
        let backbone = Backbone::new(arch, &vb.pp("backbone"))?;
        let HeadSizes { hidden, projection } = sizes;
        let projector = Head::new(arch.channels(), hidden, projection, &vb.pp("projector"))?;
        Ok(Self { backbone, projector, predictor: None })
    }

    /// The features of boxes, `[R, C]`, in views `[N, S, S, 3]`, normalized: f alone, without heads.
    /// The RoIs are as those of [`Regions::Boxes`].
    pub fn box_features(&self, tape: &mut Tape, views: &Tensor, rois: &Tensor) -> Result<Tensor> {
        let map = self.backbone.forward(tape, views)?;
        tape.apply(RoiAlign, [&map, rois])
    }

    /// Both views of a batch, `[2B, S, S, 3]`, normalized, → map, projections and predictions.
    pub fn forward(
        &self,
        tape: &mut Tape,
        views: &Tensor,
        regions: &Regions,
    ) -> Result<NetworkOutput> {
        let map = self.backbone.forward(tape, views)?;
        let features = match regions {
            Regions::Boxes(rois) => tape.apply(RoiAlign, [&map, rois])?,
            Regions::Whole => tape.apply(GlobalAveragePool, [&map])?,
        };
        let projections = self.projector.forward(tape, &features)?;
        let predictions = match &self.predictor {
            Some(predictor) => predictor.forward(tape, &projections)?,
            None => projections.clone(),
        };
        Ok(NetworkOutput { map, projections, predictions })
    }
}
