//! What a directory says of the pixels: their size, their samples, and what these mean.

use image::metadata::Orientation;

use super::directory::Directory;
use crate::images::decode::Decoding;
use crate::images::levels::Scale;
use crate::images::rgb_image::{
    Header, ImageSize, MAX_BYTES_PER_PIXEL, SPARE_BYTES, Unreadable, area, check_size,
};

// Numbers of tags.
const WIDTH: u16 = 256;
const HEIGHT: u16 = 257;
const BITS: u16 = 258;
const COMPRESSION: u16 = 259;
const PHOTOMETRIC: u16 = 262;
const FILL_ORDER: u16 = 266;
const ORIENTATION: u16 = 274;
const SAMPLES: u16 = 277;
const ROWS_PER_STRIP: u16 = 278;
const PLANAR: u16 = 284;
const PREDICTOR: u16 = 317;
const COLOR_MAP: u16 = 320;
const TILE_WIDTH: u16 = 322;
const TILE_HEIGHT: u16 = 323;
const EXTRA_SAMPLES: u16 = 338;
const SAMPLE_FORMAT: u16 = 339;
const SUBSAMPLING: u16 = 530;
const GDAL_NO_DATA: u16 = 42113;

/// The number of a compression that takes no predictor.
const PACK_BITS: u64 = 32_773;

/// Bytes of the decoded image for each pixel.
const BYTES_PER_PIXEL: u64 = 3;

/// How the bytes of a chunk are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    /// What the `tiff` crate unpacks, by its number.
    Packed(u64),
    Zstandard,
    /// CCITT group 4.
    Fax,
    Jpeg,
}

/// What a sample is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    Unsigned,
    Signed,
    Float,
}

/// What the samples of a pixel mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Colors {
    Gray { inverted: bool },
    Rgb,
    Cmyk,
    YCbCr,
    Palette(Vec<[u8; 3]>),
}

impl Colors {
    /// How many samples make a color.
    pub fn samples(&self) -> usize {
        match self {
            Self::Gray { .. } | Self::Palette(_) => 1,
            Self::Rgb | Self::YCbCr => 3,
            Self::Cmyk => 4,
        }
    }
}

/// All that is needed to read the chunks: strips, or tiles.
pub(super) struct Layout<'a> {
    pub directory: Directory<'a>,
    pub header: Header,
    pub colors: Colors,
    /// Samples of a pixel in the file.
    pub samples: usize,
    /// Whether colors were multiplied by the opacity that follows them.
    pub is_premultiplied: bool,
    pub bits: usize,
    pub number: Number,
    /// Whether each sample has chunks of its own.
    pub is_planar: bool,
    pub compression: Compression,
    /// 1 for none, 2 for differences, 3 for differences of the bytes of floats.
    pub predictor: u64,
    pub bits_are_reversed: bool,
    /// Luma samples that share their chroma, from left to right and from top to bottom.
    pub subsampling: [usize; 2],
    /// Width and height of a chunk in pixels.
    pub chunk: [usize; 2],
    pub is_tiled: bool,
    /// The value that stands for no data.
    pub no_data: Option<f64>,
}

