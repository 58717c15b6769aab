//! Annotation files in COCO's format, read as pycocotools reads them and beyond: also with a byte
//! order mark, with what Python's json writes for NaN, and with ids of any kind. An entry that is
//! incomplete does not make the others unusable.

use std::borrow::Cow;
use std::fmt::{self, Display, Formatter};
use std::fs;
use std::path::Path;

use scrl_cli::text;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::{Error, Result};

/// The numbers that Python's json writes though JSON has none for them.
const NOT_NUMBERS: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];

/// The lists of an annotation file.
#[derive(Debug)]
pub(super) struct AnnotationFile {
    pub images: Vec<ListedImage>,
    pub annotations: Vec<Annotation>,
    pub categories: Vec<Category>,
}

/// The lists, as far as they are there.
#[derive(Deserialize)]
struct Lists {
    images: Option<Vec<ListedImage>>,
    annotations: Option<Vec<Annotation>>,
    categories: Option<Vec<Category>>,
}

/// An image of the list.
#[derive(Debug, Deserialize)]
pub(super) struct ListedImage {
    #[serde(default, deserialize_with = "id")]
    pub id: Option<Id>,
    #[serde(default, deserialize_with = "text")]
    file_name: Option<String>,
    /// LVIS has this instead of `file_name`.
    #[serde(default, deserialize_with = "text")]
    coco_url: Option<String>,
    #[serde(default, deserialize_with = "pixels")]
    pub width: Option<i32>,
    #[serde(default, deserialize_with = "pixels")]
    pub height: Option<i32>,
}

impl ListedImage {
    /// The path as written, or the URL.
    pub fn name(&self) -> Option<&str> {
        self.file_name.as_deref().or(self.coco_url.as_deref())
    }
}

/// A box around an object or a crowd.
#[derive(Debug, Deserialize)]
pub(super) struct Annotation {
    #[serde(default, deserialize_with = "id")]
    pub id: Option<Id>,
    #[serde(default, deserialize_with = "id")]
    pub image_id: Option<Id>,
    #[serde(default, deserialize_with = "id")]
    pub category_id: Option<Id>,
    /// x, y, width, height in pixels; `None` unless there are four finite numbers.
    #[serde(default, deserialize_with = "four_numbers")]
    pub bbox: Option<[f64; 4]>,
    #[serde(default, deserialize_with = "flag", rename = "iscrowd")]
    pub is_crowd: bool,
}

/// A class.
#[derive(Debug, Deserialize)]
pub(super) struct Category {
    #[serde(default, deserialize_with = "id")]
    pub id: Option<Id>,
    #[serde(default, deserialize_with = "text")]
    pub name: Option<String>,
}

/// An id. Integers are the same id however they are written: 7, 7.0, "7" and "000007".
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Id {
    /// An integer.
    Number(i64),
    /// Any other text or number.
    Text(String),
}

impl Display for Id {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => write!(f, "{text:?}"),
        }
    }
}

impl AnnotationFile {
    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, is not JSON, or lacks one of the lists.
    pub fn read(file: &Path) -> Result<Self> {
        let bytes = fs::read(file).map_err(Error::io(file))?;
        let refuse = |reason: &dyn Display| {
            let reason = format!("not an annotation file in COCO's format: {reason}");
            Error::dataset(file, reason)
        };
        if text::is_utf_16(&bytes) {
            return Err(refuse(&"it is UTF-16; save it as UTF-8"));
        }
        let json = standard_json(&bytes);
        if json.trim_ascii_start().starts_with(b"[") {
            let advice = "give the file with images, annotations and categories";
            return Err(refuse(&format!("it is a list, as detections are; {advice}")));
        }
        let lists: Lists = serde_json::from_slice(&json).map_err(|error| refuse(&error))?;
        let missing = |name| move || refuse(&format!("it has no list of {name}"));
        Ok(Self {
            images: lists.images.ok_or_else(missing("images"))?,
            annotations: lists.annotations.ok_or_else(missing("annotations"))?,
            categories: lists.categories.ok_or_else(missing("categories"))?,
        })
    }
}

/// The text without a byte order mark, and with null where there is NaN or an infinity.
fn standard_json(text: &[u8]) -> Cow<'_, [u8]> {
    let text = text::without_mark(text);
    let mut replaced = Vec::new();
    let (mut at, mut copied) = (0, 0);
    let mut in_string = false;
    while let Some(byte) = text.get(at) {
        let word = match byte {
            b'"' => {
                in_string = !in_string;
                None
            }
            // What is escaped does not end the string.
            b'\\' if in_string => {
                at += 1;
                None
            }
            b'N' | b'I' | b'-' if !in_string => {
                NOT_NUMBERS.iter().find(|word| text[at..].starts_with(word))
            }
            _ => None,
        };
        let Some(word) = word else {
            at += 1;
            continue;
        };
        replaced.extend_from_slice(&text[copied..at]);
        replaced.extend_from_slice(b"null");
        at += word.len();
        copied = at;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    replaced.extend_from_slice(&text[copied..]);
    Cow::Owned(replaced)
}

/// A number, or a text of one.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
    .filter(|number: &f64| number.is_finite())
}

fn id<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<Id>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let exact = match &value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let whole = || number(&value).filter(|n| n.fract() == 0.0 && n.abs() < i64::MAX as f64);
    Ok(match (exact.or_else(|| whole().map(|number| number as i64)), &value) {
        (Some(number), _) => Some(Id::Number(number)),
        (None, Value::Number(number)) => Some(Id::Text(number.to_string())),
        (None, Value::String(text)) => Some(Id::Text(text.clone())),
        (None, _) => None,
    })
}

