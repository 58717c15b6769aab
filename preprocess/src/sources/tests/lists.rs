//! Text files that list images.

use scrl_schemas::ClassSource;

use super::*;
use crate::sources::list_layout::{Layout, Line};

#[test]
fn a_list_names_paths_and_classes() {
    let folder = tempfile::tempdir().unwrap();
    write_image(&folder.path().join("deep/ü 1.png"));
    let outside = tempfile::tempdir().unwrap();
    write_image(&outside.path().join("2.bmp"));
    let list = folder.path().join("list.txt");
    let text = format!(
        "deep/ü 1.png\tcat\r\n\n{}\tant\nmissing.png\n",
        outside.path().join("2.bmp").display()
    );
    fs::write(&list, text).unwrap();
    let sources = find(&list).unwrap();
    let found = all(&sources);
    assert_eq!(found.len(), 3);
    assert_eq!(found[0].class, Some((1, "cat".into())));
    assert_eq!(found[1].class, Some((0, "ant".into())));
    assert_eq!((found[2].class.clone(), found[2].error.is_some()), (None, true));
    assert!(!sources.read(0).unwrap().1.is_empty() && !sources.read(1).unwrap().1.is_empty());
}

/// A list of these bytes beside the images `a.png` and `b c.png`.
fn list(text: impl AsRef<[u8]>) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    write_image(&folder.path().join("a.png"));
    write_image(&folder.path().join("b c.png"));
    write_image(&folder.path().join("d/e, f.png"));
    let path = folder.path().join("list.csv");
    fs::write(&path, text).unwrap();
    (folder, path)
}

/// Paths, labels and names of the classes, and what is said behind the name of the file.
type Read = (Vec<(String, Option<(i32, String)>)>, Vec<String>);

fn read(text: impl AsRef<[u8]>, options: &SourceOptions) -> Read {
    let (_folder, path) = list(text);
    let sources = find_with(&path, options).unwrap();
    let said = sources.notices().iter().map(|line| {
        let (file, said) = line.split_once(": ").unwrap();
        assert!(file.ends_with("list.csv"), "{line}");
        said.to_owned()
    });
    (classes(&sources), said.collect())
}

fn class(label: i32, name: &str) -> Option<(i32, String)> {
    Some((label, name.to_owned()))
}

fn line(text: &str) -> (String, String) {
    let Line { path, label } = Line::read(text);
    let label = match label {
        crate::sources::classes::Label::Class(crate::sources::format::Class::Name(name)) => name,
        crate::sources::classes::Label::Class(crate::sources::format::Class::Number(n, name)) => {
            format!("{n}={name}")
        }
        other => format!("{other:?}"),
    };
    (path.into_owned(), label)
}

#[test]
fn each_line_of_a_list_is_read_by_itself() {
    for (text, path, label) in [
        ("n01/x.JPEG 65", "n01/x.JPEG", "65=65"),
        ("a b 3.jpg 12", "a b 3.jpg", "12=12"),
        ("a.jpg   cat", "a.jpg", "cat"),
        ("a.jpg golden retriever", "a.jpg", "golden retriever"),
        ("a.jpg,3", "a.jpg", "3=3"),
        ("a.jpg , cat", "a.jpg", "cat"),
        ("a.jpg;cat", "a.jpg", "cat"),
        ("a.jpg\tcat", "a.jpg", "cat"),
        ("a.jpg\t3", "a.jpg", "3=3"),
        ("a.jpg 007", "a.jpg", "7=7"),
        ("a.jpg 3.0", "a.jpg", "3=3"),
        ("a.jpg 0.25", "a.jpg", "Fraction"),
        ("a.jpg -1", "a.jpg", "Missing"),
        ("a.jpg 3 7", "a.jpg", "Several"),
        ("a.jpg,1,2,3,cat", "a.jpg", "Several"),
        ("\"a, b.jpg\",3", "a, b.jpg", "3=3"),
        ("\"a \"\"b\"\".jpg\" \"cat\"", "a \"b\".jpg", "cat"),
        ("0\t7.000000\tx/a.jpg", "x/a.jpg", "7=7"),
        ("cat\ta.jpg", "a.jpg", "cat"),
        ("0\t1\t2\ta.jpg", "a.jpg", "Several"),
        // Nothing of these is a class.
        ("photo 3", "photo 3", "Missing"),
        ("holiday 2019, 3.jpg", "holiday 2019, 3.jpg", "Missing"),
        ("a.jpg copy 3.jpg", "a.jpg copy 3.jpg", "Missing"),
        ("\"quoted\" 3", "\"quoted\" 3", "Missing"),
        ("x,y", "x,y", "Missing"),
    ] {
        assert_eq!(line(text), (path.to_owned(), label.to_owned()), "{text}");
    }
}

