//! Exact nearest neighbors by cosine similarity: products of blocks of matrices, of which only the
//! best are kept.

use std::cmp::Ordering;

use gemm::Parallelism;
use rayon::prelude::*;
use scrl_cli::Reporter;

use crate::Result;
use crate::ops::matrix::{Matrix, Store, multiply};

/// Queries of a block; a thread takes one block after another.
pub(super) const QUERIES: usize = 256;

/// Rows of the bank that a block is compared with at a time: 2 MiB of similarities, which stay in
/// the cache of a core.
const ROWS: usize = 2048;

/// The shortest vector that is normalized, as in PyTorch's `normalize`.
const SHORTEST: f64 = 1e-12;

/// A row of the bank beside a query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Neighbor {
    /// Its index in the bank.
    pub row: usize,
    /// The cosine similarity, from -1 to 1.
    pub similarity: f32,
}

/// Rows of `channels` elements, each divided by its length. Rows of zeros stay so.
pub(super) fn normalized(rows: &[f32], channels: usize) -> Vec<f32> {
    let mut rows = rows.to_vec();
    rows.par_chunks_exact_mut(channels).for_each(|row| {
        let squares: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let factor = 1.0 / squares.sqrt().max(SHORTEST);
        row.iter_mut().for_each(|x| *x = (f64::from(*x) * factor) as f32);
    });
    rows
}

/// The results of `each`, which gets the number of a query and its `k` nearest rows of `bank`, or
/// all where there are fewer; the most similar comes first, of equal ones that of the lower index.
/// `queries` and `bank` are [`normalized`] rows of `channels` elements. Pairs of a query and a row
/// that `leave_out` names are no neighbors, nor are rows with NaN. The result does not depend on the
/// number of threads, and the memory besides the results not on the number of rows. Advances
/// `reporter` by the queries.
///
/// # Errors
/// [`Error::Stopped`](crate::Error::Stopped) if the program is asked to stop.
pub(super) fn nearest<T: Send>(
    [queries, bank]: [&[f32]; 2],
    (channels, k): (usize, usize),
    leave_out: impl Fn(usize, usize) -> bool + Sync,
    each: impl Fn(usize, &[Neighbor]) -> T + Sync,
    reporter: &Reporter,
) -> Result<Vec<T>> {
    let of_block = |(number, block): (usize, &[f32])| {
        let mut nearest = vec![Nearest::new(k); block.len() / channels];
        compare([block, bank], channels, reporter, |query, first, similarities| {
            let leave_out = |row| leave_out(number * QUERIES + query, row);
            nearest[query].add(first, similarities, leave_out);
            Ok(())
        })?;
        reporter.advance(nearest.len() as u64);
        let each = |(query, nearest): (usize, Nearest)| {
            each(number * QUERIES + query, &nearest.into_sorted())
        };
        Ok(nearest.into_iter().enumerate().map(each).collect::<Vec<T>>())
    };
    let blocks = queries.par_chunks(QUERIES * channels).enumerate();
    let results = blocks.map(of_block).collect::<Result<Vec<Vec<T>>>>()?;
    Ok(results.into_iter().flatten().collect())
}

/// Compares the queries of a block with the rows of `bank`, some at a time and on one thread:
/// `visit` gets the number of a query within the block, of the first of some rows, and the
/// similarities of these rows. All are [`normalized`] rows of `channels` elements.
///
/// # Errors
/// That of `visit`; [`Error::Stopped`](crate::Error::Stopped) if the program is asked to stop.
pub(super) fn compare(
    [block, bank]: [&[f32]; 2],
    channels: usize,
    reporter: &Reporter,
    mut visit: impl FnMut(usize, usize, &[f32]) -> Result<()>,
) -> Result<()> {
    let block = Matrix::new(block, block.len() / channels, channels);
    let mut similarities = Vec::new();
    for (part, rows) in bank.chunks(ROWS * channels).enumerate() {
        reporter.check_stop()?;
        let rows = Matrix::new(rows, rows.len() / channels, channels);
        similarities.resize(block.rows() * rows.rows(), 0.0);
        let one = Parallelism::None;
        multiply(&mut similarities, block, rows.transposed(), Store::Replace, one);
        for (query, similarities) in similarities.chunks_exact(rows.rows()).enumerate() {
            visit(query, part * ROWS, similarities)?;
        }
    }
    Ok(())
}

/// The nearest rows of a query so far.
#[derive(Clone)]
struct Nearest {
    k: usize,
    /// At least the `k` best; fewer than `2 * k`.
    found: Vec<Neighbor>,
    /// Only a row that is more similar can be among the `k` best.
    above: f32,
}

impl Nearest {
    fn new(k: usize) -> Self {
        Self { k, found: Vec::new(), above: f32::NEG_INFINITY }
    }

