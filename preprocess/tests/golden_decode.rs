//! Decoded pixels against those of Pillow, which `scripts/make_goldens_decode.py` wrote.

use std::path::{Path, PathBuf};

use scrl_preprocess::images::{Decoding, decode, read_size};
use scrl_schemas::{Exif, Levels};
use serde_json::Value;

/// Largest difference allowed where the kind loses by compression, in levels: mean and maximum. The
/// decoders round differently in the inverse transform and in the step from luma and chroma to RGB,
/// by a level or two; and where chroma has fewer samples, the one interpolates between them up to
/// the edge of the block, the other to the edge of the image.
const LOSSY: (f64, u8) = (1.0, 8);

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/decode")
}

/// How a file of the index is decoded.
fn decoding(entry: &Value) -> Decoding {
    let exif = if entry["exif"].as_bool().unwrap() { Exif::Apply } else { Exif::Ignore };
    let levels = entry
        .get("levels")
        .map_or(Levels::Full, |levels| levels.as_str().unwrap().parse().unwrap());
    Decoding { exif, ..Decoding::new(levels, None, None) }
}

/// The files that are read, or those that are refused.
fn index(refused: bool) -> Vec<Value> {
    let text = std::fs::read_to_string(goldens().join("index.json")).unwrap();
    let mut entries = serde_json::from_str::<Value>(&text).unwrap().as_array().unwrap().clone();
    entries.retain(|entry| entry.get("refused").is_some() == refused);
    entries
}

#[test]
fn kinds_of_tiff_that_are_not_read_are_refused_by_their_name() {
    let entries = index(true);
    assert_eq!(entries.len(), 7);
    for entry in entries {
        let [name, expected] = ["file", "refused"].map(|key| entry[key].as_str().unwrap());
        let bytes = std::fs::read(goldens().join(name)).unwrap();
        let reason = decode(&bytes, Exif::Ignore).unwrap_err();
        assert!(reason.0.contains(expected), "{name}: {reason}");
        assert_eq!(read_size(&bytes, Exif::Ignore), Err(reason), "{name}");
    }
}

#[test]
fn every_kind_gives_the_pixels_that_pillow_gives() {
    let expected = std::fs::read(goldens().join("expected.rgb")).unwrap();
    let mut faults = Vec::new();
    for entry in index(false) {
        let number = |name: &str| entry[name].as_u64().unwrap() as usize;
        let name = entry["file"].as_str().unwrap();
        let how = decoding(&entry);
        let bytes = std::fs::read(goldens().join(name)).unwrap();
        let image = match decode(&bytes, how) {
            Ok(image) => image,
            Err(reason) => {
                faults.push(format!("{name}: {reason}"));
                continue;
            }
        };
        let size = [image.size.width as usize, image.size.height as usize];
        assert_eq!(read_size(&bytes, how), Ok(image.size), "{name}");
        if size != [number("width"), number("height")] {
            faults.push(format!("{name}: {size:?}"));
            continue;
        }
        let expected = &expected[number("at")..][..size[0] * size[1] * 3];
        let differences = || image.pixels.iter().zip(expected).map(|(&a, &b)| a.abs_diff(b));
        let mean = differences().map(f64::from).sum::<f64>() / expected.len() as f64;
        let worst = differences().max().unwrap();
        println!("{name}: mean {mean:.3}, worst {worst}");
        let limit = if entry["lossy"].as_bool().unwrap() { LOSSY } else { (0.0, 0) };
        if mean > limit.0 || worst > limit.1 {
            faults.push(format!("{name}: mean {mean:.3}, worst {worst}"));
        }
    }
    assert!(faults.is_empty(), "beyond the tolerance:\n{}", faults.join("\n"));
}

#[test]
fn a_file_cut_short_is_refused_or_lacks_nothing() {
    let mut faults = Vec::new();
    for entry in index(false) {
        let name = entry["file"].as_str().unwrap();
        let bytes = std::fs::read(goldens().join(name)).unwrap();
        let how = decoding(&entry);
        let whole = decode(&bytes, how).unwrap();
        for length in 0..bytes.len() {
            match decode(&bytes[..length], how) {
                Err(reason) if reason.0.starts_with("the decoder failed") => {
                    faults.push(format!("{name} cut at {length} of {}: {reason}", bytes.len()));
                }
                Ok(image) if image != whole => {
                    faults
                        .push(format!("{name} cut at {length} of {}: another image", bytes.len()));
                }
                _ => {}
            }
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}
