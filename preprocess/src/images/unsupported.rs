//! Files that hold pictures of a kind that is not read, and how to make images of them.

/// A kind of file that is not read.
pub(crate) struct Kind {
    pub name: &'static str,
    endings: &'static [&'static str],
    /// What to do with such files, and with what.
    verb: &'static str,
    how: &'static str,
}

impl Kind {
    /// What to do with files of this kind: with `them`, or with `it`.
    pub fn advice(&self, them: &str) -> String {
        format!("{} {them} ({})", self.verb, self.how)
    }
}

const fn kind(
    name: &'static str,
    endings: &'static [&'static str],
    verb: &'static str,
    how: &'static str,
) -> Kind {
    Kind { name, endings, verb, how }
}

const HEIC: Kind =
    kind("HEIC", &["heic", "heif", "hif"], "convert", "e.g. with heif-convert or ImageMagick");
const AVIF: Kind = kind("AVIF", &["avif"], "convert", "e.g. with avifdec or ImageMagick");
const JPEG_XL: Kind = kind("JPEG XL", &["jxl"], "convert", "e.g. with djxl or ImageMagick");
const JPEG_2000: Kind = kind(
    "JPEG 2000",
    &["jp2", "j2k", "j2c", "jpx", "jpf"],
    "convert",
    "e.g. with opj_decompress or ImageMagick",
);
const RAW: Kind = kind(
    "camera raw",
    &["dng", "cr2", "cr3", "nef", "arw", "raf", "rw2", "orf", "pef", "srw"],
    "develop",
    "e.g. with dcraw -T or darktable-cli",
);
const DICOM: Kind =
    kind("DICOM", &["dcm", "dicom"], "convert", "e.g. to 16-bit TIFF or PNG with dcm2pnm");
const NIFTI: Kind = kind(
    "NIfTI",
    &["nii", "nii.gz", "mha", "mhd", "nrrd"],
    "write the slices of",
    "as PNG or TIFF, e.g. with nibabel or SimpleITK",
);
const ARRAY: Kind = kind(
    "NumPy array",
    &["npy", "npz", "mat", "h5", "hdf5", "pt", "pkl"],
    "write the images of",
    "as PNG or TIFF, e.g. with Pillow",
);
const SVG: Kind = kind("SVG", &["svg", "svgz"], "render", "e.g. with rsvg-convert");
const PDF: Kind = kind("PDF", &["pdf"], "render the pages of", "e.g. with pdftoppm -png");
const PSD: Kind = kind("Photoshop", &["psd", "psb"], "convert", "e.g. with ImageMagick");
const HDR: Kind = kind("HDR", &["exr", "hdr"], "tone-map", "e.g. with ImageMagick, to PNG or TIFF");
const SLIDE: Kind = kind(
    "whole-slide image",
    &["svs", "ndpi", "mrxs", "scn", "vsi", "czi", "nd2", "lif"],
    "cut tiles from",
    "e.g. with OpenSlide or Bio-Formats",
);
const VIDEO: Kind = kind(
    "video",
    &["mp4", "m4v", "mov", "avi", "mkv", "webm", "mpg", "mpeg", "wmv"],
    "extract the frames of",
    "e.g. ffmpeg -i VIDEO -vf fps=1 FRAMES/%06d.png",
);
const RARE: Kind = kind(
    "rare image",
    &["tga", "ico", "pcx", "dds", "qoi", "pam", "sgi", "xcf", "fits"],
    "convert",
    "e.g. with ImageMagick",
);
const RECORDS: Kind = kind(
    "records",
    &["tfrecord", "tfrecords", "rec", "mdb", "beton", "arrow"],
    "write the images of",
    "as files, or as tar or Parquet, with the library that made them",
);

const KINDS: [Kind; 16] = [
    HEIC, AVIF, JPEG_XL, JPEG_2000, RAW, DICOM, NIFTI, ARRAY, SVG, PDF, PSD, HDR, SLIDE, VIDEO,
    RARE, RECORDS,
];

/// The kind of files with this ending, which is in lower case.
pub(crate) fn by_ending(ending: &str) -> Option<Kind> {
    KINDS.into_iter().find(|kind| kind.endings.contains(&ending))
}

/// Why a file that begins with these bytes is no image, if they show it.
pub(crate) fn reason(bytes: &[u8]) -> Option<String> {
    let text = bytes.trim_ascii_start();
    let begins = |with: &str| {
        text.get(..with.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(with.as_bytes()))
    };
    if begins("<!doctype html") || begins("<html") {
        return Some("a web page, not an image: fetch the image again".to_owned());
    }
    if begins("version https://git-lfs") {
        return Some("a pointer of Git LFS: fetch the image with git lfs pull".to_owned());
    }
    let kind = by_content(bytes)?;
    Some(format!("{}: {}", kind.name, kind.advice("it")))
}

