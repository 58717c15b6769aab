use std::fs;
use std::io;
use std::path::Path;

use scrl_schemas::{Exif, Source, SourceOptions, SourcesReader};

use super::{Examine, SourceReader, Sources};
use crate::Result;

mod lists;
mod tables;

fn write_image(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    image::RgbImage::new(5, 4).save(path).unwrap();
}

fn find(images: &Path) -> Result<Sources> {
    Sources::find(images, &SourceOptions::default(), Exif::Ignore, Examine::Header)
}

fn find_with(images: &Path, options: &SourceOptions) -> Result<Sources> {
    Sources::find(images, options, Exif::Ignore, Examine::Header)
}

/// Options that name columns.
fn columns(image: Option<&str>, label: Option<&str>) -> SourceOptions {
    SourceOptions {
        image_column: image.map(str::to_owned),
        label_column: label.map(str::to_owned),
        ..SourceOptions::default()
    }
}

/// The path and the class of each image.
fn classes(sources: &Sources) -> Vec<(String, Option<(i32, String)>)> {
    let class = |source: Source| source.class.map(|(label, name)| (label, name.to_string()));
    all(sources).into_iter().map(|source| (source.path.clone(), class(source))).collect()
}

fn all(sources: &Sources) -> Vec<Source> {
    (0..sources.len()).map(|id| sources.source(id)).collect()
}

#[test]
fn folders_are_classes_and_images_are_sorted_by_name() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["b/2.png", "b/1.PNG", "a b/deep/3.bmp", "top.gif"] {
        write_image(&folder.path().join(name));
    }
    fs::write(folder.path().join("notes.txt"), "x").unwrap();
    fs::write(folder.path().join("b/broken.jpg"), "x").unwrap();
    let sources = find(folder.path()).unwrap();
    let list = all(&sources);
    let seen: Vec<_> =
        list.iter().map(|s| (s.path.as_str(), s.class.as_ref().map(|c| c.0))).collect();
    assert_eq!(
        seen,
        [
            ("a b/deep/3.bmp", Some(0)),
            ("b/1.PNG", Some(1)),
            ("b/2.png", Some(1)),
            ("b/broken.jpg", Some(1)),
            ("top.gif", None)
        ]
    );
    assert_eq!((sources.ignored(), sources.unreadable(), sources.classes()), (1, 1, 2));
    assert_eq!((list[0].width, list[0].height), (5, 4));
    assert!(sources.read(3).unwrap().0.error.is_some());
    let reader = SourceReader::open(folder.path(), &SourceOptions::default()).unwrap();
    assert_eq!(reader.read(1, "b/1.PNG").unwrap(), sources.read(1).unwrap().1);
    assert!(reader.read(9, "b/9.png").is_err());
    assert_eq!(sources.read(1).unwrap().1.len() as i64, list[1].bytes);
}

