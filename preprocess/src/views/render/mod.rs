//! Rendering a view from its source image and its parameters.
//!
//! The steps, in this order: crop, bicubic resize on bytes (as Pillow), flip, then color jitter,
//! grayscale, Gaussian blur and solarization on numbers in [0, 1] (as torchvision on float
//! tensors), rounded to bytes once at the end. The resize blur is on bytes, as in Pillow.
//!
//! The same inputs give the same bytes on every machine: all sums are in a fixed order, and no step
//! uses fused multiply-add or the system's math library. So a view rendered in training equals the
//! stored one.

mod blur;
mod color;
mod planes;
mod resize;

use scrl_schemas::{BlurKind, Crop, PrepOptions, ViewParams};

use crate::images::{ImageSize, RgbImage};
use crate::vectorized;
use crate::views::method::SOLARIZE_THRESHOLD;
use blur::GaussianBlur;
use planes::Planes;
use resize::Resize;

/// The options that a view depends on, besides its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RenderOptions {
    /// Side of the view in pixels.
    pub size: u32,
    /// What the `blur` of the parameters means.
    pub blur: BlurKind,
}

impl From<&PrepOptions> for RenderOptions {
    fn from(options: &PrepOptions) -> Self {
        Self { size: options.size, blur: options.blur }
    }
}

/// Renders views and reuses its buffers; one for each thread.
#[derive(Default)]
pub struct Renderer {
    resize: Resize,
    planes: Planes,
    gaussian: GaussianBlur,
}

impl Renderer {
    /// Renders one view into `view`, `[size, size, 3]` bytes, red first. The crop must lie within
    /// the source.
    ///
    /// # Panics
    /// Where the crop does not lie within the source.
    pub fn render(
        &mut self,
        source: &RgbImage,
        params: &ViewParams,
        options: RenderOptions,
        view: &mut Vec<u8>,
    ) {
        let size = options.size as usize;
        view.resize(size * size * 3, 0);
        self.resize.crop(source, params.crop, [options.size; 2], view);
        let gaussian = params.blur.filter(|_| options.blur == BlurKind::Gaussian);
        let factor = params.blur.filter(|_| options.blur == BlurKind::Resize);
        let on_bytes = params.jitter.is_none() && !params.grayscale && gaussian.is_none();
        if on_bytes {
            if params.flip {
                flip_bytes(view, size);
            }
        } else {
            self.render_colors(params, gaussian, factor.is_none() && params.solarize, size, view);
        }
        if let Some(factor) = factor {
            self.resize.blur(view, options.size, factor);
        }
        if params.solarize && (on_bytes || factor.is_some()) {
            solarize_bytes(view);
        }
    }

    /// Resizes a whole image to `size`, bicubic as Pillow, and does nothing else.
    pub fn resize(&mut self, source: &RgbImage, size: ImageSize) -> RgbImage {
        let ImageSize { width, height } = source.size;
        let mut pixels = vec![0; size.width as usize * size.height as usize * 3];
        let whole = Crop { x: 0, y: 0, width, height };
        self.resize.crop(source, whole, [size.width as u32, size.height as u32], &mut pixels);
        RgbImage { size, pixels }
    }

    /// The steps on numbers in [0, 1]: from bytes to planes and back.
    fn render_colors(
        &mut self,
        params: &ViewParams,
        gaussian: Option<f32>,
        solarize: bool,
        size: usize,
        view: &mut [u8],
    ) {
        let Self { planes, gaussian: blur, .. } = self;
        planes.resize(size * size);
        vectorized!({
            load(view, planes, size, params.flip);
            color::apply(planes, params.jitter.as_ref(), params.grayscale);
            match gaussian {
                Some(sigma) => blur.apply(
                    planes,
                    size,
                    sigma,
                    #[inline(always)]
                    |row, [red, green, blue]| {
                        let line = &mut view[row * size * 3..][..size * 3];
                        store(line, red, green, blue, solarize);
                    },
                ),
                None => store(view, &planes.red, &planes.green, &planes.blue, solarize),
            }
        });
    }
}

/// Converts bytes to planes, mirrored if `flip`.
#[inline(always)]
fn load(bytes: &[u8], planes: &mut Planes, size: usize, flip: bool) {
    let rows = planes
        .red
        .chunks_exact_mut(size)
        .zip(planes.green.chunks_exact_mut(size))
        .zip(planes.blue.chunks_exact_mut(size))
        .zip(bytes.chunks_exact(size * 3));
    for (((red, green), blue), bytes) in rows {
        for (((r, g), b), pixel) in
            red.iter_mut().zip(&mut *green).zip(&mut *blue).zip(bytes.chunks_exact(3))
        {
            *r = f32::from(pixel[0]) / 255.0;
            *g = f32::from(pixel[1]) / 255.0;
            *b = f32::from(pixel[2]) / 255.0;
        }
        if flip {
            red.reverse();
            green.reverse();
            blue.reverse();
        }
    }
}

