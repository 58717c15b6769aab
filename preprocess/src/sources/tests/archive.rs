use std::fs;
use std::path::Path;

use scrl_schemas::SourceOptions;
use tar::{EntryType, Header};

use super::super::SourceReader;
use super::{all, find, notices, paths, png, refusal};

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

fn member(name: &str, content: &[u8]) -> Vec<u8> {
    member_of(EntryType::Regular, name, content)
}

fn member_of(kind: EntryType, name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.set_path(name).unwrap();
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    if kind.is_symlink() || kind.is_hard_link() {
        header.set_link_name("a.png").unwrap();
    }
    header.set_cksum();
    let mut bytes = [header.as_bytes(), content].concat();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// The blocks that mark the end of an archive.
const END: &[u8] = &[0; 1024];

#[test]
fn archives_that_are_concatenated_are_read_to_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("two.tar");
    let png = png();
    let [a, b, c] = ["a/1.png", "b/2.png", "c/3.png"].map(|name| member(name, &png));
    // With ends of different lengths, and an empty archive between.
    fs::write(&path, [&a, END, END, &b, END, &[0; 8704], &c, END].concat()).unwrap();
    let sources = find(&path).unwrap();
    assert_eq!(paths(&sources), ["a/1.png", "b/2.png", "c/3.png"]);
    assert!(sources.notices().is_empty());
    for image_id in 0..3 {
        assert_eq!(sources.read(image_id).unwrap().1, png);
    }
}

#[test]
fn what_follows_an_archive_or_is_cut_off_it_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    let png = png();
    let [a, b] = ["a.png", "b.png"].map(|name| member(name, &png));
    let text = member("notes.txt", &[b'x'; 2000]);
    let long =
        [&member_of(EntryType::GNULongName, "././@LongLink", b"long.png\0"), &b[..]].concat();
    let end = |bytes: &[&[u8]]| {
        fs::write(&path, bytes.concat()).unwrap();
        let found = find(&path).unwrap();
        let notices: Vec<String> = found.notices().to_vec();
        (found.len(), notices.first().cloned().unwrap_or_default())
    };
    for whole in [&[&a[..], &b, END][..], &[&a, &b], &[&a, &b, &[0; 512]], &[&a, &b, &[0; 700]]] {
        assert_eq!(end(whole), (2, String::new()));
    }
    let (images, notice) = end(&[&a, &b, END, &[7; 5000]]);
    assert!(images == 2 && notice.contains("a.tar: the last 5,000 bytes, behind the end"));
    let (images, notice) = end(&[&a, END, &b, END, b"trailing"]);
    assert!(images == 2 && notice.contains("the last 8 bytes, behind the end"), "{notice}");
    let (images, notice) = end(&[&a, &text[..1024]]);
    assert!(images == 1 && notice.contains("a.tar breaks off within notes.txt: what"), "{notice}");
    let (images, notice) = end(&[&a, &b[..530]]);
    assert!(images == 2 && notice.contains("a.tar breaks off within b.png: what"), "{notice}");
    let (images, notice) = end(&[&a, &member("._b.png", &[b'x'; 600])[..600]]);
    assert!(images == 1 && notice.contains("breaks off within ._b.png"), "{notice}");
    for cut in [&b[..200], &long[..300], &long[..514], &long[..1024], &long[..1100]] {
        let (images, notice) = end(&[&a, cut]);
        assert!(images == 1, "{images}");
        assert!(notice.contains("a.tar breaks off within the header of a member"), "{notice}");
    }
    // Damage within it: what follows could be anything.
    fs::write(&path, [&a[..], &[7; 1024], &b, END].concat()).unwrap();
    let message = refusal(&path);
    assert!(message.contains("damaged after 1 members"), "{message}");
}

