//! The sizes of a convolution, its passes, and where the numbers of a pass lie.

use std::fmt;

use candle_core::{Result, bail};
use rayon::prelude::*;

/// The sizes of one application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// Views.
    pub n: usize,
    /// Height of the input, in pixels.
    pub h: usize,
    /// Width of the input.
    pub w: usize,
    /// Channels of the input.
    pub i: usize,
    /// Channels of the output.
    pub o: usize,
    /// Height of the filter.
    pub kh: usize,
    /// Width of the filter.
    pub kw: usize,
    /// Height of the output.
    pub out_h: usize,
    /// Width of the output.
    pub out_w: usize,
    /// Step between neighboring output pixels, in input pixels.
    pub stride: usize,
    /// Zeros around the input, in pixels.
    pub padding: usize,
}

/// Inputs of at most this many channels are worth a copy with the padding in it: a line of a patch
/// then lies side by side.
const FEW_CHANNELS: usize = 8;

/// An image of the batch and a pixel of it.
#[derive(Clone, Copy)]
pub(crate) struct Pixel {
    pub image: usize,
    pub y: usize,
    pub x: usize,
}

impl Pixel {
    /// The pixel that stands at `index` in a batch of maps of `h` by `w`.
    pub fn at(index: usize, h: usize, w: usize) -> Self {
        Self { image: index / (h * w), y: index / w % h, x: index % w }
    }
}

impl Geometry {
    /// Of an input `[N, H, W, I]` and a filter `[O, kh, kw, I]`.
    pub fn new(stride: usize, padding: usize, input: &[usize], filter: &[usize]) -> Result<Self> {
        let (&[n, h, w, i], &[o, kh, kw, filter_i]) = (input, filter) else {
            bail!("conv2d takes [N, H, W, I] and [O, kh, kw, I], got {input:?} and {filter:?}");
        };
        if filter_i != i || h + 2 * padding < kh || w + 2 * padding < kw {
            bail!("conv2d of {input:?} with a filter {filter:?} and padding {padding}");
        }
        let out_h = (h + 2 * padding - kh) / stride + 1;
        let out_w = (w + 2 * padding - kw) / stride + 1;
        Ok(Self { n, h, w, i, o, kh, kw, out_h, out_w, stride, padding })
    }

    /// The input with its padding, and the sizes that belong to it, where the channels are few;
    /// otherwise `None`.
    pub(crate) fn padded(&self, input: &[f32]) -> Option<(Self, Vec<f32>)> {
        if self.i > FEW_CHANNELS {
            return None;
        }
        let padded = Self {
            h: self.h + 2 * self.padding,
            w: self.w + 2 * self.padding,
            padding: 0,
            ..*self
        };
        let (line, padded_line) = (self.w * self.i, padded.w * self.i);
        let mut numbers = vec![0.0; padded.pixels() * self.i];
        let images =
            numbers.par_chunks_mut(padded.h * padded_line).zip(input.par_chunks(self.h * line));
        images.for_each(|(padded, image)| {
            let lines = padded[self.padding * padded_line..].chunks_mut(padded_line);
            for (padded, from) in lines.zip(image.chunks(line)) {
                padded[self.padding * self.i..][..line].copy_from_slice(from);
            }
        });
        Some((padded, numbers))
    }

    /// Pixels of the input.
    pub(crate) fn pixels(&self) -> usize {
        self.n * self.h * self.w
    }

    /// Pixels of the output.
    pub(crate) fn out_pixels(&self) -> usize {
        self.n * self.out_h * self.out_w
    }

    /// Positions in the filter.
    pub(crate) fn taps(&self) -> usize {
        self.kh * self.kw
    }

    /// Numbers of a patch: what one output sees.
    pub(crate) fn patch(&self) -> usize {
        self.taps() * self.i
    }

    /// Where in the input the channels lie that the output pixel `at` sees through a tap; `None` in
    /// the padding.
    #[inline(always)]
    pub(crate) fn seen(&self, at: Pixel, dy: usize, dx: usize) -> Option<usize> {
        let y = (at.y * self.stride + dy).checked_sub(self.padding).filter(|y| *y < self.h)?;
        let x = (at.x * self.stride + dx).checked_sub(self.padding).filter(|x| *x < self.w)?;
        Some(((at.image * self.h + y) * self.w + x) * self.i)
    }

    /// Where in the output the channels lie that see the input pixel `at` through a tap; `None`
    /// where there are none.
    #[inline(always)]
    pub(crate) fn seen_by(&self, at: Pixel, dy: usize, dx: usize) -> Option<usize> {
        let place = |at: usize, offset: usize, size: usize| {
            let from = (at + self.padding).checked_sub(offset)?;
            (from.is_multiple_of(self.stride) && from / self.stride < size)
                .then_some(from / self.stride)
        };
        let (y, x) = (place(at.y, dy, self.out_h)?, place(at.x, dx, self.out_w)?);
        Some(((at.image * self.out_h + y) * self.out_w + x) * self.o)
    }
}

impl fmt::Display for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { n, h, w, i, o, kh, kw, stride, padding, .. } = self;
        write!(f, "convolution of {n} views of {h} x {w} x {i} with {o} filters of ")?;
        write!(f, "{kh} x {kw}, stride {stride}, padding {padding}")
    }
}

/// Which of a convolution's three tensors is computed from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    /// The output, from input and filter.
    Forward,
    /// The gradient of the input, from that of the output and the filter.
    Data,
    /// The gradient of the filter, from the input and the gradient of the output.
    Filter,
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forward => "forward pass",
            Self::Data => "input gradient",
            Self::Filter => "filter gradient",
        })
    }
}
