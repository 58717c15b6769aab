//! A fast encoder of lossless WebP (RFC 9649): one fixed set of transforms, and reused buffers.
//!
//! Each pixel is replaced by its difference from the pixel above (in the top row: from the one to
//! its left), then green is subtracted from red and blue. The differences are coded with one
//! Huffman code for each channel, and a run of equal ones as one back-reference to the previous
//! pixel. The codes are built from a part of the pixels. The `image-webp` crate writes the same kind of stream; this encoder takes fewer passes
//! and allocates nothing.

mod bits;
mod encoder;
mod header;
mod huffman;

pub(crate) use encoder::WebpEncoder;