fn text<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    })
}

fn pixels<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<i32>, D::Error> {
    let number = number(&Value::deserialize(deserializer)?);
    let is_count = |n: &f64| n.fract() == 0.0 && (1.0..=f64::from(i32::MAX)).contains(n);
    Ok(number.filter(is_count).map(|number| number as i32))
}

fn four_numbers<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<[f64; 4]>, D::Error> {
    let Value::Array(values) = Value::deserialize(deserializer)? else { return Ok(None) };
    let numbers: Option<Vec<f64>> = values.iter().map(Value::as_f64).collect();
    Ok(numbers.and_then(|numbers| numbers.try_into().ok()))
}

fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<bool, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(value == Value::Bool(true) || number(&value).is_some_and(|number| number != 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: impl AsRef<[u8]>) -> Result<AnnotationFile> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("list.json");
        fs::write(&file, text).unwrap();
        AnnotationFile::read(&file)
    }

    fn annotation(fields: &str) -> Annotation {
        let text = format!(r#"{{"images": [], "categories": [], "annotations": [{{{fields}}}]}}"#);
        read(text).unwrap().annotations.remove(0)
    }

    #[test]
    fn a_byte_order_mark_is_skipped() {
        let text = r#"{"images": [], "annotations": [], "categories": []}"#;
        assert!(read([text::BYTE_ORDER_MARK, text.as_bytes()].concat()).is_ok());
    }

    #[test]
    fn nan_and_infinities_are_null_but_not_in_texts() {
        let text =
            br#"{"a": NaN, "b": [-Infinity, Infinity, -1], "c": "NaN \" Infinity\\", "d":NaN}"#;
        let expected = r#"{"a": null, "b": [null, null, -1], "c": "NaN \" Infinity\\", "d":null}"#;
        assert_eq!(String::from_utf8_lossy(&standard_json(text)), expected);
        assert!(matches!(standard_json(expected.as_bytes()), Cow::Borrowed(_)));
        let odd = annotation(r#""area": NaN, "score": Infinity, "bbox": [1, 2, 3, 4.5]"#);
        assert_eq!(odd.bbox, Some([1.0, 2.0, 3.0, 4.5]));
    }

    #[test]
    fn ids_are_the_same_however_they_are_written() {
        let id = |text: &str| annotation(&format!(r#""image_id": {text}"#)).image_id;
        for text in ["7", "7.0", "\"7\"", "\" 7\"", "\"007\"", "\"7.0\"", "0.7e1"] {
            assert_eq!(id(text), Some(Id::Number(7)), "{text}");
        }
        assert_eq!(id("900100581904"), Some(Id::Number(900_100_581_904)));
        assert_eq!(id("\"img_7\""), Some(Id::Text("img_7".into())));
        assert_eq!(id("7.5"), Some(Id::Text("7.5".into())));
        for text in ["null", "NaN", "[7]", "true"] {
            assert_eq!(id(text), None, "{text}");
        }
        assert!(Id::Number(10) < Id::Text("1".into()) && Id::Number(9) < Id::Number(10));
    }

    #[test]
    fn a_box_is_four_finite_numbers() {
        assert_eq!(annotation("").bbox, None);
        for text in ["null", "[]", "[1, 2, 3]", "[1, 2, 3, 4, 5]", "[1, 2, 3, NaN]", "{}", "7"] {
            assert_eq!(annotation(&format!(r#""bbox": {text}"#)).bbox, None, "{text}");
        }
    }

    #[test]
    fn crowds_are_marked_by_numbers_and_booleans() {
        let is_crowd = |text: &str| annotation(&format!(r#""iscrowd": {text}"#)).is_crowd;
        for text in ["1", "1.0", "true", "\"1\""] {
            assert!(is_crowd(text), "{text}");
        }
        for text in ["0", "0.0", "false", "\"0\"", "null"] {
            assert!(!is_crowd(text), "{text}");
        }
        assert!(!annotation("").is_crowd);
    }

    #[test]
    fn sizes_and_names_may_be_texts_or_missing() {
        let text = r#"{"images": [{"width": "640", "height": 480.0, "file_name": "a.jpg"},
            {"width": null, "height": NaN, "coco_url": "http://x/b.jpg"}],
            "annotations": [], "categories": [{"id": 1, "name": 5}, {"id": 2}]}"#;
        let AnnotationFile { images, categories, .. } = read(text).unwrap();
        assert_eq!((images[0].width, images[0].height), (Some(640), Some(480)));
        assert_eq!((images[1].width, images[1].height), (None, None));
        assert_eq!([images[0].name(), images[1].name()], [Some("a.jpg"), Some("http://x/b.jpg")]);
        assert_eq!(categories[0].name.as_deref(), Some("5"));
        assert_eq!(categories[1].name, None);
    }

    #[test]
    fn what_is_no_annotation_file_is_refused_with_the_reason() {
        let utf_16 = [b"\xff\xfe".as_slice(), b"{\0}\0"].concat();
        for (content, reason) in [
            (&b"{}"[..], "it has no list of images"),
            (br#"{"images": [], "annotations": null}"#, "it has no list of annotations"),
            (br#"{"images": [], "annotations": []}"#, "it has no list of categories"),
            (br#" [{"image_id": 1, "bbox": []}]"#, "it is a list, as detections are"),
            (&utf_16, "it is UTF-16; save it as UTF-8"),
            (br#"{"images": [}"#, "line 1 column 13"),
            (b"", "EOF"),
        ] {
            let message = read(content).unwrap_err().to_string();
            assert!(message.contains(reason) && message.lines().count() == 1, "{message}");
        }
    }
}
