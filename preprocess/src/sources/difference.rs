//! How the images differ from those that a folder of shards was made from.

use std::collections::HashMap;
use std::mem;

use indicatif::HumanCount;

use super::passed_over::is_below_hidden;

/// Images of one list that wait for their like in the other, at most: in another order that can
/// be all of them.
const MOST_WAITING: usize = 1 << 20;

/// Compares two lists of images, a pair at a time.
///
/// Memory: while nothing differs, none. After that, only images that are not at the same position
/// in both lists wait, and each for as long as the lists are shifted against each other there.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// Images passed that were in both lists, at the same position.
    same: u64,
    /// Sizes of known images that were not found yet, and of those found that are not known yet,
    /// where listing gives them.
    missing: HashMap<String, Option<u64>>,
    unknown: HashMap<String, Option<u64>>,
    changed: Names,
    /// The first image that was not at its position.
    first: Option<String>,
    has_moved: bool,
    is_cut: bool,
}

/// A few names and how many there are.
#[derive(Debug, Default)]
struct Names {
    count: u64,
    first: Option<String>,
}

impl Names {
    /// The smallest name of these, so that the same lists give the same text.
    fn of(waiting: &HashMap<String, Option<u64>>) -> Self {
        Self { count: waiting.len() as u64, first: waiting.keys().min().cloned() }
    }

    /// `a.jpg is gone`, `3 images are gone (a.jpg, …)`.
    fn says(&self, one: &str, many: &str) -> Option<String> {
        let first = self.first.as_ref()?;
        Some(match self.count {
            1 => format!("{first} {one}"),
            count => format!("{} images {many} ({first}, …)", HumanCount(count)),
        })
    }
}

impl Difference {
    /// Compares the next known image with the next found one; either list may have ended. Once so
    /// much differs that the difference [is cut](Self::is_cut), nothing more is compared.
    pub fn compare(&mut self, known: Option<(&str, u64)>, found: Option<(&str, Option<u64>)>) {
        if self.is_cut {
            return;
        }
        if let (Some((known, before)), Some((path, now))) = (known, found)
            && known == path
        {
            self.compare_sizes(path, Some(before), now);
            self.same += u64::from(self.is_empty());
            return;
        }
        if let Some((path, before)) = known {
            self.first.get_or_insert_with(|| path.to_owned());
            match self.unknown.remove(path) {
                Some(now) => self.found_elsewhere(path, Some(before), now),
                None => drop(self.missing.insert(path.to_owned(), Some(before))),
            }
        }
        if let Some((path, now)) = found {
            match self.missing.remove(path) {
                Some(before) => self.found_elsewhere(path, before, now),
                None => drop(self.unknown.insert(path.to_owned(), now)),
            }
        }
        self.is_cut = self.missing.len().max(self.unknown.len()) > MOST_WAITING;
    }

