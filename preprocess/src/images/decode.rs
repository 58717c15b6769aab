//! The decoder for each format, and EXIF orientation.

use image::metadata::Orientation;
use image::{DynamicImage, ImageFormat};
use scrl_schemas::{Exif, Levels, PrepOptions};

use super::levels::SampledValues;
use super::rgb_image::{Header, ImageSize, MAX_SOURCE_PIXELS, RgbImage, Unreadable};
use super::{bmp, gif, guard, jpeg, raster, tiff, unsupported, webp};

/// How images are decoded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decoding {
    /// Whether EXIF orientation turns the image.
    pub exif: Exif,
    /// Whether what a decoder makes of broken data is an image.
    pub lenient: bool,
    /// The values that become the levels 0 and 255, of samples with more than 8 bits; `None` for
    /// their whole range, which floats and numbers with a sign do not have.
    pub window: Option<[f64; 2]>,
    /// The most pixels of an image.
    pub max_pixels: u64,
}

/// Stands for a window of [`Levels::Auto`] that is not known yet: which images can be read does not
/// depend on it.
const ANY_WINDOW: [f64; 2] = [0.0, 65_535.0];

impl Decoding {
    /// Of images as they are stored, with these levels and the window of [`Levels::Auto`].
    pub fn new(levels: Levels, window: Option<[f64; 2]>, max_pixels: Option<u64>) -> Self {
        let window = match levels {
            Levels::Full => None,
            Levels::Window(window) => Some(window),
            Levels::Auto => Some(window.unwrap_or(ANY_WINDOW)),
        };
        let max_pixels = max_pixels.unwrap_or(MAX_SOURCE_PIXELS);
        Self { exif: Exif::Ignore, lenient: false, window, max_pixels }
    }
}

impl From<Exif> for Decoding {
    fn from(exif: Exif) -> Self {
        Self { exif, ..Self::new(Levels::Full, None, None) }
    }
}

impl From<&PrepOptions> for Decoding {
    fn from(options: &PrepOptions) -> Self {
        let PrepOptions { exif, lenient, levels, window, max_pixels, .. } = *options;
        Self { exif, lenient, ..Self::new(levels, window, max_pixels) }
    }
}

/// Reads the header from a file's first bytes or all of them, and refuses what [`decode`] would
/// refuse for its size or kind. With [`Exif::Apply`], the size is that after turning.
///
/// # Errors
/// [`Unreadable`] where the header is damaged, unknown or promises too many pixels.
pub fn read_header(bytes: &[u8], how: impl Into<Decoding>) -> Result<Header, Unreadable> {
    let how = how.into();
    let format = recognize(bytes)?;
    let mut header = guard::quietly(|| match format {
        ImageFormat::Jpeg => jpeg::header(bytes, how),
        ImageFormat::WebP => webp::header(bytes, how),
        ImageFormat::Tiff => tiff::header(bytes, how),
        ImageFormat::Gif => gif::header(bytes, how),
        ImageFormat::Bmp => bmp::header(bytes, how),
        format => raster::header(bytes, format, how),
    })
    .map_err(|reason| reason.of(format))?;
    if how.exif == Exif::Apply && header.orientation.to_exif() >= 5 {
        let ImageSize { width, height } = header.size;
        header.size = ImageSize { width: height, height: width };
    }
    Ok(header)
}

/// The size in the header; see [`read_header`].
///
/// # Errors
/// As [`read_header`].
pub fn read_size(bytes: &[u8], how: impl Into<Decoding>) -> Result<ImageSize, Unreadable> {
    read_header(bytes, how).map(|header| header.size)
}

/// Decodes an image whole.
///
/// # Errors
/// [`Unreadable`] with the reason where the file is damaged, cut short, of an unknown kind or too
/// large, or where its samples need a window.
pub fn decode(bytes: &[u8], how: impl Into<Decoding>) -> Result<RgbImage, Unreadable> {
    let how = how.into();
    let format = recognize(bytes)?;
    let (header, pixels) = guard::quietly(|| match format {
        ImageFormat::Jpeg => jpeg::decode(bytes, how),
        ImageFormat::WebP => webp::decode(bytes, how),
        ImageFormat::Tiff => tiff::decode(bytes, how),
        ImageFormat::Gif => gif::decode(bytes, how),
        ImageFormat::Bmp => bmp::decode(bytes, how),
        format => raster::decode(bytes, format, how),
    })
    .map_err(|reason| reason.of(format))?;
    let image = RgbImage { size: header.size, pixels };
    match how.exif {
        Exif::Ignore => Ok(image),
        Exif::Apply => turn_upright(image, header.orientation),
    }
}

