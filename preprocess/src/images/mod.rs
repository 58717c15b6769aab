//! A file's bytes to RGB pixels, as Pillow's `Image.open(…).convert("RGB")` gives them, except that
//! samples of more than 8 bits become levels as [`Levels`](scrl_schemas::Levels) say.
//!
//! The content decides which decoder is used; the file's name plays no part. Whatever is wrong with
//! a file becomes an [`Unreadable`] with a reason: a damaged image never stops a run. No file takes
//! more memory than [`MAX_BYTES_PER_PIXEL`] for each pixel its header promises, [`SPARE_BYTES`] and
//! a few times its own length.
//!
//! One module a family of formats: `jpeg`, `raster` for PNG and PNM, `bmp`, `webp`, `tiff`, `gif`;
//! `levels` is for samples of more than 8 bits, `unsupported` names the kinds that are not read, and
//! `guard` stands around all of them.

mod bmp;
mod decode;
mod gif;
mod guard;
mod jpeg;
mod levels;
mod options;
mod raster;
mod rgb_image;
mod tiff;
pub(crate) mod unsupported;
mod webp;

pub(crate) use decode::recognize;
pub use decode::{Decoding, decode, decode_view, read_header, read_size, sample_values};
pub use levels::SampledValues;
pub use options::PixelOptions;
pub use rgb_image::{
    Header, ImageSize, MAX_BYTES_PER_PIXEL, MAX_SOURCE_BYTES, MAX_SOURCE_PIXELS, RgbImage,
    SPARE_BYTES, Unreadable,
};