    /// Whether so much differs that more need not be compared.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    fn found_elsewhere(&mut self, path: &str, before: Option<u64>, now: Option<u64>) {
        self.has_moved = true;
        self.compare_sizes(path, before, now);
    }

    fn compare_sizes(&mut self, path: &str, before: Option<u64>, now: Option<u64>) {
        if let (Some(before), Some(now)) = (before, now)
            && before != now
        {
            self.changed.count += 1;
            let text = || format!("{path} ({before} bytes, now {now})");
            self.changed.first.get_or_insert_with(text);
        }
    }

    fn is_empty(&self) -> bool {
        let nothing_waits = self.missing.is_empty() && self.unknown.is_empty();
        nothing_waits && !self.has_moved && self.changed.count == 0
    }

    /// What differs, in one line; `None` if nothing does.
    pub fn describe(mut self) -> Option<String> {
        if self.is_empty() {
            return None;
        }
        if self.is_cut {
            return Some(format!("after the first {} nearly all images differ", self.same));
        }
        let (missing, unknown) = (mem::take(&mut self.missing), mem::take(&mut self.unknown));
        let hidden = missing.keys().filter(|path| is_below_hidden(path)).count();
        let gone = Names::of(&missing);
        let new = Names::of(&unknown);
        let parts = [
            gone.says("is gone", "are gone"),
            new.says("is new", "are new"),
            self.changed.says("has changed", "have changed"),
        ];
        let mut text: Vec<String> = parts.into_iter().flatten().collect();
        if text.is_empty() {
            let first = self.first.unwrap_or_default();
            text.push(format!("they are in another order from {first} on"));
        }
        if hidden > 0 {
            let of_these = if hidden == missing.len() { "" } else { "some of " };
            text.push(format!("{of_these}those gone are hidden files, which are images no more"));
        }
        Some(text.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn describe(known: &[(&str, u64)], found: &[(&str, u64)]) -> Option<String> {
        let mut difference = Difference::default();
        for row in 0..known.len().max(found.len()) {
            let found = found.get(row).map(|&(path, bytes)| (path, Some(bytes)));
            difference.compare(known.get(row).copied(), found);
        }
        difference.describe()
    }

    #[test]
    fn what_differs_is_named_and_counted() {
        let all = [("a", 1), ("b", 2), ("c", 3), ("d", 4)];
        let is = |found: &[(&str, u64)], expected: &str| {
            assert_eq!(describe(&all, found).as_deref(), Some(expected));
        };
        assert_eq!(describe(&all, &all), None);
        is(&[("a", 1), ("c", 3), ("d", 4)], "b is gone");
        is(&all[..3], "d is gone");
        is(&all[2..], "2 images are gone (a, …)");
        is(&[("a", 1), ("b", 2), ("bb", 9), ("c", 3), ("d", 4)], "bb is new");
        is(&[("a", 1), ("b", 5), ("c", 3), ("d", 4)], "b (2 bytes, now 5) has changed");
        is(
            &[("b", 7), ("c", 3), ("d", 8), ("e", 5)],
            "a is gone, e is new, 2 images have changed (b (2 bytes, now 7), …)",
        );
        is(&[("a", 1), ("c", 3), ("b", 2), ("d", 4)], "they are in another order from b on");
        assert_eq!(
            describe(&[("._a", 1), ("a", 2)], &[("a", 2)]).unwrap(),
            "._a is gone, those gone are hidden files, which are images no more"
        );
        // Sizes that listing does not give are taken as unchanged.
        let mut difference = Difference::default();
        difference.compare(Some(("a", 1)), Some(("a", None)));
        assert!(difference.is_empty());
        assert_eq!(difference.describe(), None);
    }

    #[test]
    fn lists_that_are_shifted_wait_for_one_image_at_a_time() {
        let mut difference = Difference::default();
        let names: Vec<String> = (0..1000).map(|number| format!("{number:04}")).collect();
        for row in 0..1000 {
            let found = names.get(row + usize::from(row >= 500)).map(|name| (&**name, Some(1)));
            difference.compare(Some((&names[row], 1)), found);
            assert_eq!(difference.is_empty(), row < 500);
            assert!(difference.missing.len() <= 2 && difference.unknown.len() <= 1, "{row}");
        }
        assert_eq!(difference.describe().unwrap(), "0500 is gone");
    }

    #[test]
    fn lists_with_little_in_common_are_not_compared_to_the_end() {
        let mut difference = Difference::default();
        difference.compare(Some(("same", 1)), Some(("same", Some(1))));
        for number in 0..=MOST_WAITING {
            assert!(!difference.is_cut());
            difference.compare(Some((&number.to_string(), 1)), None);
        }
        assert!(difference.is_cut());
        // Nothing waits any longer for what follows.
        let waiting = difference.missing.len();
        difference.compare(Some(("one more", 1)), Some(("another", Some(1))));
        assert_eq!((difference.missing.len(), difference.unknown.len()), (waiting, 0));
        assert_eq!(difference.describe().unwrap(), "after the first 1 nearly all images differ");
    }
}
