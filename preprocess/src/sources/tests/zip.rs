use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;

use ::zip::write::SimpleFileOptions;
use ::zip::{CompressionMethod, ZipWriter};
use rayon::prelude::*;
use scrl_schemas::{Exif, SourceOptions, SourcesReader};

use super::super::{Examine, SourceReader, Sources};
use super::{all, class_names, find, notices, paths, png, refusal};

fn deflated() -> SimpleFileOptions {
    SimpleFileOptions::default().compression_method(CompressionMethod::Deflated)
}

fn stored() -> SimpleFileOptions {
    SimpleFileOptions::default().compression_method(CompressionMethod::Stored)
}

fn zip_of(entries: &[(&str, &[u8], SimpleFileOptions)]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for &(name, content, options) in entries {
        writer.start_file(name, options).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// An image of over a mebibyte, so that it takes several reads, with noise so that deflate does
/// not make it small.
fn large() -> Vec<u8> {
    let mut state = 1u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 28) as u8
    };
    let image = image::RgbImage::from_fn(1100, 700, |_, _| image::Rgb([noise(), noise(), noise()]));
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Bmp).unwrap();
    bytes.into_inner()
}

/// Where a signature begins, the number `nth` of them.
fn position(bytes: &[u8], signature: &[u8], nth: usize) -> usize {
    let places = bytes.windows(signature.len()).enumerate();
    places.filter(|(_, window)| *window == signature).nth(nth).unwrap().0
}

/// An archive of one entry, `change`d in its local header and its entry of the directory.
fn changed(entry: (&str, &[u8], SimpleFileOptions), change: impl Fn(&mut [u8], bool)) -> Vec<u8> {
    let mut bytes = zip_of(&[entry, ("b.png", &png(), stored())]);
    let directory = position(&bytes, b"PK\x01\x02", 0);
    change(&mut bytes[..], false);
    change(&mut bytes[directory..], true);
    bytes
}

fn set(bytes: &mut [u8], at: usize, value: u32, length: usize) {
    bytes[at..at + length].copy_from_slice(&value.to_le_bytes()[..length]);
}

#[test]
fn archives_are_read_without_unpacking() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.zip");
    let (png, large) = (png(), large());
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    writer.add_directory("cat/", stored()).unwrap();
    writer.add_symlink("cat/link.png", "1.png", stored()).unwrap();
    let big = deflated().large_file(true);
    let entries: [(&str, &[u8], SimpleFileOptions); 10] = [
        ("cat/1.png", &png, deflated()),
        ("cat/._1.png", b"x", stored()),
        ("__MACOSX/cat/._1.png", b"x", stored()),
        ("dog/ü 2.BMP", &large, deflated()),
        ("dog/3.bmp", &large, stored()),
        ("dog/4.jpg", b"no image", stored()),
        ("dog/4.xml", b"<x/>", deflated()),
        ("dog\\deep/5.png", &png, big),
        ("top.png", &png, stored()),
        ("empty.png", b"", stored()),
    ];
    for (name, content, options) in entries {
        writer.start_file(name, options).unwrap();
        writer.write_all(content).unwrap();
    }
    let whole = writer.finish().unwrap().into_inner();
    // Also with something before it, as in one that unpacks itself.
    for before in [&b""[..], b"MZ\0\0"] {
        fs::write(&path, [before, &whole].concat()).unwrap();
        let sources = find(&path).unwrap();
        let expected = [
            "cat/1.png",
            "dog/ü 2.BMP",
            "dog/3.bmp",
            "dog/4.jpg",
            "dog\\deep/5.png",
            "top.png",
            "empty.png",
        ];
        assert_eq!(paths(&sources), expected);
        let names = class_names(&sources);
        assert_eq!((names[0].as_deref(), names[5].as_deref()), (Some("cat"), None));
        let list = all(&sources);
        assert_eq!((list[1].width, list[1].height, list[1].bytes), (1100, 700, large.len() as i64));
        assert_eq!(list[3].error.as_deref(), Some("not an image of a known kind"));
        assert_eq!(list[6].error.as_deref(), Some("empty file"));
        assert_eq!(sources.ignored(), 1);
        assert_eq!(
            sources.notices()[..2],
            ["2 hidden files skipped (._1.png, …)", "1 link skipped (cat/link.png)"]
        );
        // From many threads at a time.
        (0..400u32).into_par_iter().for_each(|turn| {
            let (image_id, content) = [(0, &png), (1, &large), (2, &large)][turn as usize % 3];
            assert!(sources.read(image_id).unwrap().1 == *content);
        });
        assert!(sources.read(4).unwrap().1 == png);
    }
    fs::write(&path, &whole).unwrap();
    let reader = SourceReader::open(&path, &SourceOptions::default()).unwrap();
    assert!(reader.read(1, "dog/ü 2.BMP").unwrap() == large);
    assert!(reader.read(0, "dog/3.bmp").unwrap_err().contains("cat/1.png stands in its place"));
    let list = folder.path().join("sources.parquet");
    let sources = find(&path).unwrap();
    sources.write(&list).unwrap();
    let known = SourcesReader::open(&list).unwrap();
    let again = Sources::find_again(&path, &SourceOptions::default(), folder.path(), known);
    assert_eq!(all(&again.unwrap()), all(&sources));
}

