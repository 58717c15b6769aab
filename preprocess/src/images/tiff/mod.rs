//! TIFF and BigTIFF: the first page.
//!
//! ```text
//! directory (tags) → layout (what they say) → chunks (bytes) → rows (samples) → here: colors
//! ```

mod chunks;
mod directory;
mod layout;
mod rows;

use self::layout::{Colors, Compression, Layout};
use self::rows::Samples;
use super::decode::Decoding;
use super::levels::{Grid, SampledValues};
use super::rgb_image::{Header, Unreadable, area, ink_to_rgb};

pub(super) use self::directory::is_big;

pub(super) fn header(bytes: &[u8], how: Decoding) -> Result<Header, Unreadable> {
    Ok(Layout::open(bytes, how)?.header)
}

pub(super) fn decode(bytes: &[u8], how: Decoding) -> Result<(Header, Vec<u8>), Unreadable> {
    let layout = Layout::open(bytes, how)?;
    // Made once there is something to fill in.
    let mut pixels = Vec::new();
    let columns = layout.size().width as usize;
    let color = color(&layout);
    let level = level(&layout, how);
    // Small samples as levels; indices of a palette are none.
    let is_palette = matches!(layout.colors, Colors::Palette(_));
    let most = if is_palette || layout.bits >= 8 { 255 } else { (1u32 << layout.bits) - 1 };
    // What is stored as it is shown.
    let is_rgb = layout.colors == Colors::Rgb && !layout.is_premultiplied && layout.bits == 8;
    let mut levels = Vec::new();
    rows::for_each(&layout, how.lenient, |[left, y], samples| {
        if pixels.is_empty() {
            pixels = vec![[0; 3]; area(layout.size())];
        }
        let row = &mut pixels[y * columns + left..];
        levels.clear();
        match samples {
            Samples::Bytes(bytes) if is_rgb => {
                row.as_flattened_mut()[..bytes.len()].copy_from_slice(bytes);
                return;
            }
            Samples::Bytes(bytes) if most == 255 => levels.extend(bytes),
            Samples::Bytes(bytes) => {
                levels.extend(bytes.iter().map(|&byte| (u32::from(byte) * 255 / most) as u8));
            }
            Samples::Values(values) if layout.is_premultiplied => {
                let most = layout.largest().unwrap_or(1.0);
                for pixel in values.chunks_exact(layout.used()) {
                    let opacity = pixel[pixel.len() - 1].max(1.0);
                    levels.extend(pixel.iter().map(|&value| level(value * most / opacity)));
                }
            }
            Samples::Values(values) => levels.extend(values.iter().map(|&value| level(value))),
        }
        for (pixel, levels) in row.iter_mut().zip(levels.chunks_exact(layout.used())) {
            *pixel = color(levels);
        }
    })?;
    Ok((layout.header, pixels.into_flattened()))
}

/// What makes levels of samples of more than 8 bits. What is no data is black.
fn level(layout: &Layout, how: Decoding) -> impl Fn(f64) -> u8 {
    let scale = layout.scale(how);
    let inverted = layout.colors == Colors::Gray { inverted: true };
    let has_window = how.window.is_some();
    move |value| match scale.level(value) {
        _ if has_window && !layout.is_data(value) => 0,
        level if inverted => 255 - level,
        level => level,
    }
}

/// Makes a color of a pixel's levels.
type ToColor<'a> = Box<dyn Fn(&[u8]) -> [u8; 3] + 'a>;

fn color<'a>(layout: &'a Layout) -> ToColor<'a> {
    // Those of more bits are inverted as they become levels.
    let flip = if layout.header.is_deep { 0 } else { 255 };
    let plain: ToColor = match &layout.colors {
        Colors::Gray { inverted: true } => Box::new(move |levels| [levels[0] ^ flip; 3]),
        Colors::Gray { inverted: false } => Box::new(|levels| [levels[0]; 3]),
        Colors::Palette(colors) => {
            Box::new(|levels| colors.get(usize::from(levels[0])).copied().unwrap_or_default())
        }
        Colors::YCbCr if layout.compression != Compression::Jpeg => {
            Box::new(|levels| ycc_to_rgb([levels[0], levels[1], levels[2]]))
        }
        Colors::YCbCr | Colors::Rgb => Box::new(|levels| [levels[0], levels[1], levels[2]]),
        Colors::Cmyk => Box::new(|levels| ink_to_rgb([levels[0], levels[1], levels[2], levels[3]])),
    };
    // So is the opacity of those undone.
    match layout.is_premultiplied && !layout.header.is_deep {
        true => Box::new(move |levels| {
            let alpha = u32::from(levels[levels.len() - 1]).max(1);
            plain(levels).map(|level| (u32::from(level) * 255 / alpha).min(255) as u8)
        }),
        false => plain,
    }
}

/// Luma and chroma of JFIF.
fn ycc_to_rgb([luma, blue, red]: [u8; 3]) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let [luma, blue, red] = [i32::from(luma), i32::from(blue) - 128, i32::from(red) - 128];
    [91_881 * red, -22_554 * blue - 46_802 * red, 116_130 * blue]
        .map(|chroma| (luma + ((chroma + HALF) >> 16)).clamp(0, 255) as u8)
}

pub(super) fn sample_values(bytes: &[u8], how: Decoding) -> Result<SampledValues, Unreadable> {
    let layout = Layout::open(bytes, how)?;
    if !layout.header.is_deep {
        return Ok(SampledValues::default());
    }
    let grid = Grid::over(layout.size());
    let mut found = SampledValues { values: Vec::new(), largest: layout.largest() };
    rows::for_each(&layout, how.lenient, |[left, y], samples| {
        let Samples::Values(values) = samples else { return };
        if !grid.has(y) {
            return;
        }
        let pixels = values.chunks_exact(layout.used()).enumerate();
        for (_, pixel) in pixels.filter(|(x, _)| grid.has(left + x)) {
            let values = pixel[..layout.colors.samples()].iter().copied();
            let is_shown = |value: &f64| value.is_finite() && layout.is_data(*value);
            found.values.extend(values.filter(is_shown));
        }
    })?;
    Ok(found)
}
