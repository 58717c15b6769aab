use std::fs;

use super::{find, notices, png, refusal, write_image};

#[test]
fn refused_inputs_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    for (name, content, expected) in [
        ("video.mp4", &b"\0\0\0\x20ftypisom"[..], "but video: extract the frames"),
        ("images.tar.gz", b"\x1f\x8b\x08", "gzip -dk images.tar.gz, which makes images.tar"),
        ("one.png", b"\x89PNG\r\n\x1a\n", "is a single image"),
        ("empty.txt", b"\n\n", "holds no images"),
        ("broken.parquet", b"PAR1", "not a Parquet file"),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        let message = find(&path).unwrap_err().to_string();
        assert!(message.contains(name) && message.contains(expected), "{message}");
    }
    fs::create_dir(folder.path().join("empty")).unwrap();
    let message = find(&folder.path().join("empty")).unwrap_err().to_string();
    assert!(message.contains("holds no images"), "{message}");
    assert!(find(&folder.path().join("none")).is_err());
}

#[test]
fn a_folder_without_images_says_what_was_seen() {
    let folder = tempfile::tempdir().unwrap();
    for (name, files, expected) in [
        (
            "heic",
            &["1.HEIC", "2.heic", "3.HEIC"][..],
            "but 3 files ending in HEIC: convert them (e.g. with heif-convert or ImageMagick);",
        ),
        ("avif", &["1.avif"], "but 1 file ending in AVIF: convert it (e.g. with avifdec"),
        ("jxl", &["1.jxl"], "JXL: convert it (e.g. with djxl"),
        ("jpeg2000", &["1.jp2"], "JP2: convert it (e.g. with opj_decompress"),
        ("raw", &["1.DNG", "2.dng"], "2 files ending in DNG: develop them (e.g. with dcraw"),
        ("dicom", &["1.dcm"], "DCM: convert it (e.g. to 16-bit TIFF or PNG with dcm2pnm"),
        ("nifti", &["1.nii.gz"], "NII.GZ: write the slices of it (as PNG or TIFF"),
        ("arrays", &["x.npy"], "NPY: write the images of it (as PNG or TIFF"),
        ("svg", &["1.svg"], "SVG: render it"),
        ("pdf", &["1.pdf"], "PDF: render the pages of it"),
        ("psd", &["1.psd"], "PSD: convert it"),
        ("exr", &["1.exr"], "EXR: tone-map it"),
        ("slides", &["1.svs"], "SVS: cut tiles from it"),
        ("videos", &["1.MP4", "2.mp4"], "MP4: extract the frames of them (e.g. ffmpeg -i"),
        ("records", &["1.tfrecord"], "TFRECORD: write the images of it"),
        (
            "packed",
            &["a.tgz", "b.tgz"],
            "gzip -dk a.tgz, which makes a.tar, and give that; likewise",
        ),
        ("seven", &["a.7z"], "1 file ending in 7z: unpack it with 7z x a.7z and give the folder"),
        ("rar", &["a.rar"], "unrar x a.rar"),
        ("parts", &["a.z01"], "zip -s 0 a.zip --out whole.zip"),
        ("pieces", &["a.zip.001", "a.zip.002"], "cat a.zip.* > a.zip"),
        ("text", &["1.txt", "2.txt", "3.xml"], "but 2 files ending in txt; 1 file ending in xml;"),
    ] {
        let images = folder.path().join(name);
        fs::create_dir(&images).unwrap();
        files.iter().for_each(|file| fs::write(images.join(file), "x").unwrap());
        let message = refusal(&images);
        assert!(message.contains("holds no images (") && message.contains(expected), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn images_without_the_ending_of_one_are_known_by_their_content() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["0001", "0002", "README"] {
        fs::write(folder.path().join(name), png()).unwrap();
    }
    fs::write(folder.path().join("a.dat"), "no image").unwrap();
    let message = refusal(folder.path());
    let expected = "but 3 files without a known ending, of which 0001 is an image by its content: \
                    give such files the ending .png";
    assert!(message.contains(expected), "{message}");
    // An ending that is no known one, and dots elsewhere in the name.
    fs::write(folder.path().join("img_jpg.rf.0a1b.jpg"), png()).unwrap();
    fs::write(folder.path().join("scan.img"), png()).unwrap();
    let sources = find(folder.path()).unwrap();
    assert_eq!(sources.source(0).path, "img_jpg.rf.0a1b.jpg");
    assert!(sources.notices()[1].contains("1 file ending in img, of which scan.img is an image"));
}

#[test]
fn the_most_frequent_reasons_for_unreadable_images_are_said() {
    let folder = tempfile::tempdir().unwrap();
    write_image(&folder.path().join("a.png"));
    let heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic";
    for name in ["b.jpg", "c.jpg"] {
        fs::write(folder.path().join(name), heic).unwrap();
    }
    fs::write(folder.path().join("d.jpg"), "").unwrap();
    let expected = [
        "unreadable: b.jpg and 1 more: HEIC: convert it (e.g. with heif-convert or ImageMagick)",
        "unreadable: d.jpg: empty file",
    ];
    assert_eq!(notices(folder.path()), expected);
}

#[test]
fn a_single_file_that_is_packed_says_how_to_unpack_it() {
    let folder = tempfile::tempdir().unwrap();
    for (name, head, expected) in [
        ("a.tgz", &b"\x1F\x8B\x08"[..], "gzip -dk a.tgz, which makes a.tar, and give that"),
        ("a.tar.zst", b"\x28\xB5\x2F\xFD", "zstd -d a.tar.zst, which makes a.tar"),
        ("a.tar.xz", b"\xFD7zXZ\0", "xz -dk a.tar.xz, which makes a.tar"),
        ("a.tar.bz2", b"BZh9", "bzip2 -dk a.tar.bz2, which makes a.tar"),
        ("a.rar", b"Rar!\x1A\x07\x01", "unrar x a.rar and give the folder"),
        ("a.7z", b"7z\xBC\xAF\x27\x1C", "7z x a.7z and give the folder"),
        ("a.z01", b"\x00\x01", "zip -s 0 a.zip --out whole.zip"),
        ("a.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC: convert it"),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, head).unwrap();
        let message = refusal(&path);
        assert!(message.contains(expected), "{message}");
    }
}