#[test]
fn checksums_that_follow_the_data_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.zip");
    let (png, large) = (png(), large());
    let mut writer = ZipWriter::new_stream(Vec::new());
    for (name, content) in [("1.png", &png), ("2.bmp", &large)] {
        for (kind, options) in [("s", stored()), ("d", deflated())] {
            writer.start_file(format!("{kind}{name}"), options).unwrap();
            writer.write_all(content).unwrap();
        }
    }
    let bytes = writer.finish().unwrap().into_inner();
    assert_eq!(bytes[6] & 8, 8, "the flag of a checksum behind the data");
    fs::write(&path, &bytes).unwrap();
    let sources = find(&path).unwrap();
    assert_eq!((sources.len(), sources.unreadable()), (4, 0));
    for (image_id, content) in [&png, &png, &large, &large].into_iter().enumerate() {
        assert!(sources.read(image_id as u32).unwrap().1 == *content, "{image_id}");
    }
    let mut damaged = bytes.clone();
    let descriptor = position(&damaged, b"PK\x07\x08", 0);
    damaged[descriptor + 5] ^= 1;
    fs::write(&path, &damaged).unwrap();
    assert_eq!(
        find(&path).unwrap().source(0).error.unwrap(),
        "damaged in the archive: its checksum is wrong"
    );
}

#[test]
fn a_damaged_entry_is_an_unreadable_image() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.zip");
    let large = large();
    for options in [stored(), deflated()] {
        let mut bytes = zip_of(&[("a.bmp", &large, options), ("b.png", &png(), options)]);
        let middle = position(&bytes, b"PK\x03\x04", 1) - 1000;
        for byte in &mut bytes[middle..middle + 50] {
            *byte ^= 0x5A;
        }
        fs::write(&path, &bytes).unwrap();
        // Its header is intact, so that only reading all of it shows the damage.
        let sources = find(&path).unwrap();
        assert_eq!((sources.unreadable(), sources.source(0).width), (0, 1100));
        let (source, content) = sources.read(0).unwrap();
        let error = source.error.unwrap();
        assert!(content.is_empty() && error.starts_with("damaged in the archive: "), "{error}");
        assert_eq!(sources.read(1).unwrap().1, png());
        let all = Sources::find(&path, &SourceOptions::default(), Exif::Ignore, Examine::Pixels);
        assert_eq!(all.unwrap().unreadable(), 1);
    }
}

#[test]
fn entries_that_lie_about_their_size_take_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.zip");
    let flat = image::RgbImage::new(2000, 2000);
    let mut bmp = Cursor::new(Vec::new());
    flat.write_to(&mut bmp, image::ImageFormat::Bmp).unwrap();
    let bmp = bmp.into_inner();
    let error_with_size = |options, size: u32| {
        let bytes = changed(("a.bmp", &bmp, options), |bytes, in_directory| {
            set(bytes, if in_directory { 24 } else { 22 }, size, 4);
        });
        fs::write(&path, bytes).unwrap();
        let sources = find(&path).unwrap();
        assert_eq!(sources.source(1).error, None);
        sources.source(0).error.unwrap_or_else(|| sources.read(0).unwrap().0.error.unwrap())
    };
    let size = bmp.len() as u32;
    assert_eq!(error_with_size(deflated(), 3 << 30), "3221225472 bytes: more than 1024 MiB");
    let is = |size, expected: &str| {
        let error = error_with_size(deflated(), size);
        assert_eq!(error, format!("damaged in the archive: it is {expected}"), "{size}");
    };
    is(size + 1, "smaller than stated");
    is(1 << 30, "smaller than stated");
    is(size - 1, "larger than stated");
    is(70_000, "larger than stated");
    let error = error_with_size(stored(), 1 << 30);
    assert_eq!(error, "damaged in the archive: the archive ends within it");
}