#[test]
fn hidden_members_and_links_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    let png = png();
    let members = [
        member("cat/a.png", &png),
        member("cat/._a.png", b"x"),
        member("__MACOSX/cat/a.png", b"x"),
        member("cat/.ipynb_checkpoints/a.png", &png),
        member_of(EntryType::Symlink, "cat/b.png", b""),
        member_of(EntryType::Link, "cat/c.png", b""),
        member_of(EntryType::Link, "cat/notes.txt", b""),
        member("cat/raw.heic", b"x"),
        member("readme", b"x"),
        END.to_vec(),
    ];
    fs::write(&path, members.concat()).unwrap();
    let sources = find(&path).unwrap();
    assert_eq!(paths(&sources), ["cat/a.png"]);
    assert_eq!((sources.ignored(), sources.unreadable()), (2, 0));
    let expected = [
        "3 hidden files skipped (._a.png, …)",
        "2 links skipped (cat/b.png, …)",
        "1 file ending in HEIC ignored: convert it (e.g. with heif-convert or ImageMagick)",
    ];
    assert_eq!(sources.notices(), expected);
}

#[test]
fn long_names_in_pax_and_gnu_headers_are_read_and_sparse_members_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar");
    let png = png();
    let long = format!("{}/ü.png", "d".repeat(180));
    let record = |key: &str, value: &str| {
        let rest = format!(" {key}={value}\n");
        let length = (1..).find(|n: &usize| n.to_string().len() + rest.len() == *n).unwrap();
        format!("{length}{rest}")
    };
    let pax = record("path", &long);
    let sparse = record("GNU.sparse.major", "1");
    let named = format!("{long}\0");
    let members = [
        member_of(EntryType::XHeader, "pax", pax.as_bytes()),
        member("short.png", &png),
        member_of(EntryType::GNULongName, "././@LongLink", named.as_bytes()),
        member("short.png", &png),
        member_of(EntryType::XGlobalHeader, "global", record("comment", "x").as_bytes()),
        member_of(EntryType::XHeader, "pax", sparse.as_bytes()),
        member("holes.png", &png),
        member("last.png", &png),
    ];
    fs::write(&path, members.concat()).unwrap();
    let sources = find(&path).unwrap();
    // A GNU long name needs a header of that kind, with which other programs mark it.
    assert_eq!(paths(&sources), [&*long, &*long, "holes.png", "last.png"]);
    let error = sources.source(2).error.unwrap();
    assert_eq!(error, "a sparse member; make the archive without --sparse");
    for image_id in [0, 1, 3] {
        assert_eq!(sources.read(image_id).unwrap().1, png);
    }
}

#[test]
fn an_archive_without_the_mark_of_posix_is_detected() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old");
    let mut header = Header::new_old();
    header.set_path("a.png").unwrap();
    header.set_size(png().len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    let mut bytes = [header.as_bytes(), &png()[..]].concat();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    fs::write(&path, &bytes).unwrap();
    assert_eq!(find(&path).unwrap().read(0).unwrap().1, png());
    bytes[0] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert!(refusal(&path).contains("is neither a folder, a tar or zip archive"));
    // With the mark it is one, but damaged.
    bytes[257..262].copy_from_slice(b"ustar");
    fs::write(&path, &bytes).unwrap();
    assert!(refusal(&path).contains("damaged after 0 members"));
}

#[test]
fn archives_named_as_splits_and_folders_in_one_are_said() {
    let folder = tempfile::tempdir().unwrap();
    let png = png();
    let path = folder.path().join("a.tar");
    tar_of(&path, &[("train/1.png", &png), ("val/2.png", &png)]);
    let expected = "train and val look like splits, not classes: to leave val out, unpack it (tar \
                    -xf a.tar train) and give that folder, or to keep all, --classes none";
    assert_eq!(notices(&path), [expected]);
    let files = folder.path().join("files");
    fs::create_dir(&files).unwrap();
    for name in ["train-0001.tar", "train-0002.tar", "val-0001.tar"] {
        tar_of(&files.join(name), &[("1.png", &png)]);
    }
    fs::write(files.join("train.tar.gz"), "x").unwrap();
    fs::write(files.join("README.md"), "x").unwrap();
    let sources = find(&files).unwrap();
    assert_eq!((sources.len(), sources.ignored()), (3, 2));
    let expected = [
        "1 file ending in tar.gz ignored: unpack it with gzip -dk train.tar.gz, which makes \
         train.tar, and give that",
        "files of train and val are read together: give a folder of the train files alone to \
         leave val out",
    ];
    assert_eq!(sources.notices(), expected);
}