/// Values of an image whose samples have more than 8 bits, to choose a window from; none of other
/// images.
///
/// # Errors
/// As [`decode`], but for samples that need a window.
pub fn sample_values(bytes: &[u8], how: impl Into<Decoding>) -> Result<SampledValues, Unreadable> {
    let how = Decoding { window: Some(ANY_WINDOW), ..how.into() };
    let format = recognize(bytes)?;
    guard::quietly(|| match format {
        ImageFormat::Tiff => tiff::sample_values(bytes, how),
        ImageFormat::Png | ImageFormat::Pnm => raster::sample_values(bytes, format, how),
        _ => Ok(SampledValues::default()),
    })
    .map_err(|reason| reason.of(format))
}

/// Decodes a view of a shard, WebP or JPEG, into `view`, `[size, size, 3]`: the same pixels as from
/// [`decode`], without a copy of them.
///
/// # Errors
/// As [`decode`], and for an image of another size or kind.
pub fn decode_view(bytes: &[u8], size: usize, view: &mut [u8]) -> Result<(), Unreadable> {
    let format = recognize(bytes)?;
    let expected = ImageSize { width: size as i32, height: size as i32 };
    let found = guard::quietly(|| match format {
        ImageFormat::Jpeg => jpeg::decode_view(bytes, expected, view),
        ImageFormat::WebP => webp::decode_view(bytes, expected, view),
        _ => Err(Unreadable::because("a view is WebP or JPEG")),
    })
    .map_err(|reason| reason.of(format))?;
    if found != expected {
        return Err(Unreadable(format!("a view of {}×{} pixels", found.width, found.height)));
    }
    Ok(())
}

/// The format of an image by its first bytes.
///
/// # Errors
/// [`Unreadable`] for any that is not read, with what to do where the kind is known.
pub(crate) fn recognize(bytes: &[u8]) -> Result<ImageFormat, Unreadable> {
    if bytes.is_empty() {
        return Err(Unreadable::because("empty file"));
    }
    if tiff::is_big(bytes) {
        return Ok(ImageFormat::Tiff);
    }
    let unknown = |reason: String| Unreadable(unsupported::reason(bytes).unwrap_or(reason));
    let format = image::guess_format(bytes)
        .map_err(|_| unknown("not an image of a known kind".to_owned()))?;
    match format {
        ImageFormat::Jpeg
        | ImageFormat::Png
        | ImageFormat::WebP
        | ImageFormat::Bmp
        | ImageFormat::Tiff
        | ImageFormat::Gif => Ok(format),
        // Not the seventh kind, PAM.
        ImageFormat::Pnm if bytes[1] <= b'6' => Ok(format),
        other => Err(unknown(format!("{other:?} images are not supported"))),
    }
}