/// Converts planes to bytes; if `solarize`, values from the threshold on are inverted.
#[inline(always)]
fn store(bytes: &mut [u8], red: &[f32], green: &[f32], blue: &[f32], solarize: bool) {
    let pixels = bytes.chunks_exact_mut(3).zip(red).zip(green).zip(blue);
    if solarize {
        for (((pixel, &r), &g), &b) in pixels {
            pixel[0] = to_byte(inverted(r));
            pixel[1] = to_byte(inverted(g));
            pixel[2] = to_byte(inverted(b));
        }
    } else {
        for (((pixel, &r), &g), &b) in pixels {
            pixel[0] = to_byte(r);
            pixel[1] = to_byte(g);
            pixel[2] = to_byte(b);
        }
    }
}

#[inline(always)]
fn inverted(value: f32) -> f32 {
    if value >= SOLARIZE_THRESHOLD { 1.0 - value } else { value }
}

/// The byte next to 255 · `value`, ties to even; `value` lies in [0, 1].
#[inline(always)]
fn to_byte(value: f32) -> u8 {
    // Adding 1.5 · 2²³ rounds away the fraction and leaves the integer in the lowest byte: one
    // addition, where a conversion would check for overflow.
    const SHIFT: f32 = 12_582_912.0;
    (value * 255.0 + SHIFT).to_bits() as u8
}

fn flip_bytes(view: &mut [u8], size: usize) {
    for row in view.chunks_exact_mut(size * 3) {
        let (pixels, _) = row.as_chunks_mut::<3>();
        pixels.reverse();
    }
}

fn solarize_bytes(view: &mut [u8]) {
    for byte in view {
        *byte = if f32::from(*byte) >= 255.0 * SOLARIZE_THRESHOLD { 255 - *byte } else { *byte };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> RgbImage {
        let size = ImageSize { width: 40, height: 30 };
        let pixels = (0..40 * 30 * 3).map(|i| (i * 7919 % 251) as u8).collect();
        RgbImage { size, pixels }
    }

    fn plain() -> ViewParams {
        ViewParams {
            crop: Crop { x: 3, y: 2, width: 16, height: 16 },
            flip: false,
            jitter: None,
            grayscale: false,
            blur: None,
            solarize: false,
        }
    }

    fn render(params: &ViewParams) -> Vec<u8> {
        let mut view = Vec::new();
        let options = RenderOptions { size: 16, blur: BlurKind::Gaussian };
        Renderer::default().render(&source(), params, options, &mut view);
        view
    }

    #[test]
    fn a_crop_of_the_view_s_size_is_copied() {
        let view = render(&plain());
        let source = source();
        for y in 0..16 {
            let from = ((y + 2) * 40 + 3) * 3;
            assert_eq!(view[y * 48..][..48], source.pixels[from..from + 48]);
        }
    }

    #[test]
    fn both_ways_of_mirroring_and_solarizing_agree() {
        let bytes = render(&ViewParams { flip: true, solarize: true, ..plain() });
        // A Gaussian this narrow changes nothing, but sends the view through numbers in [0, 1].
        let planes = render(&ViewParams { flip: true, solarize: true, blur: Some(0.1), ..plain() });
        assert_eq!(bytes, planes);
    }

    #[test]
    fn pixels_outside_the_crop_have_no_effect() {
        let mut changed = source();
        let crop = Crop { x: 5, y: 5, width: 20, height: 18 };
        for y in 0..30 {
            for x in 0..40 {
                if !((5..25).contains(&x) && (5..23).contains(&y)) {
                    changed.pixels[(y * 40 + x) * 3..][..3].fill(255);
                }
            }
        }
        let params = ViewParams { crop, blur: Some(1.0), ..plain() };
        let options = RenderOptions { size: 16, blur: BlurKind::Gaussian };
        let mut views = [Vec::new(), Vec::new()];
        let mut renderer = Renderer::default();
        renderer.render(&source(), &params, options, &mut views[0]);
        renderer.render(&changed, &params, options, &mut views[1]);
        assert_eq!(views[0], views[1]);
    }

    #[test]
    fn bytes_round_to_the_nearest() {
        for byte in 0..=255u8 {
            assert_eq!(to_byte(f32::from(byte) / 255.0), byte);
            assert_eq!(to_byte((f32::from(byte) + 0.49).min(255.0) / 255.0), byte);
        }
    }
}
