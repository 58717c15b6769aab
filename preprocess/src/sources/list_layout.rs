//! How a text file lists images: a table whose first line names its columns, or a path in each
//! line, which a class may follow.
//!
//! The first line alone, with the one below it, decides which of the two; in a list, each line is
//! read by itself. So the same text is always read alike, however long the file is.

use std::borrow::Cow;
use std::path::Path;

use csv::{ReaderBuilder, StringRecord, Trim};
use scrl_schemas::SourceOptions;

use super::classes::Label;
use super::columns::{Choice, LABEL_COLUMNS, label_option, quoted, same_name};
use super::format::is_image_name;

/// What may separate the columns of a table, by preference.
const DELIMITERS: [u8; 4] = [b',', b'\t', b';', b'|'];
/// Columns with paths, by name, the first that a table has.
const PATH_COLUMNS: [&str; 15] = [
    "file_name",
    "file_path",
    "path",
    "file",
    "image_path",
    "image_file",
    "image_file_name",
    "image_name",
    "img_path",
    "img_name",
    "rel_path",
    "image",
    "img",
    "images",
    "image_id",
];
/// Columns with the class beside [`LABEL_COLUMNS`].
const MORE_LABEL_COLUMNS: [&str; 8] = [
    "class_name",
    "label_name",
    "category",
    "target",
    "class_id",
    "label_id",
    "category_id",
    "category_name",
];
/// Columns named in a notice at most.
const NAMED_COLUMNS: usize = 8;

/// How a file lists its images.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// A path in each line.
    Lines,
    /// Columns.
    Table {
        /// What separates them.
        delimiter: u8,
        /// The column of paths.
        path: Choice,
        /// The column of classes, or those that might have been meant.
        label: Result<Choice, Vec<String>>,
    },
}

impl Layout {
    /// The layout of a file by its first and second line, comments and empty ones left out.
    ///
    /// # Errors
    /// The reason, if the columns that options name are missing.
    pub fn find(first: &str, second: &str, options: &SourceOptions) -> Result<Self, String> {
        let wanted = options.image_column.as_deref();
        let is_header = |fields: &[String], delimiter| {
            let below = fields_of(second, delimiter);
            let is_named = match wanted {
                Some(name) => fields.iter().any(|field| field == name),
                None => fields.iter().any(|field| rank(field).is_some()),
            };
            let is_above_an_image =
                fields.len() > 1 && fields.len() == below.len() && below.iter().any(is_image);
            !fields.iter().any(is_image) && (is_named || is_above_an_image)
        };
        let tables = DELIMITERS.map(|delimiter| (delimiter, fields_of(first, delimiter)));
        let mut headers: Vec<&(u8, Vec<String>)> =
            tables.iter().filter(|(delimiter, fields)| is_header(fields, *delimiter)).collect();
        // A stable sort: of as many columns the preferred delimiter.
        headers.sort_by_key(|(_, fields)| std::cmp::Reverse(fields.len()));
        let Some((delimiter, fields)) = headers.first() else {
            return Self::without_header(first, options);
        };
        let names: Vec<&str> = fields.iter().map(String::as_str).collect();
        let path = match wanted {
            Some(name) => Choice::named("image-column", name, &names)?,
            None => {
                let mut known: Vec<(usize, usize)> = (0..names.len())
                    .filter_map(|column| Some((rank(names[column])?, column)))
                    .collect();
                known.sort();
                let above_image = || fields_of(second, *delimiter).iter().position(is_image);
                let column = known.first().map(|(_, column)| *column).or_else(above_image);
                let known: Vec<usize> = known.into_iter().map(|(_, column)| column).collect();
                Choice::found(column.unwrap_or_default(), &known, &names)
            }
        };
        let known: Vec<&str> = LABEL_COLUMNS.into_iter().chain(MORE_LABEL_COLUMNS).collect();
        let is_candidate = |column: usize| names[column].to_lowercase().ends_with("label");
        let mut label = Choice::of_classes(options, &names, &known, is_candidate)?;
        if label.is_err() && label_option(options).is_none() {
            let is_other = |&column: &usize| column != path.column && !names[column].is_empty();
            let others = (0..names.len()).filter(is_other);
            label = Err(others.map(|column| names[column].to_owned()).collect());
        }
        Ok(Self::Table { delimiter: *delimiter, path, label })
    }

    /// # Errors
    /// If an option names a column.
    fn without_header(first: &str, options: &SourceOptions) -> Result<Self, String> {
        let label = label_option(options).filter(|&name| name != "none");
        let image = options.image_column.as_deref().map(|name| ("image-column", name));
        match image.or(label.map(|name| ("label-column", name))) {
            Some((option, name)) => Err(format!(
                "has no column {name:?} for --{option}: its first line is {first:?}; name the \
                 columns there, or leave out --{option}"
            )),
            None => Ok(Self::Lines),
        }
    }