fn turn_upright(image: RgbImage, orientation: Orientation) -> Result<RgbImage, Unreadable> {
    if orientation == Orientation::NoTransforms {
        return Ok(image);
    }
    let (width, height) = (image.size.width as u32, image.size.height as u32);
    let pixels = image::RgbImage::from_raw(width, height, image.pixels)
        .ok_or_else(|| Unreadable::because("size and pixels disagree"))?;
    let mut turned = DynamicImage::ImageRgb8(pixels);
    turned.apply_orientation(orientation);
    let size = ImageSize { width: turned.width() as i32, height: turned.height() as i32 };
    Ok(RgbImage { size, pixels: turned.into_rgb8().into_raw() })
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::path::Path;

    use scrl_schemas::ViewEncoding;

    use super::*;
    use crate::codec::ViewEncoder;

    fn gradient() -> image::RgbImage {
        image::RgbImage::from_fn(37, 23, |x, y| image::Rgb([(x * 6) as u8, (y * 10) as u8, 90]))
    }

    fn encoded(format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        gradient().write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn lossless_kinds_come_back_exactly() {
        for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::WebP] {
            let bytes = encoded(format);
            let size = read_size(&bytes, Exif::Ignore).unwrap();
            assert_eq!((size.width, size.height), (37, 23), "{format:?}");
            let image = decode(&bytes, Exif::Ignore).unwrap();
            assert_eq!(image.pixels, gradient().into_raw(), "{format:?}");
        }
    }

    #[test]
    fn transparency_is_dropped() {
        let mut bytes = Cursor::new(Vec::new());
        let clear = image::RgbaImage::from_pixel(4, 4, image::Rgba([10, 20, 30, 0]));
        clear.write_to(&mut bytes, ImageFormat::Png).unwrap();
        let image = decode(bytes.get_ref(), Exif::Ignore).unwrap();
        assert_eq!(&image.pixels[..3], [10, 20, 30]);
    }

    #[test]
    fn a_jpeg_cut_short_is_refused_whatever_it_lacks() {
        let whole = encoded(ImageFormat::Jpeg);
        assert!(decode(&whole, Exif::Ignore).is_ok());
        for length in [20, whole.len() / 2, whole.len() - 2] {
            let reason = decode(&whole[..length], Exif::Ignore).unwrap_err();
            assert!(reason.0.contains("JPEG"), "{reason}");
        }
    }

    #[test]
    fn lenient_keeps_what_a_decoder_makes_of_an_image_that_breaks_off() {
        let lenient = Decoding { lenient: true, ..Decoding::from(Exif::Ignore) };
        // The first rows of a file: in a BMP those at the bottom.
        for (format, y) in [(ImageFormat::Jpeg, 0), (ImageFormat::Png, 0), (ImageFormat::Bmp, 22)] {
            let whole = encoded(format);
            let image = decode(&whole, Exif::Ignore).unwrap();
            assert_eq!(decode(&whole, lenient).as_ref(), Ok(&image), "{format:?}");
            let cut = &whole[..whole.len() - 60];
            assert!(decode(cut, Exif::Ignore).is_err(), "{format:?}");
            let part = decode(cut, lenient).unwrap();
            assert_eq!(part.size, image.size, "{format:?}");
            let row = y * 37 * 3..(y + 1) * 37 * 3;
            assert!(part.pixels[row.clone()] == image.pixels[row], "{format:?}");
            assert!(part.pixels != image.pixels, "{format:?}");
        }
    }

    #[test]
    fn lenient_reads_no_image_without_a_header() {
        let lenient = Decoding { lenient: true, ..Decoding::from(Exif::Ignore) };
        for bytes in [&b"GIF89a"[..], &encoded(ImageFormat::Jpeg)[..20], b"P6 2 x"] {
            assert!(decode(bytes, lenient).is_err());
        }
    }

    #[test]
    fn nonsense_is_refused_with_a_reason_of_one_line() {
        let mut png = encoded(ImageFormat::Png);
        png.truncate(60);
        for bytes in [&b""[..], b"GIF89a", b"hello, this is text", &png] {
            let reason = decode(bytes, Exif::Ignore).unwrap_err();
            assert!(!reason.0.is_empty() && !reason.0.contains('\n'), "{reason:?}");
        }
    }

    #[test]
    fn a_header_that_promises_too_much_is_refused_before_memory_is_taken() {
        let mut png = encoded(ImageFormat::Png);
        // Width and height of IHDR, then its checksum.
        png[16..24].copy_from_slice(&[0, 0, 0xEA, 0x60, 0, 0, 0xEA, 0x60]);
        let checksum = crc32(&png[12..29]);
        png[29..33].copy_from_slice(&checksum.to_be_bytes());
        let reason = decode(&png, Exif::Ignore).unwrap_err();
        assert!(reason.0.contains("60000×60000"), "{reason}");
        assert_eq!(read_size(&png, Exif::Ignore), Err(reason));
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| {
                (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
            })
        })
    }

    /// A view with edges and some noise.
    fn view(size: usize) -> Vec<u8> {
        let mut noise = 1u32;
        let level = |i: usize| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((i / 3 % size * 7 + i / 700 * 31) as u8) ^ (noise >> 27) as u8
        };
        (0..size * size * 3).map(level).collect()
    }

    fn encoded_view(size: usize, encoding: ViewEncoding, quality: u8) -> Vec<u8> {
        let view = view(size);
        let pixels: Vec<[u8; 4]> = view.chunks(3).map(|p| [p[0], p[1], p[2], 0]).collect();
        let encoded =
            ViewEncoder::default().encode(&pixels, size as u32, encoding, quality, "view");
        encoded.unwrap().unwrap().bytes
    }

    #[test]
    fn views_of_every_size_and_quality_have_the_pixels_of_images() {
        let kinds = [1, 50, 95, 100].map(|quality| (ViewEncoding::Jpeg, quality));
        for size in (1..20).chain([63, 64, 65, 224]) {
            for (encoding, quality) in kinds.into_iter().chain([(ViewEncoding::Webp, 95)]) {
                let name = format!("{encoding}, {size} px, quality {quality}");
                let file = encoded_view(size, encoding, quality);
                let mut pixels = vec![7; size * size * 3];
                assert_eq!(decode_view(&file, size, &mut pixels), Ok(()), "{name}");
                assert!(pixels == decode(&file, Exif::Ignore).unwrap().pixels, "{name}");
                assert!(encoding == ViewEncoding::Jpeg || pixels == view(size), "{name}");
            }
        }
    }

    /// What tests/golden_decode.rs compares with Pillow.
    #[test]
    fn goldens_read_as_views_have_the_pixels_of_images() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/decode");
        let mut compared = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let decode_view = match path.extension().and_then(|ending| ending.to_str()) {
                Some("jpg") => jpeg::decode_view,
                Some("webp") => webp::decode_view,
                _ => continue,
            };
            let file = std::fs::read(&path).unwrap();
            let image = decode(&file, Exif::Ignore).unwrap();
            let mut pixels = vec![7; image.pixels.len()];
            assert_eq!(
                decode_view(&file, image.size, &mut pixels),
                Ok(image.size),
                "{}",
                path.display()
            );
            assert!(pixels == image.pixels, "{}", path.display());
            compared += 1;
        }
        assert!(compared > 40, "{compared} files");
    }

    #[test]
    fn a_view_of_another_size_or_kind_is_refused() {
        let mut pixels = vec![0; 24 * 24 * 3];
        for encoding in [ViewEncoding::Webp, ViewEncoding::Jpeg] {
            let file = encoded_view(16, encoding, 95);
            let reason = decode_view(&file, 24, &mut pixels).unwrap_err();
            assert_eq!(reason.0, "a view of 16×16 pixels");
        }
        let reason = decode_view(&encoded(ImageFormat::Png), 24, &mut pixels).unwrap_err();
        assert_eq!(reason.0, "PNG: a view is WebP or JPEG");
    }

    #[test]
    fn a_damaged_view_is_refused_in_one_line_or_read() {
        let size = 24;
        let mut pixels = vec![0; size * size * 3];
        for encoding in [ViewEncoding::Webp, ViewEncoding::Jpeg] {
            let file = encoded_view(size, encoding, 95);
            let whole = decode(&file, Exif::Ignore).unwrap().pixels;
            for length in 0..file.len() {
                match decode_view(&file[..length], size, &mut pixels) {
                    Ok(()) => assert!(pixels == whole, "{encoding}, {length} bytes"),
                    Err(reason) => {
                        assert!(!reason.0.is_empty() && !reason.0.contains('\n'), "{reason:?}")
                    }
                }
            }
            // Whatever stands in a file, it is read or refused, without a panic.
            for at in 0..file.len() {
                for bit in 0..8 {
                    let mut damaged = file.clone();
                    damaged[at] ^= 1 << bit;
                    if let Err(reason) = decode_view(&damaged, size, &mut pixels) {
                        assert!(
                            !reason.0.contains("the decoder failed"),
                            "{encoding}, byte {at}: {reason}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn exif_turns_only_when_asked() {
        let image =
            RgbImage { size: ImageSize { width: 2, height: 1 }, pixels: vec![1, 1, 1, 2, 2, 2] };
        let turned = turn_upright(image, Orientation::Rotate90).unwrap();
        assert_eq!((turned.size.width, turned.size.height), (1, 2));
        assert_eq!(turned.pixels, [1, 1, 1, 2, 2, 2]);
    }
}
