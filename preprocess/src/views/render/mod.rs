//! Rendering a view from its source image and its parameters.
//!
//! The steps, in this order: crop, bicubic resize (as Pillow), flips and turns, then color jitter,
//! grayscale, Gaussian blur and solarization (as torchvision on float tensors), rounded to bytes once at the
//! end. The resize blur is on bytes, as in Pillow.
//!
//! The same inputs give the same bytes on every machine: between the steps pixels are integers, and
//! what is computed in float64 beforehand uses neither fused multiply-add nor the system's math
//! library. So a view rendered in training equals the stored one.

mod blur;
mod color;
mod fixed;
mod resize;
mod transpose;
mod turn;
mod vector;

use scrl_schemas::{BlurKind, PrepOptions, ViewParams};

use crate::images::{ImageSize, RgbImage};
use crate::views::method::SOLARIZE_THRESHOLD;
use blur::GaussianBlur;
use fixed::{Planes, WHITE, to_byte};
use resize::{Resize, Source};
use vector::{Vectors, Work};

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
    /// A view before the two halves of the resize blur.
    bytes: [Vec<u8>; 2],
}

impl Renderer {
    /// Renders one view into `view`, `[size, size]` pixels of red, green, blue, and with four
    /// `CHANNELS` a zero. The crop must lie within the source.
    ///
    /// # Panics
    /// Where the crop does not lie within the source, or `view` has another number of pixels.
    pub fn render<const CHANNELS: usize>(
        &mut self,
        source: &RgbImage,
        params: &ViewParams,
        options: RenderOptions,
        view: &mut [[u8; CHANNELS]],
    ) {
        assert_eq!(view.len(), options.size as usize * options.size as usize);
        vector::run(RenderView { renderer: self, source, params, options, view });
    }

    /// Resizes a whole image to `size`, bicubic as Pillow, and does nothing else.
    pub fn resize(&mut self, source: &RgbImage, size: ImageSize) -> RgbImage {
        let mut pixels = vec![0; size.width as usize * size.height as usize * 3];
        vector::run(ResizeImage { renderer: self, source, size, pixels: &mut pixels });
        RgbImage { size, pixels }
    }

    /// The reference's blur of what is in `planes`: down by `factor` and up again, each side
    /// rounded down.
    #[inline(always)]
    fn resize_blur<S: Vectors>(&mut self, simd: S, size: usize, factor: f32) {
        let Self { resize, planes, bytes, .. } = self;
        // The decimal factor, 1.2 and not 1.20000005: it matters where the quotient is an integer.
        let factor = (f64::from(factor) * 10.0).round() / 10.0;
        let small = ((size as f64 / factor).floor() as usize).max(1);
        for (bytes, (side, into)) in bytes.iter_mut().zip([(size, small), (small, size)]) {
            bytes.resize(side * side * 3, 0);
            store_all(planes, false, bytes.as_chunks_mut::<3>().0);
            let source = Source { pixels: bytes, width: side, height: side };
            resize.whole(simd, source, [into; 2], planes);
        }
    }
}

/// One view to render.
struct RenderView<'a, const CHANNELS: usize> {
    renderer: &'a mut Renderer,
    source: &'a RgbImage,
    params: &'a ViewParams,
    options: RenderOptions,
    view: &'a mut [[u8; CHANNELS]],
}

impl<const CHANNELS: usize> Work for RenderView<'_, CHANNELS> {
    #[inline(always)]
    fn run<S: Vectors>(self, simd: S) {
        let Self { renderer, source, params, options, view } = self;
        let size = options.size as usize;
        let Renderer { resize, planes, gaussian, .. } = renderer;
        let orientation = params.orientation();
        let source = Source::from(source);
        resize.crop(simd, source, params.crop, [size; 2], orientation.mirrors_x, planes);
        turn::apply(planes, orientation);
        color::apply(planes, params.jitter.as_ref(), params.grayscale);
        match (params.blur, options.blur) {
            (Some(sigma), BlurKind::Gaussian) => gaussian.apply(
                simd,
                planes,
                size,
                sigma,
                #[inline(always)]
                |y, row| store(row, params.solarize, &mut view[y * size..][..size]),
            ),
            (Some(factor), BlurKind::Resize) => {
                renderer.resize_blur(simd, size, factor);
                store_all(&mut renderer.planes, params.solarize, view);
            }
            _ => store_all(planes, params.solarize, view),
        }
    }
}

/// An image to resize.
struct ResizeImage<'a> {
    renderer: &'a mut Renderer,
    source: &'a RgbImage,
    size: ImageSize,
    pixels: &'a mut [u8],
}

impl Work for ResizeImage<'_> {
    #[inline(always)]
    fn run<S: Vectors>(self, simd: S) {
        let Self { renderer: Renderer { resize, planes, .. }, source, size, pixels } = self;
        let into = [size.width as usize, size.height as usize];
        resize.whole(simd, Source::from(source), into, planes);
        store_all(planes, false, pixels.as_chunks_mut::<3>().0);
    }
}

/// Rounds all rows to bytes.
#[inline(always)]
fn store_all<const CHANNELS: usize>(
    planes: &mut Planes,
    solarize: bool,
    pixels: &mut [[u8; CHANNELS]],
) {
    let width = planes.width;
    for (row, pixels) in planes.rows().zip(pixels.chunks_exact_mut(width)) {
        store(row.map(|plane| &*plane), solarize, pixels);
    }
}

