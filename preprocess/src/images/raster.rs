//! PNG; PBM, PGM and PPM.

use std::io::Cursor;

use image::codecs::{png::PngDecoder, pnm::PnmDecoder};
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageResult, Limits};

use super::decode::Decoding;
use super::levels::{Grid, SampledValues, Scale};
use super::rgb_image::{
    Header, MAX_BYTES_PER_PIXEL, SPARE_BYTES, Unreadable, area, check_size, first_three, spread,
};

type Bytes<'a> = Cursor<&'a [u8]>;

pub(super) fn header(
    bytes: &[u8],
    format: ImageFormat,
    how: Decoding,
) -> Result<Header, Unreadable> {
    match format {
        ImageFormat::Png => header_of(&mut open_png(bytes, how)?, how),
        _ => header_of(&mut open_pnm(bytes)?, how),
    }
}

pub(super) fn decode(
    bytes: &[u8],
    format: ImageFormat,
    how: Decoding,
) -> Result<(Header, Vec<u8>), Unreadable> {
    let (header, image) = read(bytes, format, how)?;
    let Some((samples, channels)) = deep_samples(&image) else {
        return Ok((header, pixels(image)?));
    };
    let largest = largest(bytes, format)?;
    let scale = Scale::new(how.window, largest);
    let level = |sample: u16| scale.level(f64::from(sample) * (largest / f64::from(u16::MAX)));
    let mut pixels = Vec::with_capacity(area(header.size) * 3);
    for pixel in samples.chunks_exact(channels) {
        match *pixel {
            [red, green, blue, ..] => pixels.extend([red, green, blue].map(level)),
            [gray, ..] => pixels.extend([level(gray); 3]),
            [] => {}
        }
    }
    Ok((header, pixels))
}

pub(super) fn sample_values(
    bytes: &[u8],
    format: ImageFormat,
    how: Decoding,
) -> Result<SampledValues, Unreadable> {
    let (header, image) = read(bytes, format, how)?;
    let Some((samples, channels)) = deep_samples(&image) else {
        return Ok(SampledValues::default());
    };
    let largest = largest(bytes, format)?;
    let value = |sample: &u16| (f64::from(*sample) * (largest / f64::from(u16::MAX))).round();
    let grid = Grid::over(header.size);
    let mut values = Vec::new();
    let rows = samples.chunks_exact(channels * header.size.width as usize);
    for (_, row) in rows.enumerate().filter(|(y, _)| grid.has(*y)) {
        let pixels = row.chunks_exact(channels).enumerate().filter(|(x, _)| grid.has(*x));
        values.extend(pixels.flat_map(|(_, pixel)| pixel[..shown(channels)].iter().map(value)));
    }
    Ok(SampledValues { values, largest: Some(largest) })
}

fn read(
    bytes: &[u8],
    format: ImageFormat,
    how: Decoding,
) -> Result<(Header, DynamicImage), Unreadable> {
    match format {
        ImageFormat::Png => {
            let mut decoder = open_png(bytes, how)?;
            Ok((header_of(&mut decoder, how)?, image(decoder, how.lenient)?))
        }
        _ => {
            let mut decoder = open_pnm(bytes)?;
            Ok((header_of(&mut decoder, how)?, image(decoder, how.lenient)?))
        }
    }
}

/// Samples of 16 bits, and how many make a pixel.
fn deep_samples(image: &DynamicImage) -> Option<(&[u16], usize)> {
    Some(match image {
        DynamicImage::ImageLuma16(image) => (image.as_raw(), 1),
        DynamicImage::ImageLumaA16(image) => (image.as_raw(), 2),
        DynamicImage::ImageRgb16(image) => (image.as_raw(), 3),
        DynamicImage::ImageRgba16(image) => (image.as_raw(), 4),
        _ => return None,
    })
}

/// How many of so many channels are no opacity.
fn shown(channels: usize) -> usize {
    if channels < 3 { 1 } else { 3 }
}

/// What the file calls the largest value; the decoder makes 65,535 of it.
fn largest(bytes: &[u8], format: ImageFormat) -> Result<f64, Unreadable> {
    Ok(match format {
        ImageFormat::Png => f64::from(u16::MAX),
        _ => f64::from(open_pnm(bytes)?.into_inner().1.maximal_sample()),
    })
}

/// The size stands at a fixed place, and is checked before the decoder sees the file: what chunks
/// before the pixels may unpack to, such as a color profile, is limited by it.
fn open_png(bytes: &[u8], how: Decoding) -> Result<PngDecoder<Bytes<'_>>, Unreadable> {
    const WIDTH_AND_HEIGHT: std::ops::Range<usize> = 16..24;
    let places =
        bytes.get(WIDTH_AND_HEIGHT).ok_or_else(|| Unreadable::because("PNG: cut short"))?;
    let number = |at: usize| {
        u64::from(u32::from_be_bytes([places[at], places[at + 1], places[at + 2], places[at + 3]]))
    };
    let (width, height) = (number(0), number(4));
    check_size(width, height, how.max_pixels)?;
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

fn open_pnm(bytes: &[u8]) -> Result<PnmDecoder<Bytes<'_>>, Unreadable> {
    PnmDecoder::new(Cursor::new(bytes)).map_err(Unreadable::because)
}

pub(super) fn header_of(
    decoder: &mut impl ImageDecoder,
    how: Decoding,
) -> Result<Header, Unreadable> {
    let (width, height) = decoder.dimensions();
    let size = check_size(u64::from(width), u64::from(height), how.max_pixels)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let is_deep = decoder.color_type().bytes_per_pixel() > decoder.color_type().channel_count();
    Ok(Header { is_deep, ..Header::of_bytes(size, orientation) })
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

/// Samples of 8 bits as RGB. Transparency is dropped, not blended: the colors as stored.
pub(super) fn pixels(image: DynamicImage) -> Result<Vec<u8>, Unreadable> {
    Ok(match image {
        DynamicImage::ImageLuma8(image) => spread(image.into_raw().into_iter()),
        DynamicImage::ImageLumaA8(image) => {
            spread(image.into_raw().chunks_exact(2).map(|pixel| pixel[0]))
        }
        DynamicImage::ImageRgb8(image) => image.into_raw(),
        DynamicImage::ImageRgba8(image) => first_three(&image.into_raw(), 4),
        other => return Err(Unreadable::because(format!("samples of {:?}", other.color()))),
    })
}
