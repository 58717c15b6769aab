//! The online and the target network: the same backbone, regions and projector; the online one predicts as well.

use candle_core::{Device, Result, Tensor};

use super::{Arch, Backbone, Builder, Head, Parameters};
use crate::ops::{GlobalAveragePool, RoiAlign, Tape};

/// Widths of projector and predictor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadSizes {
    /// Inside.
    pub hidden: usize,
    /// Out of them: the dimension of the loss.
    pub projection: usize,
}

/// What of the map is compared between the views.
#[derive(Clone, Debug)]
pub enum Regions {
    /// Matched boxes (SCRL): RoIs `[R, 5]` of image number, x0, y0, x1, y1 in pixels of the view.
    Boxes(Tensor),
    /// The whole view (BYOL).
    Whole,
}

/// What a network makes of both views of a batch.
pub struct Encoding {
    /// f: the backbone's map `[2B, H, W, C]`.
    pub map: Tensor,
    /// g: a vector for each region, `[R, projection]`.
    pub projections: Tensor,
    /// q: what of the online network is compared, `[R, projection]`; of the target network, the projections.
    pub compared: Tensor,
}

/// f and g, and q for the online network.
pub struct Network {
    backbone: Backbone,
    projector: Head,
    predictor: Option<Head>,
}

impl Network {
    /// The network that learns; its parameters are named `online.…` and `predictor.…`.
    pub fn online(arch: Arch, sizes: HeadSizes, seed: u64, device: &Device) -> Result<(Self, Parameters)> {
        let mut made = Parameters::default();
        let mut network = Self::new("online", arch, sizes, seed, device, &mut made)?;
        let mut builder = Builder::new("predictor", seed, device, &mut made);
        network.predictor = Some(Head::new(sizes.projection, sizes.hidden, sizes.projection, &mut builder)?);
        Ok((network, made))
    }

    /// The network that follows; its parameters are named `target.…`, in the order of the online ones.
    pub fn target(arch: Arch, sizes: HeadSizes, seed: u64, device: &Device) -> Result<(Self, Parameters)> {
        let mut made = Parameters::default();
        let network = Self::new("target", arch, sizes, seed, device, &mut made)?;
        Ok((network, made))
    }

    fn new(
        name: &str,
        arch: Arch,
        sizes: HeadSizes,
        seed: u64,
        device: &Device,
        made: &mut Parameters,
    ) -> Result<Self> {
        let mut builder = Builder::new(name, seed, device, made);
        let backbone = Backbone::new(arch, &mut builder.below("backbone"))?;
        let mut projector = builder.below("projector");
        let projector = Head::new(arch.channels(), sizes.hidden, sizes.projection, &mut projector)?;
        Ok(Self { backbone, projector, predictor: None })
    }

    /// Both views of a batch, `[2B, S, S, 3]` normalised, → a vector for each region, and what lies before it.
    pub fn forward(&self, tape: &mut Tape, views: &Tensor, regions: &Regions) -> Result<Encoding> {
        let map = self.backbone.forward(tape, views)?;
        let vectors = match regions {
            Regions::Boxes(rois) => tape.two(RoiAlign, &map, rois)?,
            Regions::Whole => tape.one(GlobalAveragePool, &map)?,
        };
        let projections = self.projector.forward(tape, &vectors)?;
        let compared = match &self.predictor {
            Some(predictor) => predictor.forward(tape, &projections)?,
            None => projections.clone(),
        };
        Ok(Encoding { map, projections, compared })
    }
}
