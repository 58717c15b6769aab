//! The nearest neighbors of a few queries to look at, and the fraction of neighbors of the same
//! class over all rows.

use std::collections::HashMap;

use scrl_cli::Reporter;

use super::{EmbeddedRow, PageArm, evenly};
use crate::Result;
use crate::evaluate::neighbors::{Neighbor, nearest};

/// Queries shown, and neighbors of each.
const SHOWN: usize = 40;
const NEIGHBORS: usize = 8;

/// Neighbors whose classes are counted, and the most queries for that.
const COUNTED: usize = 10;
const QUERIES: usize = 5000;

/// The classes of the rows.
pub(super) struct Classes<'a> {
    /// In alphabetical order.
    pub names: Vec<&'a str>,
    /// The class of each row as an index of `names`.
    pub of_rows: Vec<Option<usize>>,
}

impl<'a> Classes<'a> {
    pub fn new(rows: &'a [EmbeddedRow]) -> Self {
        let mut names: Vec<&str> = rows.iter().filter_map(|row| row.class.as_deref()).collect();
        names.sort_unstable();
        names.dedup();
        let index = |row: &EmbeddedRow| names.binary_search(&row.class.as_deref()?).ok();
        let of_rows = rows.iter().map(index).collect();
        Self { names, of_rows }
    }

    /// The rows of each class.
    pub fn rows(&self) -> Vec<Vec<usize>> {
        let mut rows = vec![Vec::new(); self.names.len()];
        for (row, class) in self.of_rows.iter().enumerate() {
            if let Some(class) = class {
                rows[*class].push(row);
            }
        }
        rows
    }
}

/// The rows to show the neighbors of: evenly spread over the classes and the rows of each, or over
/// all rows if no class is known.
pub(super) fn queries(classes: &Classes) -> Vec<usize> {
    let rows = classes.rows();
    if rows.is_empty() {
        return evenly(classes.of_rows.len(), SHOWN);
    }
    let shown = evenly(rows.len(), SHOWN);
    let mut counts = vec![0; shown.len()];
    let mut left = SHOWN;
    // Every class gets one more in turn, as long as it has more rows.
    while left > 0 {
        let before = left;
        for (count, &class) in counts.iter_mut().zip(&shown) {
            if left > 0 && *count < rows[class].len() {
                *count += 1;
                left -= 1;
            }
        }
        if left == before {
            break;
        }
    }
    let of_class = |(&class, count): (&usize, usize)| -> Vec<usize> {
        evenly(rows[class].len(), count).into_iter().map(|number| rows[class][number]).collect()
    };
    shown.iter().zip(counts).flat_map(of_class).collect()
}

/// The nearest neighbors of each query, boxes of its own image left out. `embeddings` are
/// normalized.
pub(super) fn of_queries(
    rows: &[EmbeddedRow],
    queries: &[usize],
    (embeddings, channels): (&[f32], usize),
    reporter: &Reporter,
) -> Result<Vec<Vec<Neighbor>>> {
    let of_queries = gather(embeddings, channels, queries);
    nearest(
        [&of_queries, embeddings],
        (channels, NEIGHBORS),
        |query, row| rows[queries[query]].image == rows[row].image,
        |_, neighbors| neighbors.to_vec(),
        reporter,
    )
}

/// How often the nearest neighbors are of the same class.
pub(super) struct SameClass {
    /// The neighbors of each query that are counted, at most.
    pub neighbors: usize,
    /// The queries, and the rows that have a class.
    pub queries: usize,
    pub rows: usize,
    /// The fraction for each arm.
    pub arms: Vec<f64>,
    /// The fraction if the neighbors were drawn from all rows.
    pub chance: f64,
}