    /// How the table was read; `None` for a list.
    pub fn notice(&self) -> Option<String> {
        let Self::Table { delimiter, path, label } = self else { return None };
        let kind = match delimiter {
            b',' => "CSV".to_owned(),
            b'\t' => "TSV".to_owned(),
            other => format!("CSV with {:?}", char::from(*other)),
        };
        let mut choosers = Vec::new();
        if !path.also.is_empty() {
            choosers.push("--image-column");
        }
        let label = match label {
            Ok(label) => {
                if !label.also.is_empty() {
                    choosers.push("--label-column");
                }
                format!("classes from {label}")
            }
            Err(others) if others.is_empty() => "no classes".to_owned(),
            Err(others) => {
                choosers.push("--label-column");
                let more = if others.len() > NAMED_COLUMNS { ", …" } else { "" };
                let named = quoted(&others[..others.len().min(NAMED_COLUMNS)]);
                format!("no classes (columns: {named}{more})")
            }
        };
        let chooses = match choosers[..] {
            [] => String::new(),
            [one] => format!("; {one} chooses"),
            _ => "; --image-column and --label-column choose".to_owned(),
        };
        Some(format!("read as {kind}: paths from {path}, {label}{chooses}"))
    }
}

/// A line of a list.
#[derive(Debug)]
pub(super) struct Line<'a> {
    pub path: Cow<'a, str>,
    pub label: Label,
}

impl<'a> Line<'a> {
    /// Reads a line, the first of these that applies:
    ///
    /// 1. a path in quotes, and what follows it as the class;
    /// 2. behind a tab the class; before it where the last field is named like an image and the
    ///    first is not;
    /// 3. a path, if the line is named like an image as a whole;
    /// 4. a path that is named like an image, a space, comma or semicolon, and the class;
    /// 5. a path.
    pub fn read(line: &'a str) -> Self {
        let new = |path: &'a str, label| Self { path: path.into(), label };
        if let Some((path, rest)) = quoted_path(line) {
            return Self { path: path.into(), label: label_behind(rest) };
        }
        if let Some((first, rest)) = line.split_once('\t') {
            let fields: Vec<&str> = line.split('\t').map(str::trim).collect();
            return match fields[..] {
                [one, .., last] if is_image(last) && !is_image(one) => {
                    let label = match fields[..fields.len() - 1] {
                        [label] | [_, label] => Label::of_text(label),
                        _ => Label::Several,
                    };
                    new(last, label)
                }
                _ => new(first, Label::of_text(rest)),
            };
        }
        match image_within(line).filter(|_| !is_image(line)) {
            Some(path) => new(path, label_behind(&line[path.len()..])),
            None => new(line, Label::Missing),
        }
    }
}

/// The longest part before a space, comma or semicolon that is named like an image.
pub(super) fn image_within(line: &str) -> Option<&str> {
    let separators = line.rmatch_indices(is_separator);
    separators.map(|(at, _)| &line[..at]).find(|before| is_image(before))
}

fn is_separator(c: char) -> bool {
    matches!(c, ',' | ';') || c.is_whitespace()
}

/// The label that follows a path and a separator. Several fields are several labels.
fn label_behind(rest: &str) -> Label {
    let fields = rest.trim().trim_start_matches([',', ';']).trim();
    match fields.contains([',', ';']) {
        true => Label::Several,
        false => Label::of_text(fields.trim_matches('"')),
    }
}

/// The content of the quotes with which a line begins, if it is named like an image, and what
/// follows them.
fn quoted_path(line: &str) -> Option<(String, &str)> {
    let inner = line.strip_prefix('"')?;
    let mut end = inner.find('"')?;
    // Two quotes stand for one.
    while inner[end + 1..].starts_with('"') {
        end += 2 + inner[end + 2..].find('"')?;
    }
    let path = inner[..end].replace("\"\"", "\"");
    is_image(&path).then(|| (path, &inner[end + 1..]))
}

fn is_image(name: impl AsRef<str>) -> bool {
    is_image_name(Path::new(name.as_ref()))
}

/// The fields of the line of a table.
fn fields_of(line: &str, delimiter: u8) -> Vec<String> {
    let mut builder = ReaderBuilder::new();
    builder.delimiter(delimiter).has_headers(false).trim(Trim::All);
    let mut record = StringRecord::new();
    match builder.from_reader(line.as_bytes()).read_record(&mut record) {
        Ok(true) => record.iter().map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// The place of a column's name among those of paths.
fn rank(name: &str) -> Option<usize> {
    PATH_COLUMNS.iter().position(|known| same_name(known, name))
}