    /// Adds the rows from `first` on, which have these similarities.
    fn add(&mut self, first: usize, similarities: &[f32], leave_out: impl Fn(usize) -> bool) {
        for (row, &similarity) in (first..).zip(similarities) {
            if similarity > self.above && !leave_out(row) {
                // A negative zero becomes the positive one, so that both are equal.
                self.found.push(Neighbor { row, similarity: similarity + 0.0 });
                if self.found.len() >= 2 * self.k {
                    self.keep_best();
                }
            }
        }
    }

    /// Drops all but the `k` best.
    fn keep_best(&mut self) {
        let (_, last, _) = self.found.select_nth_unstable_by(self.k - 1, by_similarity);
        self.above = last.similarity;
        self.found.truncate(self.k);
    }

    fn into_sorted(mut self) -> Vec<Neighbor> {
        self.found.sort_unstable_by(by_similarity);
        self.found.truncate(self.k);
        self.found
    }
}

fn by_similarity(a: &Neighbor, b: &Neighbor) -> Ordering {
    b.similarity.total_cmp(&a.similarity).then(a.row.cmp(&b.row))
}

#[cfg(test)]
mod tests {
    use scrl_preprocess::views::rng::{Purpose, Stream};

    use super::*;

    fn rows(count: usize, channels: usize, seed: u64) -> Vec<f32> {
        let mut random = Stream::new(seed, 0, 0, Purpose::Evaluation);
        let rows: Vec<f32> = (0..count * channels).map(|_| random.uniform_f32() - 0.5).collect();
        normalized(&rows, channels)
    }

    fn find(
        queries: &[f32],
        bank: &[f32],
        (channels, k): (usize, usize),
        leave_out: impl Fn(usize, usize) -> bool + Sync,
    ) -> Vec<Vec<Neighbor>> {
        let each = |_, neighbors: &[Neighbor]| neighbors.to_vec();
        nearest([queries, bank], (channels, k), leave_out, each, &Reporter::silent()).unwrap()
    }

    #[test]
    fn the_nearest_are_those_of_a_full_sort_on_any_number_of_threads() {
        // Several blocks of both, none of them full at the end.
        let (channels, k) = (7, 12);
        let (queries, bank) = (rows(300, channels, 1), rows(4200, channels, 2));
        let leave_out = |query: usize, row: usize| row % 5 == query % 5;
        let found = find(&queries, &bank, (channels, k), leave_out);
        for (query, found) in found.iter().enumerate() {
            let of_query = &queries[query * channels..][..channels];
            let mut expected: Vec<(f64, usize)> = bank
                .chunks_exact(channels)
                .enumerate()
                .filter(|&(row, _)| !leave_out(query, row))
                .map(|(row, values)| {
                    let product = |(&a, &b)| f64::from(a) * f64::from(b);
                    (-of_query.iter().zip(values).map(product).sum::<f64>(), row)
                })
                .collect();
            expected.sort_by(|a, b| a.partial_cmp(b).unwrap());
            assert_eq!(found.len(), k);
            for (neighbor, (negative, _)) in found.iter().zip(&expected) {
                assert!((f64::from(neighbor.similarity) + negative).abs() < 1e-6);
                let row = expected[..k + 1].iter().any(|&(_, row)| row == neighbor.row);
                assert!(row, "{neighbor:?} of query {query}");
            }
        }
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let again = pool.install(|| find(&queries, &bank, (channels, k), leave_out));
            assert_eq!(again, found);
        }
    }

    #[test]
    fn of_equal_rows_the_first_ones_are_nearest() {
        // All rows are equal but one, far behind.
        let (channels, count) = (3, 5000);
        let mut bank = normalized(&[1.0, 2.0, 3.0].repeat(count), channels);
        bank[4500 * channels..][..channels].copy_from_slice(&[0.0, 0.0, 1.0]);
        let found = find(&[0.0, 0.0, 1.0], &bank, (channels, 4), |_, _| false);
        let found: Vec<usize> = found[0].iter().map(|neighbor| neighbor.row).collect();
        assert_eq!(found, [4500, 0, 1, 2]);
    }

    #[test]
    fn there_may_be_fewer_rows_than_neighbors_and_rows_without_a_direction() {
        let bank = normalized(&[0.0, 0.0, 3.0, 4.0, f32::NAN, 1.0, -1.0, 0.0], 2);
        assert_eq!(bank[..4], [0.0, 0.0, 0.6, 0.8]);
        let found = find(&[1.0, 0.0], &bank, (2, 20), |_, _| false);
        let found: Vec<(usize, f32)> =
            found[0].iter().map(|neighbor| (neighbor.row, neighbor.similarity)).collect();
        assert_eq!(found, [(1, 0.6), (0, 0.0), (3, -1.0)]);
        assert!(find(&[], &bank, (2, 20), |_, _| false).is_empty());
    }
}