#[test]
fn the_first_lines_tell_a_table_from_a_list() {
    let layout = |first, second| {
        let options = SourceOptions::default();
        match Layout::find(first, second, &options).unwrap() {
            Layout::Lines => "lines".to_owned(),
            Layout::Table { delimiter, path, label } => {
                let label = label.map_or("-".to_owned(), |label| label.name);
                format!("{} {} {label}", delimiter.escape_ascii(), path.name)
            }
        }
    };
    for (first, second, expected) in [
        ("path,label", "a.jpg,3", ", path label"),
        ("Width,ClassId,Path", "30,4,x.png", ", Path ClassId"),
        ("file_name,text", "a.jpg,a cat", ", file_name -"),
        ("image;category", "a.jpg;x", "; image category"),
        ("image\tlabel", "a.jpg\tx", "\\t image label"),
        ("image_id|file_name|class", "1|a.jpg|x", "| file_name class"),
        ("\"File Name\",\"Class\"", "a.jpg,x", ", File Name Class"),
        ("path", "a.jpg", ", path -"),
        ("id,breed", "a.jpg,dog", ", id -"),
        // No header.
        ("a.jpg,3", "b.jpg,4", "lines"),
        ("a.jpg", "b.jpg", "lines"),
        ("a.jpg\tcat", "b.jpg\tdog", "lines"),
        ("photos 1", "photos 2", "lines"),
        ("", "", "lines"),
    ] {
        assert_eq!(layout(first, second), expected, "{first:?}");
    }
}

