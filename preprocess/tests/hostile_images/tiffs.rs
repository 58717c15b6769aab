//! TIFFs and BigTIFFs whose directories promise what is not there.

use super::Fate::{self, Read, Refused};
use super::{bomb, golden};

/// A little-endian TIFF of one directory from its entries: tag, type, count, value; then the next
/// directory's place.
fn tiff(entries: &[(u16, u16, u32, u32)], next: u32) -> Vec<u8> {
    let mut bytes = b"II*\0\x08\0\0\0".to_vec();
    bytes.extend((entries.len() as u16).to_le_bytes());
    for (tag, kind, count, value) in entries {
        bytes.extend(tag.to_le_bytes().iter().chain(&kind.to_le_bytes()));
        bytes.extend(count.to_le_bytes().iter().chain(&value.to_le_bytes()));
    }
    bytes.extend(next.to_le_bytes());
    bytes.resize(bytes.len() + 400, 7);
    bytes
}

/// Entries of a gray image of 8 bits in one strip that begins at 8.
fn gray(width: u32, height: u32, strip_bytes: u32) -> Vec<(u16, u16, u32, u32)> {
    vec![
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
        (277, 3, 1, 1),
        (278, 4, 1, height),
        (279, 4, 1, strip_bytes),
    ]
}

/// The same in tiles of this width.
fn tiled(width: u32) -> Vec<u8> {
    let mut entries = gray(10, 10, 100);
    entries.retain(|entry| !matches!(entry.0, 273 | 278 | 279));
    entries.extend([(322, 4, 1, width), (323, 4, 1, 16), (324, 4, 1, 8), (325, 4, 1, 100)]);
    tiff(&entries, 0)
}

fn changed(entries: Vec<(u16, u16, u32, u32)>, changes: &[(u16, u16, u32, u32)]) -> Vec<u8> {
    tiff(&with(entries, changes), 0)
}

/// The same as a BigTIFF: tag, type, count, value.
fn big(entries: &[(u16, u16, u64, u64)], count: u64) -> Vec<u8> {
    let mut bytes = b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0".to_vec();
    bytes.extend(count.to_le_bytes());
    for (tag, kind, count, value) in entries {
        bytes.extend(tag.to_le_bytes().iter().chain(&kind.to_le_bytes()));
        bytes.extend(count.to_le_bytes().iter().chain(&value.to_le_bytes()));
    }
    bytes.resize(bytes.len() + 400, 7);
    bytes
}

/// A BigTIFF of a gray image of 10×10 pixels with other entries.
fn big_gray(changes: &[(u16, u16, u64, u64)]) -> Vec<u8> {
    let wide = |&(tag, kind, count, value): &(u16, u16, u32, u32)| {
        (tag, kind, u64::from(count), u64::from(value))
    };
    let mut entries: Vec<(u16, u16, u64, u64)> = gray(10, 10, 100).iter().map(wide).collect();
    for change in changes {
        entries.retain(|entry| entry.0 != change.0);
        entries.push(*change);
    }
    let count = entries.len() as u64;
    big(&entries, count)
}

/// An image of one strip or tile of data behind its directory.
fn packed(mut entries: Vec<(u16, u16, u32, u32)>, data: &[u8]) -> Vec<u8> {
    let start = tiff(&entries, 0).len() as u32;
    for entry in &mut entries {
        match entry.0 {
            273 | 324 => entry.3 = start,
            279 | 325 => entry.3 = data.len() as u32,
            _ => {}
        }
    }
    [tiff(&entries, 0), data.to_vec()].concat()
}

fn with(
    mut entries: Vec<(u16, u16, u32, u32)>,
    changes: &[(u16, u16, u32, u32)],
) -> Vec<(u16, u16, u32, u32)> {
    for change in changes {
        entries.retain(|entry| entry.0 != change.0);
        entries.push(*change);
    }
    entries.sort_unstable();
    entries
}