/// Counts neighbors of the same class for rows that have one, or for some of them, evenly spread.
/// None if no row has a neighbor to count.
pub(super) fn same_class(
    rows: &[EmbeddedRow],
    classes: &Classes,
    arms: &[(Vec<f32>, &PageArm)],
    reporter: &Reporter,
) -> Result<Option<SameClass>> {
    let known: Vec<usize> = (0..rows.len()).filter(|&row| classes.of_rows[row].is_some()).collect();
    // Rows of a class; of an image; of a class in an image.
    let (mut of_class, mut of_image) = (HashMap::new(), HashMap::new());
    let mut of_both = HashMap::new();
    for &row in &known {
        let (class, image) = (classes.of_rows[row], rows[row].image);
        *of_class.entry(class).or_insert(0) += 1;
        *of_image.entry(image).or_insert(0) += 1;
        *of_both.entry((class, image)).or_insert(0) += 1;
    }
    let others = |row: usize| known.len() - of_image[&rows[row].image];
    let chance = |row: usize| {
        let (class, image) = (classes.of_rows[row], rows[row].image);
        (of_class[&class] - of_both[&(class, image)]) as f64 / others(row) as f64
    };
    let queries = evenly(known.len(), QUERIES).into_iter().map(|number| known[number]);
    let queries: Vec<usize> = queries.filter(|&row| others(row) > 0).collect();
    let Some(most) = queries.iter().map(|&row| others(row)).max() else { return Ok(None) };
    let mean = |fractions: &[f64]| fractions.iter().sum::<f64>() / queries.len() as f64;
    let mut fractions = Vec::new();
    for (embeddings, arm) in arms {
        let of_queries = gather(embeddings, arm.channels, &queries);
        let of_arm = nearest(
            [&of_queries, embeddings],
            (arm.channels, COUNTED),
            |query, row| {
                classes.of_rows[row].is_none() || rows[queries[query]].image == rows[row].image
            },
            |query, neighbors| {
                let class = classes.of_rows[queries[query]];
                let same = neighbors.iter().filter(|it| classes.of_rows[it.row] == class).count();
                same as f64 / neighbors.len().max(1) as f64
            },
            reporter,
        )?;
        fractions.push(mean(&of_arm));
    }
    let chance = mean(&queries.iter().map(|&row| chance(row)).collect::<Vec<f64>>());
    Ok(Some(SameClass {
        neighbors: most.min(COUNTED),
        queries: queries.len(),
        rows: known.len(),
        arms: fractions,
        chance,
    }))
}

/// The embeddings of some rows.
pub(super) fn gather(embeddings: &[f32], channels: usize, rows: &[usize]) -> Vec<f32> {
    rows.iter().flat_map(|row| &embeddings[row * channels..][..channels]).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of an image each, but for those whose images are given.
    fn rows(classes: &[Option<&str>]) -> Vec<EmbeddedRow> {
        let row = |(image, class): (usize, &Option<&str>)| EmbeddedRow {
            path: format!("{image}.jpg"),
            class: class.map(str::to_owned),
            image: image as u32,
            corners: None,
        };
        classes.iter().enumerate().map(row).collect()
    }

    #[test]
    fn queries_are_spread_over_the_classes_and_their_rows() {
        // 100 rows of one class, 3 of another, 1 without.
        let mut names = vec![Some("many"); 100];
        names.extend([None, Some("few"), Some("few"), Some("few")]);
        let rows = rows(&names);
        let found = queries(&Classes::new(&rows));
        assert_eq!(found.len(), 40);
        assert_eq!(found[..3], [101, 102, 103]);
        assert_eq!([found[3], found[39]], [1, 98]);
        // Of more classes than queries, some are shown, one row of each.
        let many: Vec<String> = (0..400).map(|row| format!("{:03}", row / 2)).collect();
        let many: Vec<Option<&str>> = many.iter().map(|name| Some(name.as_str())).collect();
        let found = queries(&Classes::new(&self::rows(&many)));
        assert_eq!((found.len(), found[0] / 2, found[39] / 2), (40, 2, 197));
        // Without classes, over all rows; and there may be few rows, or none.
        let without = queries(&Classes::new(&self::rows(&[None; 80])));
        assert_eq!((without.len(), without[0], without[39]), (40, 1, 79));
        assert_eq!(queries(&Classes::new(&self::rows(&[None; 2]))), [0, 1]);
        assert!(queries(&Classes::new(&[])).is_empty());
    }

    #[test]
    fn neighbors_of_the_same_image_or_without_a_class_do_not_count() {
        let mut rows = rows(&[Some("a"), Some("a"), Some("a"), Some("b"), None]);
        rows[1].image = 0;
        let embeddings = vec![1.0, 0.0, 1.0, 0.0, 0.6, 0.8, 0.0, 1.0, 1.0, 0.0];
        let arm = PageArm { name: "x".into(), embeddings: embeddings.clone(), channels: 2 };
        let classes = Classes::new(&rows);
        let reporter = Reporter::silent();
        let arms = [(embeddings.clone(), &arm)];
        let found = same_class(&rows, &classes, &arms, &reporter).unwrap().unwrap();
        // Rows 0 and 1 have one of two, row 2 two of three, row 3 none.
        let expected = (0.5 + 0.5 + 2.0 / 3.0) / 4.0;
        assert!((found.arms[0] - expected).abs() < 1e-12, "{}", found.arms[0]);
        // With so few rows, all are neighbors.
        assert!((found.chance - expected).abs() < 1e-12, "{}", found.chance);
        assert_eq!((found.neighbors, found.queries, found.rows), (3, 4, 4));
        let shown = of_queries(&rows, &[0], (&embeddings, 2), &reporter).unwrap();
        let shown: Vec<usize> = shown[0].iter().map(|neighbor| neighbor.row).collect();
        assert_eq!(shown, [4, 2, 3]);
        // One image alone has no neighbors.
        let found = same_class(&rows[..2], &Classes::new(&rows[..2]), &arms, &reporter).unwrap();
        assert!(found.is_none());
    }
}