#[test]
fn encrypted_entries_and_other_compressions_are_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.zip");
    let png = png();
    let encrypted = changed(("a.png", &png, stored()), |bytes, in_directory| {
        bytes[if in_directory { 8 } else { 6 }] |= 1;
    });
    let method = |method| {
        changed(("a.png", &png, stored()), |bytes, in_directory| {
            set(bytes, if in_directory { 10 } else { 8 }, method, 2);
        })
    };
    for (bytes, expected) in [
        (encrypted, "encrypted; unpack the archive with its password"),
        (method(93), "compression is not supported; unpack the archive, or make it with zip -0"),
        (method(12), "compression is not supported"),
        (method(9), "compression is not supported"),
    ] {
        fs::write(&path, bytes).unwrap();
        let sources = find(&path).unwrap();
        let error = sources.source(0).error.unwrap();
        assert!(error.contains(expected), "{error}");
        assert_eq!(sources.read(1).unwrap().1, png);
        assert!(sources.notices()[0].starts_with("unreadable: a.png: "));
    }
    // All of them: one line.
    let mut bytes = zip_of(&[("a.png", &png, stored()), ("b.png", &png, stored())]);
    for (signature, flags) in [(b"PK\x03\x04", 6), (b"PK\x01\x02", 8)] {
        for nth in 0..2 {
            let at = position(&bytes, signature, nth);
            bytes[at + flags] |= 1;
        }
    }
    fs::write(&path, bytes).unwrap();
    let message = refusal(&path);
    assert!(message.contains("a.zip: all its images: encrypted; unpack"), "{message}");
}

#[test]
fn names_are_utf8_or_those_of_dos() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.zip");
    let png = png();
    // As Info-ZIP and macOS write UTF-8 without the flag for it, and DOS its own letters.
    let mut bytes = zip_of(&[("caf##.png", &png, stored()), ("dog!1.png", &png, stored())]);
    for nth in 0..2 {
        let at = position(&bytes, b"caf##", 0);
        bytes[at + 3..at + 5].copy_from_slice("é".as_bytes());
        let at = position(&bytes, b"dog!", 0);
        bytes[at + 3] = b'\\';
        let _ = nth;
    }
    fs::write(&path, &bytes).unwrap();
    let sources = find(&path).unwrap();
    assert_eq!(paths(&sources), ["café.png", "dog/1.png"]);
    assert_eq!(class_names(&sources)[1].as_deref(), Some("dog"));
    for _ in 0..2 {
        let at = position(&bytes, "é".as_bytes(), 0);
        bytes[at..at + 2].copy_from_slice(b"\x82!");
    }
    fs::write(&path, &bytes).unwrap();
    assert_eq!(paths(&find(&path).unwrap())[0], "cafe\u{301}!.png".replace("e\u{301}", "é"));
}

#[test]
fn an_archive_that_is_cut_or_in_parts_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.zip");
    let mut bytes = zip_of(&[("a.png", &png(), stored())]);
    for length in [bytes.len() - 1, bytes.len() - 30, 60, 4] {
        fs::write(&path, &bytes[..length]).unwrap();
        let message = refusal(&path);
        assert!(message.contains("a.zip: its directory, at its end, cannot be read"), "{message}");
        assert!(message.contains("or cat PARTS.zip.* > whole.zip"), "{message}");
    }
    // The number of this part, of several.
    let end = position(&bytes, b"PK\x05\x06", 0);
    bytes[end + 4] = 2;
    fs::write(&path, &bytes).unwrap();
    let message = refusal(&path);
    assert!(message.contains("Multi-disk") && message.contains("zip -s 0"), "{message}");
    // An empty one, and one without images.
    fs::write(&path, zip_of(&[])).unwrap();
    assert!(refusal(&path).contains("holds no images"));
    fs::write(&path, zip_of(&[("a.npy", b"x", stored())])).unwrap();
    assert!(refusal(&path).contains("but 1 file ending in NPY: write the images of it"));
}

#[test]
fn folders_of_archives_and_splits_in_one_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let png = png();
    let write = |path: &Path, names: &[&str]| {
        let entries: Vec<(&str, &[u8], SimpleFileOptions)> =
            names.iter().map(|name| (*name, &png[..], stored())).collect();
        fs::write(path, zip_of(&entries)).unwrap();
    };
    let path = folder.path().join("roboflow.zip");
    write(&path, &["train/images/1.png", "valid/images/2.png"]);
    let expected = "train and valid look like splits, not classes: to leave valid out, unpack it \
                    (unzip roboflow.zip 'train/*') and give that folder, or to keep all, --classes \
                    none";
    assert_eq!(notices(&path), [expected]);
    write(&path, &["repository/cat/1.png", "repository/dog/2.png"]);
    let expected = "all images are in one class, repository: to have the folders below it as \
                    classes, unpack it (unzip roboflow.zip 'repository/*') and give that folder";
    assert_eq!(notices(&path), [expected]);

    let files = folder.path().join("files");
    fs::create_dir(&files).unwrap();
    write(&files.join("0.zip"), &["cat/1.png"]);
    write(&files.join("1.ZIP"), &["dog/1.png", "dog/2.png"]);
    fs::write(files.join("LICENSE"), "x").unwrap();
    let sources = find(&files).unwrap();
    assert_eq!(paths(&sources), ["0.zip/cat/1.png", "1.ZIP/dog/1.png", "1.ZIP/dog/2.png"]);
    assert_eq!((sources.classes(), sources.ignored(), sources.notices().len()), (2, 1, 0));
    assert_eq!(sources.read(2).unwrap().1, png);
}