#[test]
fn a_list_with_classes_is_read() {
    let (found, said) = read("# made by hand\n./a.png 12\r\n\nb c.png 3\n", &columns(None, None));
    let expected = [("./a.png".into(), class(12, "12")), ("b c.png".into(), class(3, "3"))];
    assert_eq!(found, expected);
    assert_eq!(said, ["read as a list of paths, 2 of 2 with a class; 1 line with # left out"]);
    let (found, said) = read("a.png 3 7\na.png\tx\nb c.png 0.5", &columns(None, None));
    assert_eq!(found[1].1, class(0, "x"));
    assert_eq!(
        said,
        [
            "read as a list of paths, 1 of 3 with a class",
            "1 of 3 paths repeat the one before, each as an image of its own",
            "1 image has several labels and so no class",
            "1 image has a fraction as label and so no class",
        ]
    );
    let no_classes = SourceOptions { classes: ClassSource::None, ..SourceOptions::default() };
    let (_, said) = read("path,label\na.png,3", &no_classes);
    assert_eq!(said, [r#"read as CSV: paths from "path", no classes"#]);
    let (found, said) = read("a.png 3", &columns(None, Some("none")));
    assert_eq!((found[0].1.clone(), said[0].contains("1 paths, without classes")), (None, true));
}

#[test]
fn a_csv_is_read_by_its_header() {
    let text = "\u{FEFF}label, path ,note\r\n3,a.png,\"two\nlines\"\r\n# left out\r\n\r\n\
                cat,\"d/e, f.png\",\r\n";
    let (found, said) = read(text, &columns(None, None));
    let expected = [("a.png".into(), class(0, "3")), ("d/e, f.png".into(), class(1, "cat"))];
    assert_eq!(found, expected);
    assert_eq!(said, [r#"read as CSV: paths from "path", classes from "label""#]);

    let text = "image;file_name;class;label\nx;a.png;4;5\ny;b c.png;;\n";
    let (found, said) = read(text, &columns(None, None));
    assert_eq!(found[0], ("a.png".into(), class(5, "5")));
    assert_eq!(found[1], ("b c.png".into(), None));
    assert_eq!(
        said,
        [
            r#"read as CSV with ';': paths from "file_name" (also: "image"), classes from "label" (also: "class"); --image-column and --label-column choose"#
        ]
    );
    let (found, _) = read("x\tpath\ty\na.png\tnone\tdog", &columns(Some("x"), Some("y")));
    assert_eq!(found, [("a.png".into(), class(0, "dog"))]);

    let (found, said) = read(",file_name,text\n0,a.png,a cat\n1,,x\n", &columns(None, None));
    assert_eq!(found[0], ("a.png".into(), None));
    assert_eq!(
        said,
        [
            r#"read as CSV: paths from "file_name", no classes (columns: "text"); --label-column chooses"#
        ]
    );
}

#[test]
fn a_row_without_a_path_or_with_other_bytes_is_refused() {
    let (_folder, path) = list(b"path,label\na.png,1\n,2\n\xFF.png,3\nshort\n");
    let errors: Vec<Option<String>> =
        all(&find(&path).unwrap()).into_iter().map(|source| source.error).collect();
    assert_eq!(errors[0], None);
    assert_eq!(errors[1].as_deref(), Some("no path in this row"));
    assert_eq!(errors[2].as_deref(), Some("the name is not UTF-8"));
    assert!(errors[3].is_some());
}

#[test]
fn columns_that_a_list_has_not_are_named() {
    for (text, options, expected) in [
        ("path,label\na.png,1", columns(Some("img"), None), "it has path, label"),
        ("path,label\na.png,1", columns(None, Some("class")), "it has path, label"),
        ("a.png 1", columns(Some("path"), None), r#"its first line is "a.png 1""#),
        ("a.png 1", columns(None, Some("label")), r#"its first line is "a.png 1""#),
    ] {
        let (_folder, path) = list(text);
        let message = find_with(&path, &options).unwrap_err().to_string();
        assert!(message.contains("list.csv: has no column"), "{message}");
        assert!(message.contains(expected), "{message}");
    }
    let (folder, _) = list("");
    let message = find_with(folder.path(), &columns(Some("x"), None)).unwrap_err().to_string();
    assert!(message.contains("--image-column: a folder of images has no columns"), "{message}");
    assert!(find_with(folder.path(), &columns(None, Some("none"))).is_ok());
}

#[test]
fn a_list_that_leads_nowhere_names_the_first_path_and_the_folder() {
    let (folder, path) = list("images/x.png 1\nimages/y.png 2\n");
    let message = find(&path).unwrap_err().to_string();
    let folder = folder.path().display().to_string();
    for words in ["none of its 2 paths", r#""images/x.png""#, &folder] {
        assert!(message.contains(words), "{message}");
    }
    let (_folder, path) = list("images/1.jpg masks/1.png\n");
    let message = find(&path).unwrap_err().to_string();
    assert!(message.contains("leave one path in each line"), "{message}");
    let (_folder, path) = list("https://host/x.png\n");
    let message = find(&path).unwrap_err().to_string();
    assert!(message.contains("download the images"), "{message}");
}

#[cfg(unix)]
#[test]
fn backslashes_of_windows_lead_to_the_image() {
    let (folder, path) = list("d\\e, f.png\nd\\own.png\n");
    write_image(&folder.path().join("d\\own.png"));
    write_image(&folder.path().join("d/own.png"));
    fs::write(folder.path().join("d/own.png"), "another").unwrap();
    let sources = find(&path).unwrap();
    assert_eq!((sources.source(0).width, sources.source(1).width), (5, 5));
    assert!(!sources.read(0).unwrap().1.is_empty());
    let reader = SourceReader::open(&path, &SourceOptions::default()).unwrap();
    assert!(reader.read(0, "d\\e, f.png").is_ok());
}

#[test]
fn text_that_is_no_list_is_refused() {
    let utf16: Vec<u8> = "\u{FEFF}a.png\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let long =
        [b"path\n\"".to_vec(), [vec![b'x'; 1023], vec![b'\n']].concat().repeat(5000)].concat();
    for (text, expected) in [
        (utf16, "UTF-16"),
        (b" [ {\"file_name\": \"a.png\"}]".to_vec(), "is JSON"),
        (b"{\n\"images\": []}".to_vec(), "is JSON"),
        (vec![b'x'; 1 << 17], "a line of over 65536 bytes"),
        (long, "a quote is not closed"),
    ] {
        let (_folder, path) = list(text);
        let message = find(&path).unwrap_err().to_string();
        assert!(message.contains("list.csv") && message.contains(expected), "{message}");
    }
}