impl<'a> Layout<'a> {
    pub fn open(bytes: &'a [u8], how: Decoding) -> Result<Self, Unreadable> {
        let directory = Directory::open(bytes)?;
        let number = |tag, default| -> Result<u64, Unreadable> {
            Ok(directory.number(tag)?.unwrap_or(default))
        };
        let [width, height] = [number(WIDTH, 0)?, number(HEIGHT, 0)?];
        let size = check_size(width, height, how.max_pixels)?;
        let compression = match directory.number(COMPRESSION)?.unwrap_or(1) {
            1 => Compression::None,
            4 => Compression::Fax,
            7 => Compression::Jpeg,
            50_000 => Compression::Zstandard,
            packed @ (5 | 8 | PACK_BITS | 32_946) => Compression::Packed(packed),
            other => return Err(unsupported(&compression_name(other))),
        };
        let samples = number(SAMPLES, 1)? as usize;
        let bits = directory.same(BITS)?.unwrap_or(1) as usize;
        let kind = match directory.same(SAMPLE_FORMAT)?.unwrap_or(1) {
            1 | 4 => Number::Unsigned,
            2 => Number::Signed,
            3 => Number::Float,
            _ => return Err(unsupported("a complex number")),
        };
        let known = match kind {
            Number::Unsigned => matches!(bits, 1..=16 | 24 | 32 | 64),
            Number::Signed => matches!(bits, 8 | 16 | 32 | 64),
            Number::Float => matches!(bits, 16 | 32 | 64),
        };
        if !known || !(1..=usize::from(u16::MAX)).contains(&samples) {
            return Err(unsupported(&format!("{samples} samples of {bits} bits a pixel")));
        }
        let extra = directory.number(EXTRA_SAMPLES)?;
        let has_opacity = matches!(extra, Some(1 | 2));
        let photometric = number(PHOTOMETRIC, 0)?;
        let colors = match (photometric, samples) {
            (0 | 1, 1 | 2) => Colors::Gray { inverted: photometric == 0 },
            (0 | 1, _) if has_opacity => Colors::Gray { inverted: photometric == 0 },
            // Of bands without a meaning the first three.
            (0..=2, 3..) => Colors::Rgb,
            (3, _) if kind == Number::Unsigned => Colors::Palette(palette(&directory, bits)?),
            (5, 4..) => Colors::Cmyk,
            (6, 3..) => Colors::YCbCr,
            (8..=10, _) => return Err(unsupported("CIE Lab")),
            (32_803, _) => return Err(unsupported("the mosaic of a camera's sensor")),
            _ => return Err(unsupported(&format!("{samples} samples of color {photometric}"))),
        };
        let bands = if photometric < 2 && colors == Colors::Rgb { samples as u16 } else { 0 };
        let is_byte = kind == Number::Unsigned && bits == 8;
        if (colors == Colors::YCbCr || compression == Compression::Jpeg) && !is_byte {
            return Err(unsupported("YCbCr or JPEG of other than 8 bits"));
        }
        let is_planar = number(PLANAR, 1)? == 2 && samples > 1;
        // A JPEG's own decoder makes RGB of it.
        let is_plain = colors != Colors::YCbCr || compression == Compression::Jpeg;
        let subsampling = match directory.field(SUBSAMPLING)? {
            _ if is_plain => [1, 1],
            Some(field) => [field.get(0), field.get(1)].map(|by| by.unwrap_or(1) as usize),
            None => [2, 2],
        };
        if subsampling.iter().any(|by| !matches!(by, 1 | 2 | 4))
            || (subsampling != [1, 1] && (is_planar || samples != 3))
        {
            return Err(unsupported("this subsampling of chroma"));
        }
        let predictor = match compression {
            Compression::Zstandard => number(PREDICTOR, 1)?,
            Compression::Packed(packed) if packed != PACK_BITS => number(PREDICTOR, 1)?,
            _ => 1,
        };
        let fits = match predictor {
            1 => true,
            2 => matches!(bits, 8 | 16 | 32 | 64) && subsampling == [1, 1],
            3 => kind == Number::Float,
            _ => false,
        };
        if !fits {
            return Err(unsupported(&format!("predictor {predictor} for {bits} bits")));
        }
        let orientation = u8::try_from(number(ORIENTATION, 1)?).ok();
        let orientation = orientation.and_then(Orientation::from_exif);
        // Levels of a window are no fractions of an opacity.
        let is_deep = kind != Number::Unsigned || bits > 8;
        let has_window = is_deep && how.window.is_some();
        let is_tiled = directory.field(TILE_WIDTH)?.is_some();
        let chunk = match is_tiled {
            true => [number(TILE_WIDTH, 0)?, number(TILE_HEIGHT, 0)?],
            false => [width, number(ROWS_PER_STRIP, height)?.min(height)],
        };
        let layout = Self {
            directory,
            header: Header {
                is_deep,
                bands: if bands > 3 { bands } else { 0 },
                ..Header::of_bytes(size, orientation.unwrap_or(Orientation::NoTransforms))
            },
            is_premultiplied: extra == Some(1) && samples > colors.samples() && !has_window,
            colors,
            samples,
            bits,
            number: kind,
            is_planar,
            compression,
            predictor,
            bits_are_reversed: number(FILL_ORDER, 1)? == 2,
            subsampling,
            chunk: chunk.map(|side| side as usize),
            is_tiled,
            no_data: no_data(&directory)?,
        };
        layout.check_chunk(chunk)?;
        if how.window.is_none() && layout.largest().is_none() {
            return Err(Unreadable(format!(
                "TIFF: {} samples need --levels MIN..MAX or auto",
                layout.kind()
            )));
        }
        Ok(layout)
    }

