//! RoIAlign to one cell (He et al., Mask R-CNN, 2017), with the sampling of `torchvision.ops.roi_align(…, (1, 1),
//! 1/32, sampling_ratio=-1, aligned=False)`.
//!
//! With a single cell the result is the mean of the map at a grid of points over the box, each read bilinearly. The
//! weight of a map cell in that mean is a product of one factor for its row and one for its column, so a box costs one
//! pass over the cells it touches, forward and backward, however many points it has.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::f32s;

/// The map's cells for one pixel of the view: ResNet's stride is 32.
pub const SPATIAL_SCALE: f32 = 1.0 / 32.0;

/// A map `[N, H, W, C]` and RoIs `[R, 5]` (image number, x0, y0, x1, y1 in pixels of the view) give `[R, C]`.
#[derive(Clone, Copy, Debug)]
pub struct RoiAlign;

/// One side of a box: the range of map cells with a share in the mean, and their shares.
struct Shares {
    first: usize,
    shares: Vec<f32>,
}

impl Shares {
    /// `start` and `end` in pixels of the view, `cells` the map's size that way.
    fn new(start: f32, end: f32, cells: usize) -> Self {
        let start = start * SPATIAL_SCALE;
        // torchvision: without `aligned`, a box is at least one cell.
        let length = (end * SPATIAL_SCALE - start).max(1.0);
        let points = length.ceil();
        let mut all = vec![0.0; cells];
        for point in 0..points as usize {
            let at = start + (point as f32 + 0.5) * length / points;
            // torchvision: a point more than a cell outside counts as zero, others as the border.
            if at < -1.0 || at > cells as f32 {
                continue;
            }
            let at = at.max(0.0);
            let low = at as usize;
            if low >= cells - 1 {
                all[cells - 1] += 1.0 / points;
            } else {
                let fraction = at - low as f32;
                all[low] += (1.0 - fraction) / points;
                all[low + 1] += fraction / points;
            }
        }
        let first = all.iter().position(|share| *share != 0.0).unwrap_or(0);
        let end = all.iter().rposition(|share| *share != 0.0).map_or(0, |last| last + 1);
        Self { first, shares: all[first..end.max(first)].to_vec() }
    }
}

/// A RoI as shares of the map's rows and columns.
struct Roi {
    image: usize,
    rows: Shares,
    columns: Shares,
}

fn rois(rois: &[f32], map: &[usize]) -> Result<Vec<Roi>> {
    let &[n, h, w, _] = map else { bail!("roi-align takes a map [N, H, W, C], got {map:?}") };
    rois.chunks_exact(5)
        .map(|roi| {
            let image = roi[0] as usize;
            if image >= n || roi[0] < 0.0 {
                bail!("a RoI of image {} in a batch of {n}", roi[0]);
            }
            Ok(Roi { image, rows: Shares::new(roi[2], roi[4], h), columns: Shares::new(roi[1], roi[3], w) })
        })
        .collect()
}

impl Roi {
    /// Calls `visit` with the offset of each cell that has a share, in cells of one image, and the share.
    fn cells(&self, width: usize, mut visit: impl FnMut(usize, f32)) {
        for (y, row) in self.rows.shares.iter().enumerate() {
            for (x, column) in self.columns.shares.iter().enumerate() {
                visit((self.rows.first + y) * width + self.columns.first + x, row * column);
            }
        }
    }
}

impl CustomOp2 for RoiAlign {
    fn name(&self) -> &'static str {
        "roi-align"
    }

    fn cpu_fwd(
        &self,
        map: &CpuStorage,
        map_layout: &Layout,
        boxes: &CpuStorage,
        boxes_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, h, w, c) = map_layout.shape().dims4()?;
        let map = f32s(map, map_layout)?;
        let rois = rois(f32s(boxes, boxes_layout)?, map_layout.dims())?;
        let mut output = vec![0.0; rois.len() * c];
        output.par_chunks_mut(c).zip(&rois).for_each(|(output, roi)| {
            let image = &map[roi.image * h * w * c..][..h * w * c];
            roi.cells(w, |cell, share| {
                output.iter_mut().zip(&image[cell * c..][..c]).for_each(|(o, i)| *o += share * i);
            });
        });
        Ok((CpuStorage::F32(output), (rois.len(), c).into()))
    }

    fn bwd(
        &self,
        map: &Tensor,
        boxes: &Tensor,
        _output: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let op = RoiAlignGradient { map: map.dims().to_vec() };
        Ok((Some(grad.apply_op2_no_bwd(boxes, &op)?), None))
    }
}

/// (gradient of the output, RoIs) → gradient of the map. Each image's RoIs are added up in their order.
struct RoiAlignGradient {
    map: Vec<usize>,
}

impl CustomOp2 for RoiAlignGradient {
    fn name(&self) -> &'static str {
        "roi-align-gradient"
    }

    fn cpu_fwd(
        &self,
        grad: &CpuStorage,
        grad_layout: &Layout,
        boxes: &CpuStorage,
        boxes_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let shape = Shape::from(self.map.clone());
        let (_, h, w, c) = shape.dims4()?;
        let grad = f32s(grad, grad_layout)?;
        let rois = rois(f32s(boxes, boxes_layout)?, &self.map)?;
        let mut result = vec![0.0; shape.elem_count()];
        result.par_chunks_mut(h * w * c).enumerate().for_each(|(image, result)| {
            for (roi, grad) in rois.iter().zip(grad.chunks_exact(c)).filter(|(roi, _)| roi.image == image) {
                roi.cells(w, |cell, share| {
                    result[cell * c..][..c].iter_mut().zip(grad).for_each(|(r, g)| *r += share * g);
                });
            }
        });
        Ok((CpuStorage::F32(result), shape))
    }
}
