//! Which columns of a table hold the images and their classes.

use std::fmt;

use scrl_schemas::{ClassSource, SourceOptions};

/// Columns with the class, by name, the first that a table has.
pub(super) const LABEL_COLUMNS: [&str; 5] = ["label", "labels", "fine_label", "class", "cls"];

/// A column that was chosen, and those that might have been meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// Its number.
    pub column: usize,
    /// Its name.
    pub name: String,
    /// The names of the others; empty where an option chose.
    pub also: Vec<String>,
}

impl Choice {
    /// The column that an option names.
    ///
    /// # Errors
    /// The reason, if there is none of that name.
    pub fn named(option: &str, name: &str, columns: &[&str]) -> Result<Self, String> {
        let column = columns.iter().position(|column| *column == name).ok_or_else(|| {
            format!("has no column {name:?} for --{option}; it has {}", columns.join(", "))
        })?;
        Ok(Self { column, name: name.to_owned(), also: Vec::new() })
    }

    /// A column that was found among `candidates`.
    pub fn found(column: usize, candidates: &[usize], columns: &[&str]) -> Self {
        let others = candidates.iter().filter(|&&other| other != column);
        let also = others.map(|&other| columns[other].to_owned()).collect();
        Self { column, name: columns[column].to_owned(), also }
    }

    /// The column of classes: that which an option names, else the first of the `known` names;
    /// `is_candidate` says which others might have been meant. Without one, its candidates.
    ///
    /// # Errors
    /// The reason, if there is none of the option's name.
    pub fn of_classes(
        options: &SourceOptions,
        columns: &[&str],
        known: &[&str],
        is_candidate: impl Fn(usize) -> bool,
    ) -> Result<Result<Self, Vec<String>>, String> {
        match label_option(options) {
            Some("none") => return Ok(Err(Vec::new())),
            Some(name) => return Self::named("label-column", name, columns).map(Ok),
            None => {}
        }
        let is_known = |column: &str| known.iter().any(|name| same_name(name, column));
        let candidates: Vec<usize> = (0..columns.len())
            .filter(|&column| is_known(columns[column]) || is_candidate(column))
            .collect();
        let position = |name: &&str| columns.iter().position(|column| same_name(column, name));
        Ok(match known.iter().find_map(position) {
            Some(column) => Ok(Self::found(column, &candidates, columns)),
            None => Err(candidates.iter().map(|&column| columns[column].to_owned()).collect()),
        })
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:?}", self.name)?;
        if self.also.is_empty() { Ok(()) } else { write!(f, " (also: {})", quoted(&self.also)) }
    }
}

/// The column of classes that the options name, or `none`.
pub(super) fn label_option(options: &SourceOptions) -> Option<&str> {
    match options.classes {
        ClassSource::None => Some("none"),
        ClassSource::Folder => options.label_column.as_deref(),
    }
}

/// Names in quotes, with commas.
pub(super) fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}

/// Whether two names of columns differ at most in case, `_`, `-` and spaces.
pub(super) fn same_name(a: &str, b: &str) -> bool {
    let letters = |name: &str| -> Vec<char> {
        name.chars()
            .filter(|c| !matches!(c, '_' | '-' | ' '))
            .flat_map(char::to_lowercase)
            .collect()
    };
    letters(a) == letters(b)
}