#[test]
fn refused_inputs_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    for (name, content, expected) in [
        ("video.mp4", &b"\0\0\0\x20ftypisom"[..], "is neither a folder"),
        ("images.tar.gz", b"\x1f\x8b\x08", "is compressed"),
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
fn a_file_that_is_changed_or_removed_fails_the_run() {
    let folder = tempfile::tempdir().unwrap();
    write_image(&folder.path().join("1.png"));
    write_image(&folder.path().join("2.png"));
    let sources = find(folder.path()).unwrap();
    fs::write(folder.path().join("1.png"), "shorter").unwrap();
    fs::remove_file(folder.path().join("2.png")).unwrap();
    let message = sources.read(0).unwrap_err().to_string();
    assert!(message.contains("1.png") && message.contains("its size has changed"), "{message}");
    let message = sources.read(1).unwrap_err().to_string();
    assert!(message.contains("2.png") && message.contains("restore"), "{message}");
}

#[test]
fn known_images_are_not_examined_again() {
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("images");
    for name in ["a/1.png", "a/2.png", "b/3.png"] {
        write_image(&images.join(name));
    }
    fs::write(images.join("a/0.jpg"), "x").unwrap();
    let list = folder.path().join("sources.parquet");
    let sources = find(&images).unwrap();
    assert!(sources.note_unreadable(2, "found later"));
    assert!(!sources.note_unreadable(2, "again"));
    sources.write(&list).unwrap();
    let options = SourceOptions::default();
    let known = || SourcesReader::open(&list).unwrap();
    let again = || Sources::find_again(&images, &options, folder.path(), known());
    assert_eq!(all(&again().unwrap()), all(&sources));
    assert_eq!(again().unwrap().unreadable(), 2);

    write_image(&images.join("c/4.png"));
    let message = again().unwrap_err().to_string();
    assert!(message.contains("c/4.png is new"), "{message}");
    fs::remove_file(images.join("c/4.png")).unwrap();
    fs::remove_file(images.join("b/3.png")).unwrap();
    let message = again().unwrap_err().to_string();
    assert!(message.contains("b/3.png is no longer there"), "{message}");
}

fn tar_of(path: &Path, members: &[(&str, &[u8])]) {
    let mut builder = tar::Builder::new(fs::File::create(path).unwrap());
    for (name, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.finish().unwrap();
}

fn png() -> Vec<u8> {
    let mut bytes = io::Cursor::new(Vec::new());
    image::RgbImage::new(6, 3).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

#[test]
fn archives_are_read_without_unpacking() {
    let folder = tempfile::tempdir().unwrap();
    let png = png();
    let long = format!("{}/x.png", "d".repeat(150));
    let members: [(&str, &[u8]); 7] = [
        ("0001.cls", b"7\n"),
        ("0001.jpg", &png),
        ("0002.jpg", b"broken"),
        ("0002.cls", b"3"),
        ("0002.json", b"{}"),
        ("n01/3.png", &png),
        (&long, &png),
    ];
    let path = folder.path().join("0.tar");
    tar_of(&path, &members);
    let sources = find(&path).unwrap();
    let found = all(&sources);
    let names: Vec<_> = found.iter().map(|s| s.path.as_str()).collect();
    assert_eq!(names, ["0001.jpg", "0002.jpg", "n01/3.png", &long]);
    // One class came without a number, so all are numbered by name.
    assert_eq!(found[0].class.as_ref().unwrap(), &(1, "7".into()));
    assert_eq!(found[2].class.as_ref().unwrap().1, "n01".into());
    assert_eq!((found[0].width, found[1].error.is_some(), sources.ignored()), (6, true, 1));
    assert_eq!(sources.read(3).unwrap().1, png);

    let reader = SourceReader::open(&path, &SourceOptions::default()).unwrap();
    assert_eq!(reader.read(2, "n01/3.png").unwrap(), png);
    assert!(reader.read(0, "n01/3.png").unwrap_err().contains("0001.jpg stands in its place"));
    assert!(reader.read(4, "n01/3.png").is_err() && reader.read(-1, "n01/3.png").is_err());

    // A folder of archives, the last of them cut short.
    tar_of(&folder.path().join("1.tar"), &members[..4]);
    let intact = fs::read(folder.path().join("1.tar")).unwrap();
    fs::write(folder.path().join("1.tar"), &intact[..1560]).unwrap();
    let sources = find(folder.path()).unwrap();
    assert_eq!(sources.len(), 5);
    let last = sources.source(4);
    assert_eq!((last.path.as_str(), last.class.unwrap().1), ("1.tar/0001.jpg", "7".into()));
    assert!(last.error.unwrap().contains("cut short"));
    assert_eq!(sources.read(0).unwrap().1, png);
}

#[cfg(unix)]
#[test]
fn loops_pipes_and_names_that_are_not_text_do_no_harm() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    let folder = tempfile::tempdir().unwrap();
    let inside = |name: &str| folder.path().join("a").join(name);
    write_image(&inside("1.png"));
    symlink(folder.path(), inside("loop")).unwrap();
    symlink("nowhere", inside("gone.png")).unwrap();
    symlink("self.png", inside("self.png")).unwrap();
    symlink("1.png", inside("link.jpg")).unwrap();
    let _listener = UnixListener::bind(inside("socket.png")).unwrap();
    let pipe = std::process::Command::new("mkfifo").arg(inside("pipe.png")).status().unwrap();
    assert!(pipe.success());
    fs::copy(inside("1.png"), folder.path().join("a").join(OsStr::from_bytes(b"\xff.png")))
        .unwrap();
    let found = all(&find(folder.path()).unwrap());
    let reasons: Vec<(&str, Option<&str>)> =
        found.iter().map(|s| (s.path.as_str(), s.error.as_deref())).collect();
    assert_eq!(reasons.len(), 7, "{reasons:?}");
    assert_eq!(reasons[0], ("a/1.png", None));
    assert_eq!(reasons[2], ("a/link.jpg", None));
    assert_eq!(reasons[3], ("a/pipe.png", Some("not a regular file")));
    assert_eq!(reasons[5], ("a/socket.png", Some("not a regular file")));
    assert_eq!(reasons[6].1, Some("the name is not UTF-8"));
    assert!(reasons[1].1.is_some() && reasons[4].1.is_some());
}