    /// Refuses chunks without pixels, and those that take more memory than an image may.
    fn check_chunk(&self, [width, height]: [u64; 2]) -> Result<(), Unreadable> {
        if width == 0 || height == 0 {
            return Err(Unreadable::because("TIFF: strips or tiles without pixels"));
        }
        let pixels = area(self.header.size) as u64;
        if width.saturating_mul(height) > pixels + SPARE_BYTES / 16 {
            // To skip what is beyond the image would take for ever.
            return Err(Unreadable::because("TIFF: tiles far larger than the image"));
        }
        let samples = if self.is_planar { self.used() } else { self.samples } as u64;
        let bytes = (width * self.bits as u64).div_ceil(8) * samples * height;
        if bytes > pixels * (MAX_BYTES_PER_PIXEL - BYTES_PER_PIXEL) + SPARE_BYTES / 2 {
            let what = if self.is_tiled { "tiles" } else { "strips" };
            let reason = format!("TIFF: {what} of {} MiB; write smaller ones", bytes >> 20);
            return Err(Unreadable(reason));
        }
        Ok(())
    }

    pub fn size(&self) -> ImageSize {
        self.header.size
    }

    /// The first samples of a pixel, which are read: those of the color, and the opacity if that
    /// has to be undone.
    pub fn used(&self) -> usize {
        self.colors.samples() + usize::from(self.is_premultiplied)
    }

    /// The largest value of a sample; `None` where the type's range says nothing about the values.
    pub fn largest(&self) -> Option<f64> {
        let has_range = self.number == Number::Unsigned && self.bits <= 16;
        has_range.then(|| f64::from((1u32 << self.bits) - 1))
    }

    /// The values that become 0 and 255, of samples of more than 8 bits.
    pub fn scale(&self, how: Decoding) -> Scale {
        Scale::new(how.window, self.largest().unwrap_or(1.0))
    }

    /// The type of the samples, such as `float32`.
    fn kind(&self) -> String {
        let name = match self.number {
            Number::Unsigned => "uint",
            Number::Signed => "int",
            Number::Float => "float",
        };
        format!("{name}{}", self.bits)
    }

    /// Whether a value is one.
    pub fn is_data(&self, value: f64) -> bool {
        // GDAL writes the number with more digits than a float has.
        let is_single = self.number == Number::Float && self.bits == 32;
        let stands_for_none = |none: f64| match is_single {
            true => value as f32 == none as f32,
            false => value == none,
        };
        !value.is_nan() && !self.no_data.is_some_and(stands_for_none)
    }
}

/// Colors of so many bits, of which the upper eight count.
fn palette(directory: &Directory, bits: usize) -> Result<Vec<[u8; 3]>, Unreadable> {
    let field = directory.field(COLOR_MAP)?;
    let count = 1usize << bits.min(16);
    match field.filter(|field| bits <= 8 && field.count >= 3 * count) {
        Some(field) => Ok((0..count)
            .map(|index| {
                [0, 1, 2].map(|color| (field.get(color * count + index).unwrap_or(0) >> 8) as u8)
            })
            .collect()),
        None => Err(unsupported("a palette without its colors")),
    }
}

fn no_data(directory: &Directory) -> Result<Option<f64>, Unreadable> {
    let Some(field) = directory.field(GDAL_NO_DATA)? else { return Ok(None) };
    let text = String::from_utf8_lossy(&field.bytes()[..field.bytes().len().min(64)]);
    Ok(text.trim_matches(['\0', ' ']).parse().ok())
}

fn compression_name(number: u64) -> String {
    let name = match number {
        2 | 3 => "CCITT group 3",
        6 => "old-style JPEG",
        34_712 | 33_003 | 33_005 => "JPEG 2000",
        34_887 => "LERC",
        34_925 => "LZMA",
        50_001 => "WebP",
        50_002 | 52_546 => "JPEG XL",
        _ => return format!("compression {number}"),
    };
    format!("{name} compression")
}

pub(super) fn unsupported(what: &str) -> Unreadable {
    Unreadable::because(format!("TIFF: {what} is not supported"))
}