fn by_content(bytes: &[u8]) -> Option<Kind> {
    if bytes.get(4..8) == Some(b"ftyp") {
        return Some(by_brands(bytes));
    }
    let signatures: [(usize, &[u8], Kind); 13] = [
        (0, b"\xFF\x0A", JPEG_XL),
        (0, b"\0\0\0\x0CJXL \r\n\x87\n", JPEG_XL),
        (0, b"\0\0\0\x0CjP  \r\n\x87\n", JPEG_2000),
        (0, b"\xFF\x4F\xFF\x51", JPEG_2000),
        (128, b"DICM", DICOM),
        (0, b"\x93NUMPY", ARRAY),
        (0, b"%PDF", PDF),
        (0, b"8BPS", PSD),
        (0, b"v/1\x01", HDR),
        (0, b"#?RADIANCE", HDR),
        (0, b"\x1A\x45\xDF\xA3", VIDEO),
        (8, b"AVI ", VIDEO),
        (0, b"<svg", SVG),
    ];
    let is_there = |at: usize, signature: &[u8]| {
        bytes.get(at..).is_some_and(|bytes| bytes.starts_with(signature))
    };
    signatures.into_iter().find(|(at, signature, _)| is_there(*at, signature)).map(|it| it.2)
}

/// The kind of an ISO media file: its first box lists brands, the major one first, then a version
/// and the compatible ones.
fn by_brands(bytes: &[u8]) -> Kind {
    let size = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
    let brands = bytes[8..bytes.len().min(size.max(8))].chunks_exact(4);
    let kind = brands.filter_map(|brand| match brand {
        b"avif" | b"avis" => Some(AVIF),
        b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" => Some(HEIC),
        b"crx " => Some(RAW),
        _ => None,
    });
    let is_image = matches!(bytes.get(8..12), Some(b"mif1" | b"msf1"));
    kind.into_iter().next().unwrap_or(if is_image { HEIC } else { VIDEO })
}

#[cfg(test)]
mod tests {
    use scrl_schemas::Exif;

    use super::super::read_size;
    use super::*;

    #[test]
    fn kinds_that_are_not_read_are_named_with_what_to_do() {
        let dicom = [&[0; 128][..], b"DICM"].concat();
        let cases: [(&[u8], &str); 17] = [
            (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC: convert it (e.g. with heif-convert"),
            (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heix", "HEIC: "),
            (b"\0\0\0\x14ftypmif1\0\0\0\0miaf", "HEIC: "),
            (b"\0\0\0\x18ftypmif1\0\0\0\0avifmif1", "AVIF: "),
            (b"\0\0\0\x14ftypavif\0\0\0\0mif1", "AVIF: convert it (e.g. with avifdec"),
            (b"\0\0\0\x14ftypcrx \0\0\0\x01crx ", "camera raw: develop it"),
            (b"\0\0\0\x14ftypisom\0\0\0\x01mp41", "video: extract the frames of it"),
            (b"\xFF\x0A\xFA\x1F", "JPEG XL: "),
            (b"\0\0\0\x0CJXL \r\n\x87\n\0\0", "JPEG XL: "),
            (b"\0\0\0\x0CjP  \r\n\x87\n\0\0", "JPEG 2000: "),
            (&dicom, "DICOM: "),
            (b"#?RADIANCE\n", "HDR: tone-map it"),
            (b"%PDF-1.7", "PDF: "),
            (b"RIFF\x10\0\0\0AVI LIST", "video: "),
            (b"\n<!DOCTYPE HTML><html>", "a web page"),
            (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
            (b"hello", "not an image of a known kind"),
        ];
        for (bytes, expected) in cases {
            let reason = read_size(bytes, Exif::Ignore).unwrap_err().0;
            assert!(reason.starts_with(expected), "{reason}");
        }
        // However short a file is.
        for length in 0..20 {
            assert!(read_size(&b"\0\0\0\x14ftypmif1\0\0\0\0miaf"[..length], Exif::Ignore).is_err());
        }
    }

    #[test]
    fn each_ending_has_one_kind() {
        let mut endings: Vec<&str> = KINDS.iter().flat_map(|kind| kind.endings).copied().collect();
        let all = endings.len();
        endings.sort_unstable();
        endings.dedup();
        assert_eq!(endings.len(), all);
        assert_eq!(by_ending("heic").unwrap().advice("them"), HEIC.advice("them"));
        assert!(by_ending("jpg").is_none() && by_ending("").is_none());
    }
}
