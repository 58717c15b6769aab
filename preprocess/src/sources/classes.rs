//! Class names and their labels.

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
