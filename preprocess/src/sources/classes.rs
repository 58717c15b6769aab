//! Class names, their labels, and what tables and lists hold as labels.

use std::collections::HashMap;
use std::sync::Arc;

use super::format::Class;

/// The classes found so far, numbered in the order in which they were first found.
#[derive(Debug, Default)]
pub(super) struct Classes {
    numbers: HashMap<Arc<str>, u32>,
    names: Vec<Arc<str>>,
    /// The label of each: until [`Classes::assign_labels`], only those that came with the data.
    labels: Vec<Option<i32>>,
}

impl Classes {
    /// The number of a class, which is added if it is new.
    pub fn add(&mut self, class: Class) -> u32 {
        let (label, name) = match class {
            Class::Name(name) => (None, name),
            Class::Number(label, name) => (Some(label), name),
        };
        if let Some(&known) = self.numbers.get(name.as_str()) {
            return known;
        }
        let name: Arc<str> = name.into();
        let number = self.names.len() as u32;
        self.numbers.insert(name.clone(), number);
        self.names.push(name);
        self.labels.push(label);
        number
    }

    /// Labels every class: the label that came with the data, or if any class came without one, the
    /// position of its name among the sorted names.
    pub fn assign_labels(&mut self) {
        if self.labels.iter().any(Option::is_none) {
            let mut sorted: Vec<usize> = (0..self.names.len()).collect();
            sorted.sort_by(|&a, &b| self.names[a].cmp(&self.names[b]));
            for (label, class) in sorted.into_iter().enumerate() {
                self.labels[class] = Some(label as i32);
            }
        }
    }

    /// How many classes there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// The names, in the order in which they were added.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|name| &**name)
    }

    /// The label and the name of a class by its number.
    pub fn get(&self, class: u32) -> (i32, Arc<str>) {
        let class = class as usize;
        (self.labels[class].unwrap_or_default(), self.names[class].clone())
    }
}

/// What a table or list holds as an image's class.
#[derive(Debug)]
pub(super) enum Label {
    /// Nothing, or a number below 0, which Hugging Face writes for an unknown class.
    Missing,
    /// A class.
    Class(Class),
    /// Several classes, or none of several.
    Several,
    /// A number with a fraction.
    Fraction,
}

impl Label {
    /// A whole number, with the names of the classes where there are any.
    pub fn of_integer(number: i64, names: &[String]) -> Self {
        match i32::try_from(number) {
            Ok(number) if number >= 0 => {
                let name = names.get(number as usize).cloned();
                Self::Class(Class::Number(number, name.unwrap_or_else(|| number.to_string())))
            }
            _ => Self::Missing,
        }
    }

    /// A number. Whole numbers are often stored as floats, as those of pandas with missing values.
    pub fn of_float(number: f64, names: &[String]) -> Self {
        if number.is_nan() {
            Self::Missing
        } else if number.fract() == 0.0 {
            Self::of_integer(number as i64, names)
        } else {
            Self::Fraction
        }
    }

    /// A name, even where it looks like a number.
    pub fn of_name(name: &str) -> Self {
        Self::Class(Class::Name(name.to_owned()))
    }

    /// The text of a field: a number, several whole numbers, or a name.
    pub fn of_text(text: &str) -> Self {
        let text = text.trim();
        let is_numeric = !text.contains(|c: char| !(c.is_ascii_digit() || ".+-".contains(c)));
        if text.is_empty() {
            Self::Missing
        } else if is_numeric && let Ok(number) = text.parse::<i32>() {
            Self::of_integer(number.into(), &[])
        } else if is_numeric
            && text.contains('.')
            && let Ok(number) = text.parse::<f64>()
        {
            Self::of_float(number, &[])
        } else {
            let mut parts = text.split([' ', '\t', ',', ';', '|']).filter(|part| !part.is_empty());
            match parts.all(|part| part.parse::<i32>().is_ok()) && !is_numeric {
                true => Self::Several,
                false => Self::of_name(text),
            }
        }
    }
}

/// Takes labels as classes and counts those that are none.
#[derive(Debug, Default)]
pub(super) struct Labels {
    /// Images with a class.
    pub classified: u64,
    several: u64,
    fractions: u64,
}

impl Labels {
    /// The class of an image.
    pub fn class(&mut self, label: Label) -> Option<Class> {
        match label {
            Label::Class(class) => {
                self.classified += 1;
                return Some(class);
            }
            Label::Several => self.several += 1,
            Label::Fraction => self.fractions += 1,
            Label::Missing => {}
        }
        None
    }

    /// What the user should know of labels that are no class.
    pub fn notices(&self) -> impl Iterator<Item = String> {
        let reasons = [(self.several, "several labels"), (self.fractions, "a fraction as label")];
        reasons.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| match count {
            1 => format!("1 image has {what} and so no class"),
            _ => format!("{count} images have {what} and so no class"),
        })
    }
}
