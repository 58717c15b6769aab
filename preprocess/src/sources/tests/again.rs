use std::fs;
use std::path::Path;

use scrl_schemas::{Source, SourceOptions, SourcesReader, SourcesWriter};

use super::super::Sources;
use super::{all, find, write_image};

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
    assert!(message.contains("made from other images: c/4.png is new; restore"), "{message}");
    fs::remove_file(images.join("c/4.png")).unwrap();
    fs::remove_file(images.join("b/3.png")).unwrap();
    let message = again().unwrap_err().to_string();
    assert!(message.contains("made from other images: b/3.png is gone; restore"), "{message}");
    // The first one as well, of which nothing is the same any more.
    write_image(&images.join("b/3.png"));
    fs::remove_file(images.join("a/0.jpg")).unwrap();
    let message = again().unwrap_err().to_string();
    assert!(message.contains("made from other images: a/0.jpg is gone; restore"), "{message}");
    fs::remove_file(images.join("a/2.png")).unwrap();
    fs::write(images.join("a/1.png"), "shorter").unwrap();
    write_image(&images.join("a/a/9.png"));
    let message = again().unwrap_err().to_string();
    let expected = "2 images are gone (a/0.jpg, …), a/a/9.png is new, a/1.png (";
    assert!(message.contains(expected), "{message}");
    assert!(message.contains(" bytes, now 7) has changed; restore"), "{message}");
}

#[test]
fn hidden_images_of_an_older_list_are_reported_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("images");
    write_image(&images.join("1.png"));
    write_image(&images.join("2.png"));
    let list = folder.path().join("sources.parquet");
    let mut writer = SourcesWriter::create(&list).unwrap();
    let sources = find(&images).unwrap();
    writer.write(Source { path: "._1.png".to_owned(), ..sources.source(0) }).unwrap();
    writer.write(sources.source(0)).unwrap();
    writer.write(sources.source(1)).unwrap();
    writer.finish().unwrap();
    let message = again(&images, &list);
    let expected = "._1.png is gone, those gone are hidden files, which are images no more";
    assert!(message.contains(expected), "{message}");
}

#[test]
fn a_list_in_another_order_or_without_an_image_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("list.txt");
    for name in ["c.png", "a.png", "b.png"] {
        write_image(&folder.path().join(name));
    }
    fs::write(&list, "c.png\na.png\nb.png\n").unwrap();
    let known = folder.path().join("sources.parquet");
    find(&list).unwrap().write(&known).unwrap();
    fs::write(&list, "c.png\nb.png\n").unwrap();
    assert!(again(&list, &known).contains("images: a.png is gone;"));
    fs::write(&list, "a.png\nb.png\nc.png\n").unwrap();
    assert!(again(&list, &known).contains("images: they are in another order from "));
}

/// Why images are not those of a list.
fn again(images: &Path, list: &Path) -> String {
    let known = SourcesReader::open(list).unwrap();
    let options = SourceOptions::default();
    Sources::find_again(images, &options, list, known).unwrap_err().to_string()
}
