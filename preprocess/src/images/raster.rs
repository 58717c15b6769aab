//! PNG; PBM, PGM and PPM.

use std::io::Cursor;

use image::codecs::{png::PngDecoder, pnm::PnmDecoder};
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageResult, Limits};

use super::rgb_image::{
    Header, MAX_BYTES_PER_PIXEL, SPARE_BYTES, Unreadable, check_size, first_three, spread,
};

type Bytes<'a> = Cursor<&'a [u8]>;

pub(super) fn header(bytes: &[u8], format: ImageFormat) -> Result<Header, Unreadable> {
    match format {
        ImageFormat::Png => header_of(&mut open_png(bytes)?),
        _ => header_of(&mut open_pnm(bytes)?),
    }
}

pub(super) fn decode(
    bytes: &[u8],
    format: ImageFormat,
    lenient: bool,
) -> Result<(Header, Vec<u8>), Unreadable> {
    match format {
        ImageFormat::Png => {
            let mut decoder = open_png(bytes)?;
            let header = header_of(&mut decoder)?;
            Ok((header, pixels(image(decoder, lenient)?, is_gray16(bytes))?))
        }
        _ => {
            let mut decoder = open_pnm(bytes)?;
            let header = header_of(&mut decoder)?;
            Ok((
                header,
                match image(decoder, lenient)? {
                    // Here Pillow does not drop the lower eight bits, but rounds.
                    DynamicImage::ImageRgb16(image) => {
                        let round = |sample: u16| ((u32::from(sample) + 128) / 257) as u8;
                        image.into_raw().into_iter().map(round).collect()
                    }
                    image => pixels(image, false)?,
                },
            ))
        }
    }
}

/// The size stands at a fixed place, and is checked before the decoder sees the file: what chunks
/// before the pixels may unpack to, such as a color profile, is limited by it.
fn open_png(bytes: &[u8]) -> Result<PngDecoder<Bytes<'_>>, Unreadable> {
    const WIDTH_AND_HEIGHT: std::ops::Range<usize> = 16..24;
    let places =
        bytes.get(WIDTH_AND_HEIGHT).ok_or_else(|| Unreadable::because("PNG: cut short"))?;
    let number = |at: usize| {
        u64::from(u32::from_be_bytes([places[at], places[at + 1], places[at + 2], places[at + 3]]))
    };
    let (width, height) = (number(0), number(4));
    check_size(width, height)?;
    check_palette(bytes)?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(width * height * MAX_BYTES_PER_PIXEL / 2 + SPARE_BYTES / 4);
    PngDecoder::with_limits(Cursor::new(bytes), limits).map_err(Unreadable::because)
}

/// Refuses a palette that ends within a color, at which the decoder would panic.
fn check_palette(bytes: &[u8]) -> Result<(), Unreadable> {
    let mut chunks = bytes.get(8..).unwrap_or_default();
    while let Some((header, rest)) = chunks.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
        match &header[4..] {
            b"PLTE" if !length.is_multiple_of(3) => {
                return Err(Unreadable::because("PNG: half a color in its palette"));
            }
            b"IDAT" => break,
            // On past the data and the checksum.
            _ => chunks = rest.get(length + 4..).unwrap_or_default(),
        }
    }
    Ok(())
}

/// Whether a PNG's pixels are 16 bits of gray each.
fn is_gray16(bytes: &[u8]) -> bool {
    const BITS_AND_COLOR: std::ops::Range<usize> = 24..26;
    bytes.get(BITS_AND_COLOR) == Some(&[16, 0])
}

fn open_pnm(bytes: &[u8]) -> Result<PnmDecoder<Bytes<'_>>, Unreadable> {
    PnmDecoder::new(Cursor::new(bytes)).map_err(Unreadable::because)
}

pub(super) fn header_of(decoder: &mut impl ImageDecoder) -> Result<Header, Unreadable> {
    let (width, height) = decoder.dimensions();
    let size = check_size(u64::from(width), u64::from(height))?;
    Ok(Header { size, orientation: decoder.orientation().unwrap_or(Orientation::NoTransforms) })
}

pub(super) fn image(decoder: impl ImageDecoder, lenient: bool) -> Result<DynamicImage, Unreadable> {
    let image = match lenient {
        false => DynamicImage::from_decoder(decoder),
        true => DynamicImage::from_decoder(Lenient(decoder)),
    };
    image.map_err(Unreadable::because)
}

/// Keeps what the decoder wrote before an error.
struct Lenient<D>(D);

impl<D: ImageDecoder> ImageDecoder for Lenient<D> {
    fn dimensions(&self) -> (u32, u32) {
        self.0.dimensions()
    }

    fn color_type(&self) -> ColorType {
        self.0.color_type()
    }

    fn read_image(self, buffer: &mut [u8]) -> ImageResult<()> {
        // What is missing stays black.
        let _ = self.0.read_image(buffer);
        Ok(())
    }

    fn read_image_boxed(self: Box<Self>, buffer: &mut [u8]) -> ImageResult<()> {
        self.read_image(buffer)
    }
}

/// The upper eight of 16 bits.
pub(super) fn upper(samples: Vec<u16>) -> Vec<u8> {
    samples.into_iter().map(|sample| (sample >> 8) as u8).collect()
}

/// Transparency is dropped, not blended: the colors as stored. Of 16 bits the upper eight are kept,
/// except that gray without an opacity for each pixel is clipped at 255, as Pillow does it.
pub(super) fn pixels(image: DynamicImage, gray16: bool) -> Result<Vec<u8>, Unreadable> {
    let clip = |level: u16| level.min(255) as u8;
    Ok(match image {
        DynamicImage::ImageLuma8(image) => spread(image.into_raw().into_iter()),
        DynamicImage::ImageLumaA8(image) => {
            spread(image.into_raw().chunks_exact(2).map(|pixel| pixel[0]))
        }
        DynamicImage::ImageRgb8(image) => image.into_raw(),
        DynamicImage::ImageRgba8(image) => first_three(&image.into_raw(), 4),
        DynamicImage::ImageLuma16(image) => spread(image.into_raw().into_iter().map(clip)),
        // One level was declared transparent.
        DynamicImage::ImageLumaA16(image) if gray16 => {
            spread(image.into_raw().chunks_exact(2).map(|pixel| clip(pixel[0])))
        }
        DynamicImage::ImageLumaA16(image) => {
            spread(upper(image.into_raw()).chunks_exact(2).map(|pixel| pixel[0]))
        }
        DynamicImage::ImageRgb16(image) => upper(image.into_raw()),
        DynamicImage::ImageRgba16(image) => first_three(&upper(image.into_raw()), 4),
        other => return Err(Unreadable::because(format!("samples of {:?}", other.color()))),
    })
}
