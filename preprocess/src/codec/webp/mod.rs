//! Encodes views as lossless WebP (RFC 9649), made for speed: one fixed set of transforms, and buffers that are kept.
//!
//! Each pixel becomes its difference from the pixel above (in the top row: from the one to its left), red and blue less
//! green; the differences are coded with one Huffman code a channel, and a run of equal ones is one reference to the
//! pixel before. The `image-webp` crate writes the same kind of stream; this takes fewer passes and no new memory.

mod bits;
mod encoder;
mod header;
mod huffman;

pub(crate) use encoder::WebpEncoder;
