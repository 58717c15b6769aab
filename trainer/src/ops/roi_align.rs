//! RoIAlign to one cell (He et al., Mask R-CNN, 2017), with the sampling of
//! `torchvision.ops.roi_align(…, (1, 1), 1/32, sampling_ratio=-1, aligned=False)`.
//!
//! With a single cell the result is the mean of the map at a grid of points over the box, each read
//! bilinearly. The weight of a map cell in that mean is a product of one factor for its row and one
//! for its column, so a box costs one pass over the cells it touches, forward and backward, however
//! many points it has.
//!
//! A box without size is a point, read bilinearly where it is: with cell i's center at (i + 0.5)·32
//! pixels, as torchvision with `sampling_ratio=1, aligned=True`. With `aligned=False` it would become
//! a cell and be read a cell further right and down.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::autograd::Op;
use super::cpu::f32s;
use super::gpu::{Arg, Gpu, grid};

/// The map's cells for one pixel of the view: ResNet's stride is 32.
pub const SPATIAL_SCALE: f32 = 1.0 / 32.0;

/// Cells of a map, one way, that the kernels take (`MOST_CELLS` of `roi_align.cuh`).
pub(crate) const MOST_CELLS: usize = 64;

/// RoIs of one image that the kernels take (`MOST_ROIS` of `roi_align.cuh`).
pub const MOST_ROIS: usize = 64;

/// A map `[N, H, W, C]` and RoIs `[R, 5]` (image number, x0, y0, x1, y1 in pixels of the view) give
/// `[R, C]`. On a device RoIs are sorted by image, at most [`MOST_ROIS`] each.
#[derive(Clone, Copy, Debug)]
pub struct RoiAlign;

/// One side of a box: the range of map cells with a share in the mean, and their shares.
struct Shares {
    first: usize,
    shares: Vec<f32>,
}

impl Shares {
    /// `start` and `end` in pixels of the view, `cells` the map's size that way.
    fn new(start: f32, end: f32, is_point: bool, cells: usize) -> Self {
        let start = start * SPATIAL_SCALE;
        // torchvision: without `aligned`, a box is at least one cell. A point is a cell around it.
        let length = (end * SPATIAL_SCALE - start).max(1.0);
        let start = if is_point { start - 1.0 } else { start };
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
            let is_point = roi[1] == roi[3] && roi[2] == roi[4];
            Ok(Roi {
                image,
                rows: Shares::new(roi[2], roi[4], is_point, h),
                columns: Shares::new(roi[1], roi[3], is_point, w),
            })
        })
        .collect()
}

impl Roi {
    /// Calls `visit` with the offset of each cell that has a share, in cells of one image, and the
    /// share.
    fn cells(&self, width: usize, mut visit: impl FnMut(usize, f32)) {
        for (y, row) in self.rows.shares.iter().enumerate() {
            for (x, column) in self.columns.shares.iter().enumerate() {
                visit((self.rows.first + y) * width + self.columns.first + x, row * column);
            }
        }
    }
}

impl Op<2> for RoiAlign {
    fn forward(&mut self, [map, boxes]: [&Tensor; 2]) -> Result<Tensor> {
        let (_, h, w, c) = map.dims4()?;
        let count = boxes.dim(0)?;
        if let Some(gpu) = Gpu::of(map) {
            check_sizes(h, w, c, map)?;
            let vectors = gpu.empty((count, c), map.dtype())?;
            let [h, w, c] = [h, w, c].map(|size| Arg::Int(size as i32));
            let arguments = [Arg::Tensor(map), Arg::Tensor(boxes), Arg::Tensor(&vectors), h, w, c];
            gpu.launch("roi_align", map.dtype(), grid::blocks(count)?, &arguments)?;
            return Ok(vectors);
        }
        let (numbers, rois) = (f32s(map)?, rois(&f32s(boxes)?, map.dims())?);
        let mut vectors = vec![0.0; count * c];
        vectors.par_chunks_mut(c).zip(&rois).for_each(|(vector, roi)| {
            let image = &numbers[roi.image * h * w * c..][..h * w * c];
            roi.cells(w, |cell, share| {
                vector.iter_mut().zip(&image[cell * c..][..c]).for_each(|(v, i)| *v += share * i);
            });
        });
        Tensor::from_vec(vectors, (count, c), map.device())
    }

    /// Each image's RoIs are added up in their order.
    fn backward(
        &self,
        [map, boxes]: [&Tensor; 2],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 2]> {
        let (n, h, w, c) = map.dims4()?;
        if let Some(gpu) = Gpu::of(grad) {
            let dmap = gpu.empty(map.shape(), map.dtype())?;
            let [count, h, w, c] = [boxes.dim(0)?, h, w, c].map(|size| Arg::Int(size as i32));
            let arguments =
                [Arg::Tensor(grad), Arg::Tensor(boxes), count, Arg::Tensor(&dmap), h, w, c];
            gpu.launch("roi_align_backward", map.dtype(), grid::blocks(n)?, &arguments)?;
            return Ok([Some(dmap), None]);
        }
        let (grad, rois) = (f32s(grad)?, rois(&f32s(boxes)?, map.dims())?);
        let mut dmap = vec![0.0; map.elem_count()];
        dmap.par_chunks_mut(h * w * c).enumerate().for_each(|(image, dmap)| {
            for (roi, grad) in
                rois.iter().zip(grad.chunks_exact(c)).filter(|(roi, _)| roi.image == image)
            {
                roi.cells(w, |cell, share| {
                    dmap[cell * c..][..c].iter_mut().zip(grad).for_each(|(d, g)| *d += share * g);
                });
            }
        });
        Ok([Some(Tensor::from_vec(dmap, map.shape(), map.device())?), None])
    }

    /// The boxes alone.
    fn reads_input(&self, index: usize) -> bool {
        index == 1
    }

    fn reads_output(&self) -> bool {
        false
    }
}

/// The kernels' shared memory has room for maps of [`MOST_CELLS`] cells each way.
fn check_sizes(h: usize, w: usize, c: usize, map: &Tensor) -> Result<()> {
    grid::packs(c, c, map.dtype())?;
    if h.max(w) > MOST_CELLS {
        bail!(
            "RoIAlign on a device takes maps of at most {MOST_CELLS} cells each way, got {h} by {w}"
        );
    }
    Ok(())
}