/// Rounds a row to bytes; if `solarize`, values from the threshold on are inverted.
#[inline(always)]
fn store<const CHANNELS: usize>(
    [red, green, blue]: [&[i16]; 3],
    solarize: bool,
    pixels: &mut [[u8; CHANNELS]],
) {
    let pixels = pixels.iter_mut().zip(red).zip(green).zip(blue);
    if solarize {
        for (((pixel, &r), &g), &b) in pixels {
            *pixel = pixel_of(inverted(r), inverted(g), inverted(b));
        }
    } else {
        for (((pixel, &r), &g), &b) in pixels {
            *pixel = pixel_of(r, g, b);
        }
    }
}

#[inline(always)]
fn pixel_of<const CHANNELS: usize>(red: i16, green: i16, blue: i16) -> [u8; CHANNELS] {
    let mut pixel = [0; CHANNELS];
    pixel[0] = to_byte(red);
    pixel[1] = to_byte(green);
    pixel[2] = to_byte(blue);
    pixel
}

#[inline(always)]
fn inverted(value: i16) -> i16 {
    const THRESHOLD: i16 = (SOLARIZE_THRESHOLD * WHITE as f32) as i16;
    if value >= THRESHOLD { WHITE - value } else { value }
}

#[cfg(test)]
mod tests {
    use scrl_schemas::Crop;

    use super::*;

    fn source() -> RgbImage {
        let size = ImageSize { width: 40, height: 30 };
        let pixels = (0..40 * 30 * 3).map(|i| (i * 7919 % 251) as u8).collect();
        RgbImage { size, pixels }
    }

    fn plain() -> ViewParams {
        ViewParams::of_crop(Crop { x: 3, y: 2, width: 16, height: 16 })
    }

    fn render(params: &ViewParams) -> Vec<u8> {
        let mut view = vec![[0; 3]; 16 * 16];
        let options = RenderOptions { size: 16, blur: BlurKind::Gaussian };
        Renderer::default().render(&source(), params, options, &mut view);
        view.into_flattened()
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
    fn a_flip_mirrors_each_row_and_solarizing_inverts_from_the_threshold_on() {
        let (view, flipped) = (render(&plain()), render(&ViewParams { flip: true, ..plain() }));
        for (row, flipped) in view.chunks_exact(48).zip(flipped.chunks_exact(48)) {
            let mirrored: Vec<u8> = row.chunks_exact(3).rev().flatten().copied().collect();
            assert_eq!(flipped, mirrored);
        }
        let solarized = render(&ViewParams { solarize: true, ..plain() });
        let expected: Vec<u8> =
            view.iter().map(|&byte| if byte >= 128 { 255 - byte } else { byte }).collect();
        assert_eq!(solarized, expected);
    }

    /// Of sides that are and are not multiples of a tile.
    #[test]
    fn flips_and_turns_move_the_pixels_as_numpy_does() {
        for size in [16, 37, 24, 9] {
            let options = RenderOptions { size, blur: BlurKind::Gaussian };
            let side = size as usize;
            let mut renderer = Renderer::default();
            let mut render = |params: &ViewParams| {
                let mut view = vec![[0; 3]; side * side];
                renderer.render(&source(), params, options, &mut view);
                view
            };
            let upright = render(&plain());
            for (flip, vertical_flip) in
                [(false, false), (true, false), (false, true), (true, true)]
            {
                let from = |y: usize, x: usize| {
                    let x = if flip { side - 1 - x } else { x };
                    let y = if vertical_flip { side - 1 - y } else { y };
                    y * side + x
                };
                let mut expected: Vec<[u8; 3]> =
                    (0..side * side).map(|i| upright[from(i / side, i % side)]).collect();
                for turns in 0..4 {
                    let params = ViewParams { flip, vertical_flip, turns, ..plain() };
                    assert_eq!(render(&params), expected, "{size} {params:?}");
                    // What numpy.rot90 does: the last column becomes the first row.
                    let turned = |i: usize| expected[i % side * side + side - 1 - i / side];
                    expected = (0..side * side).map(turned).collect();
                }
            }
        }
    }

    #[test]
    fn every_processor_renders_the_same() {
        let [brightness, contrast, saturation, hue] = scrl_schemas::ColorStep::ALL;
        let order = [saturation, hue, contrast, brightness];
        let jitter = scrl_schemas::ColorJitter {
            brightness: 1.25,
            contrast: 0.75,
            saturation: 1.1875,
            hue: -0.0625,
            order,
        };
        let changed =
            ViewParams { jitter: Some(jitter), blur: Some(1.3), flip: true, turns: 3, ..plain() };
        for (size, crop) in [(16, [3, 2, 16, 16]), (37, [0, 0, 40, 30]), (9, [5, 1, 33, 29])] {
            let [x, y, width, height] = crop;
            for params in [plain(), changed] {
                let params = ViewParams { crop: Crop { x, y, width, height }, ..params };
                let options = RenderOptions { size, blur: BlurKind::Gaussian };
                let mut views = [(); 2].map(|()| vec![[0; 3]; (size * size) as usize]);
                let [vectors, plain] = &mut views;
                let renderer = &mut Renderer::default();
                let (source, params) = (&source(), &params);
                renderer.render(source, params, options, vectors);
                RenderView { renderer, source, params, options, view: plain }.run(vector::Plain);
                assert_eq!(vectors, plain, "{size} {params:?}");
            }
        }
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
        let mut views = [[[0; 3]; 16 * 16]; 2];
        let mut renderer = Renderer::default();
        renderer.render(&source(), &params, options, &mut views[0]);
        renderer.render(&changed, &params, options, &mut views[1]);
        assert_eq!(views[0], views[1]);
    }

    #[test]
    fn bytes_round_to_the_nearest() {
        for byte in 0..=255u8 {
            let value = fixed::from_byte(byte);
            assert_eq!(to_byte(value), byte);
            assert_eq!(to_byte((value + 31).min(WHITE)), byte);
        }
    }
}