pub(super) fn tiffs() -> Vec<(&'static str, Vec<u8>, Fate)> {
    let bomb = bomb();
    let deflate = (259, 3, 1, 8);
    let jpeg = |width: u32, height: u32| {
        let file = golden("420.jpg");
        let entries = with(
            gray(width, height, 0),
            &[(259, 3, 1, 7), (262, 3, 1, 6), (277, 3, 1, 3), (258, 3, 1, 8)],
        );
        packed(entries, &file)
    };
    vec![
        ("TIFF of 60000×60000", tiff(&gray(60_000, 60_000, 100), 0), Refused("million")),
        ("TIFF of 13000×13000", tiff(&gray(13_000, 13_000, 100), 0), Refused("TIFF")),
        ("TIFF without a size", tiff(&gray(0, 5, 100), 0), Refused("TIFF")),
        ("TIFF", tiff(&gray(10, 10, 100), 0), Read),
        ("TIFF whose directory comes again", tiff(&gray(10, 10, 100), 8), Read),
        ("TIFF of a strip of 4 GB", tiff(&gray(10, 10, u32::MAX), 0), Read),
        (
            "TIFF of 4 billion strips",
            changed(gray(10, 10, 100), &[(273, 4, u32::MAX, 8), (279, 4, u32::MAX, 8)]),
            Refused("TIFF"),
        ),
        (
            "TIFF of 60 million strips",
            changed(
                gray(1, 60_000_000, 100),
                &[(273, 4, 60_000_000, 8), (279, 4, 60_000_000, 8), (278, 3, 1, 1)],
            ),
            Refused("TIFF"),
        ),
        ("TIFF of a tile of 4 billion columns", tiled(u32::MAX - 15), Refused("tiles")),
        (
            "TIFF of 67 million widths",
            changed(gray(10, 10, 100), &[(256, 4, 1 << 26, 8)]),
            Refused("promises"),
        ),
        (
            "TIFF of 65535 samples",
            changed(gray(10, 10, 100), &[(277, 3, 1, 65_535)]),
            Refused("TIFF"),
        ),
        ("TIFF of 64 bits", changed(gray(2, 2, 100), &[(258, 3, 1, 64)]), Read),
        ("TIFF of 65 bits", changed(gray(2, 2, 100), &[(258, 3, 1, 65)]), Refused("TIFF")),
        (
            "TIFF of a palette without colors",
            changed(gray(10, 10, 100), &[(262, 3, 1, 3)]),
            Refused("TIFF"),
        ),
        ("BigTIFF", big_gray(&[]), Read),
        ("BigTIFF of 2⁶⁴ entries", big(&[], u64::MAX), Refused("too soon")),
        ("BigTIFF of 2⁶⁰ columns", big_gray(&[(256, 16, 1, 1 << 60)]), Refused("million")),
        ("BigTIFF of 2⁶¹ strips", big_gray(&[(273, 16, 1 << 61, 8)]), Refused("promises")),
        ("BigTIFF of 2⁶⁴ bits", big_gray(&[(258, 3, u64::MAX, 8)]), Refused("promises")),
        ("BigTIFF with values at 2⁶⁴", big_gray(&[(258, 3, 5, u64::MAX)]), Refused("too soon")),
        ("BigTIFF with a strip at 2⁶⁴", big_gray(&[(273, 16, 1, u64::MAX)]), Refused("too soon")),
        ("BigTIFF of 2⁶⁴ samples", big_gray(&[(277, 16, 1, u64::MAX)]), Refused("samples")),
        ("BigTIFF of a strip of 2⁶⁴ rows", big_gray(&[(278, 16, 1, u64::MAX)]), Read),
        ("BigTIFF of strips of no rows", big_gray(&[(278, 16, 1, 0)]), Refused("without pixels")),
        ("BigTIFF without data", big_gray(&[(273, 16, 1, 0), (279, 16, 1, 0)]), Refused("empty")),
        (
            "BigTIFF of a tile of 2⁶⁴ columns",
            big_gray(&[(322, 16, 1, u64::MAX), (323, 16, 1, u64::MAX)]),
            Refused("tiles"),
        ),
        ("TIFF of a bomb", packed(with(gray(10, 10, 0), &[deflate]), &bomb), Read),
        ("TIFF of a bomb of its size", packed(with(gray(4000, 4000, 0), &[deflate]), &bomb), Read),
        (
            "TIFF of a bomb that is too short",
            packed(with(gray(12_000, 12_000, 0), &[deflate, (258, 3, 1, 64)]), &bomb),
            Refused("TIFF"),
        ),
        (
            "TIFF of a strip of 600 MB",
            packed(
                with(
                    gray(5000, 5000, 0),
                    &[deflate, (258, 3, 1, 64), (277, 3, 1, 3), (262, 3, 1, 2)],
                ),
                &bomb,
            ),
            Refused("write smaller ones"),
        ),
        (
            "TIFF of 65535 planes",
            changed(gray(10, 10, 100), &[(277, 3, 1, 65_535), (284, 3, 1, 2)]),
            Refused("too few"),
        ),
        ("TIFF of a JPEG", jpeg(37, 29), Read),
        ("TIFF of a JPEG of other size", jpeg(12_000, 12_000), Refused("of other size")),
        ("TIFF of a JPEG that is larger", jpeg(36, 29), Refused("of other size")),
        (
            "TIFF of JPEG tables of one byte",
            changed(gray(10, 10, 100), &[(259, 3, 1, 7), (347, 7, 1, 0)]),
            Refused("TIFF"),
        ),
        (
            "TIFF of luma alone",
            changed(gray(10, 10, 100), &[(262, 3, 1, 6)]),
            Refused("not supported"),
        ),
        (
            "TIFF of chroma sampled by 0",
            changed(gray(10, 10, 100), &[(262, 3, 1, 6), (277, 3, 1, 3), (530, 3, 2, 0)]),
            Refused("subsampling"),
        ),
        (
            "TIFF of chroma sampled by 4",
            changed(gray(10, 10, 100), &[(262, 3, 1, 6), (277, 3, 1, 3), (530, 3, 2, 0x4_0004)]),
            Read,
        ),
        (
            "TIFF of a predictor of floats for bytes",
            changed(gray(10, 10, 100), &[(259, 3, 1, 5), (317, 3, 1, 3)]),
            Refused("predictor 3"),
        ),
        (
            "TIFF of a fax of 70000 columns",
            packed(with(gray(70_000, 10, 0), &[(258, 3, 1, 1), (259, 3, 1, 4)]), &bomb[..1000]),
            Refused("TIFF"),
        ),
        (
            "TIFF of samples of several kinds",
            changed(gray(10, 10, 100), &[(277, 3, 1, 2), (258, 3, 2, 0x8_0010)]),
            Refused("several kinds"),
        ),
        (
            "TIFF of complex numbers",
            changed(gray(10, 10, 100), &[(258, 3, 1, 64), (339, 3, 1, 6)]),
            Refused("complex"),
        ),
    ]
}
