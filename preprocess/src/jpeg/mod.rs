//! Decoding of the JPEG views of a shard, made for speed: baseline, three components of full resolution, one scan, as
//! [`crate::encode::ViewEncoder`] writes them. Of any other JPEG it says so, and a general decoder reads it.
//!
//! Every step is on integers and the same as libjpeg's (its "slow" inverse transform), so the pixels are Pillow's.

mod color;
mod entropy;
mod header;
mod transform;

use color::write_rgb;
use entropy::{BlockReader, unstuffed};
use header::Header;
use transform::{BLOCKS, Coefficients, inverse};

use crate::lanes::{Lanes, Work, dispatch};

/// Pixels along the side of a block.
const SIDE: usize = 8;

/// Decodes a picture of the expected width, `[height, width, 3]`, red first. `None` if the stream is of another kind or
/// size, or is damaged; `pixels` then hold nothing of use.
pub(crate) fn decode(file: &[u8], width: usize, pixels: &mut [u8]) -> Option<()> {
    let height = pixels.len() / (width * 3);
    let header = Header::read(file, width, height)?;
    let bytes = unstuffed(header.scan)?;
    dispatch(Picture { header: &header, bytes: &bytes, width, pixels })
}

/// The pixels of a scan.
struct Picture<'a> {
    header: &'a Header<'a>,
    bytes: &'a [u8],
    width: usize,
    pixels: &'a mut [u8],
}

impl Work for Picture<'_> {
    /// `None` if it is damaged.
    type Output = Option<()>;

    #[inline(always)]
    fn run(self, lanes: impl Lanes) -> Option<()> {
        decode_scan(lanes, self.header, self.bytes, self.width, self.pixels)
    }
}

/// Goes through the rows of blocks, some side by side at a time: coefficients, then samples of each component; then colors.
#[inline(always)]
fn decode_scan(
    lanes: impl Lanes,
    header: &Header,
    bytes: &[u8],
    width: usize,
    pixels: &mut [u8],
) -> Option<()> {
    let components = header.components()?;
    let across = width.div_ceil(SIDE);
    let stride = across.next_multiple_of(BLOCKS) * SIDE;
    let mut blocks = BlockReader::new(bytes);
    let mut dc = [0; 3];
    let mut samples = [0; 3].map(|_| vec![0; stride * SIDE]);
    for lines in pixels.chunks_mut(width * 3 * SIDE) {
        for first in (0..across).step_by(BLOCKS) {
            let mut coefficients = [Coefficients::ZERO; 3];
            for block in 0..BLOCKS.min(across - first) {
                for (component, coefficients) in coefficients.iter_mut().enumerate() {
                    blocks.read(&components[component], &mut dc[component], coefficients, block)?;
                }
            }
            for (coefficients, samples) in coefficients.iter().zip(&mut samples) {
                inverse(lanes, coefficients, &mut samples[first * SIDE..], stride);
            }
        }
        for (line, pixels) in lines.chunks_exact_mut(width * 3).enumerate() {
            let [y, cb, cr] = samples.each_ref().map(|samples| &samples[line * stride..][..width]);
            write_rgb(y, cb, cr, pixels);
        }
    }
    blocks.is_at_end().then_some(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::decode::decode as decode_any;
    use crate::encode::ViewEncoder;
    use scrl_schemas::{Encoding, Exif};

    /// A picture with edges and some noise.
    fn picture(size: usize) -> Vec<u8> {
        let mut noise = 1u32;
        let random = |i: usize| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((i / 3 % size * 7 + i / 700 * 31) as u8) ^ (noise >> 27) as u8
        };
        (0..size * size * 3).map(random).collect()
    }

    fn encoded(size: usize, quality: u8) -> Vec<u8> {
        let view = picture(size);
        let encode = ViewEncoder::default().encode(&view, size as u32, Encoding::Jpeg, quality, "view");
        encode.unwrap().unwrap().bytes
    }

    #[test]
    fn pixels_are_those_of_pillow() {
        // Written by scripts/make_goldens_decode.py.
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/decode");
        let index = std::fs::read_to_string(folder.join("index.json")).unwrap();
        let index: Vec<serde_json::Value> = serde_json::from_str(&index).unwrap();
        let expected = std::fs::read(folder.join("expected.rgb")).unwrap();
        for name in ["444.jpg", "444-contrast.jpg", "444-rough.jpg", "tiny.jpg"] {
            let entry = index.iter().find(|entry| entry["file"] == name).unwrap();
            let [at, width, height] =
                ["at", "width", "height"].map(|key| entry[key].as_u64().unwrap() as usize);
            let mut pixels = vec![7; width * height * 3];
            let file = std::fs::read(folder.join(name)).unwrap();
            assert_eq!(decode(&file, width, &mut pixels), Some(()), "{name}");
            assert!(pixels == expected[at..][..pixels.len()], "{name}");
        }
    }

    #[test]
    fn views_of_every_size_and_quality_are_read() {
        for size in (1..20).chain([63, 64, 65, 224]) {
            for quality in [1, 50, 95, 100] {
                let file = encoded(size, quality);
                let mut pixels = vec![7; size * size * 3];
                assert_eq!(decode(&file, size, &mut pixels), Some(()), "{size} px, quality {quality}");
                // The general decoder rounds differently, in the transform and in the colors.
                let others = decode_any(&file, Exif::Ignore).unwrap().pixels;
                let worst = pixels.iter().zip(&others).map(|(a, b)| a.abs_diff(*b)).max();
                assert!(worst <= Some(4), "{size} px, quality {quality}: {worst:?}");
            }
        }
    }

    #[test]
    fn other_and_damaged_files_are_left_to_others() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/decode");
        let mut pixels = vec![0; 37 * 29 * 3];
        for name in
            ["420.jpg", "444-progressive.jpg", "gray.jpg", "restarts.jpg", "rgb-inside.jpg", "ycck.jpg"]
        {
            let file = std::fs::read(folder.join(name)).unwrap();
            assert_eq!(decode(&file, 37, &mut pixels), None, "{name}");
        }
        let (size, file) = (24, encoded(24, 95));
        let mut pixels = vec![0; size * size * 3];
        assert_eq!(decode(&file, size / 2, &mut pixels), None, "another width");
        for length in 0..file.len() {
            assert_eq!(decode(&file[..length], size, &mut pixels), None, "{length} bytes");
        }
        // Whatever stands in a file, it is read or not, without a panic.
        for at in 0..file.len() {
            for bit in 0..8 {
                let mut damaged = file.clone();
                damaged[at] ^= 1 << bit;
                let _ = decode(&damaged, size, &mut pixels);
            }
        }
    }
}
