use std::fs;

use scrl_schemas::{ClassSource, Exif, SourceOptions};

use super::super::{Examine, SourceReader, Sources};
use super::{all, class_names, find, notices, paths, png, refusal, write_image};

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

#[test]
fn hidden_files_and_folders_are_skipped_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    // The folder that is given may be hidden itself.
    let images = folder.path().join(".cache");
    for name in [
        "cat/1.png",
        "cat/._1.png",
        "cat/._2.png",
        "__MACOSX/cat/1.png",
        ".ipynb_checkpoints/1.png",
        "@eaDir/1.png",
        "dots.in.it/..ok.png/3.png",
        "dots.in.it/4.png",
    ] {
        write_image(&images.join(name));
    }
    fs::write(images.join(".DS_Store"), "x").unwrap();
    fs::write(images.join("Thumbs.db"), "x").unwrap();
    let sources = find(&images).unwrap();
    assert_eq!(paths(&sources), ["cat/1.png", "dots.in.it/4.png"]);
    assert_eq!((sources.ignored(), sources.unreadable()), (0, 0));
    let expected = [
        "4 hidden files skipped (.DS_Store, …)",
        "4 hidden folders skipped (.ipynb_checkpoints, …)",
    ];
    assert_eq!(notices(&images), expected);

    // Where nothing else is there, they are named as well.
    let hidden = folder.path().join("hidden");
    write_image(&hidden.join("._1.png"));
    assert!(refusal(&hidden).contains("but 1 hidden file skipped (._1.png)"));
}

#[test]
fn folders_that_are_splits_are_named_with_the_command_for_one() {
    let folder = tempfile::tempdir().unwrap();
    for (name, files, expected) in [
        (
            "plain",
            &["train/cat/1.png", "val/cat/2.png", "test/3.png"][..],
            "train, test and val look like splits, not classes: to leave test and val out, use \
             scrl-prep IMAGES/train SHARDS, or to keep all, --classes none",
        ),
        (
            "coco",
            &["images/train2017/1.png", "images/val2017/2.png"],
            "train2017 and val2017 look like splits, not classes: to leave val2017 out, use \
             scrl-prep IMAGES/images/train2017 SHARDS, or to keep all, --classes none",
        ),
        (
            "alone",
            &["Training/cat/1.png", "Training/dog/2.png"],
            "Training looks like a split, not a class: to have the folders below it as classes, \
             use scrl-prep IMAGES/Training SHARDS, or --classes none",
        ),
        (
            "nested",
            &["photos/cat/1.png", "photos/dog/2.png"],
            "all images are in one class, photos: to have the folders below it as classes, use \
             scrl-prep IMAGES/photos SHARDS",
        ),
    ] {
        let images = folder.path().join(name);
        files.iter().for_each(|file| write_image(&images.join(file)));
        let expected = expected.replace("IMAGES", &images.display().to_string());
        assert_eq!(notices(&images), [expected]);
        let options = SourceOptions { classes: ClassSource::None, ..SourceOptions::default() };
        let sources = Sources::find(&images, &options, Exif::Ignore, Examine::Header).unwrap();
        assert_eq!((sources.classes(), sources.notices().len()), (0, 0));
        assert!(class_names(&sources).iter().all(Option::is_none));
    }
    // Classes, whatever they are called.
    for (name, files) in [
        ("classes", &["train/1.png", "bus/2.png"][..]),
        ("flat", &["images/1.png", "images/2.png"]),
        ("none", &["1.png", "2.png"]),
        ("beside", &["train/cat/1.png", "train/dog/2.png", "1.png"]),
    ] {
        let images = folder.path().join(name);
        files.iter().for_each(|file| write_image(&images.join(file)));
        let expected = usize::from(name == "beside");
        assert_eq!(notices(&images).len(), expected, "{name}: {:?}", notices(&images));
    }
}

#[test]
fn files_of_other_kinds_are_named_beside_images() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    write_image(&folder.path().join("1.png"));
    for number in 0..5 {
        write(&format!("{number}.HEIC"), b"x");
    }
    for name in ["1.xml", "2.xml", "1.txt", "2.json", "3.csv", "a.tar.gz", "a.zip"] {
        write(name, b"x");
    }
    write("IMG_001", &png());
    let sources = find(folder.path()).unwrap();
    assert_eq!(sources.ignored(), 13);
    assert_eq!(sources.ignored_endings(), "5 heic, 2 xml, 1 without an ending and others");
    let expected = [
        "5 files ending in HEIC ignored: convert them (e.g. with heif-convert or ImageMagick)",
        "1 file without a known ending, of which IMG_001 is an image by its content: give such \
         files the ending .png, or list their paths in a text file",
        "1 file ending in tar.gz ignored: unpack it with gzip -dk a.tar.gz, which makes a.tar, \
         and give that",
        "1 file ending in zip ignored: give it alone to read it",
    ];
    assert_eq!(sources.notices(), expected);
}
