//! Images that are nearly equal, by the cosine similarity of their embeddings, and a list of images
//! without all but one of them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use scrl_cli::Reporter;
use scrl_schemas::store;

use super::EmbeddedRow;
use crate::error::refuse;
use crate::evaluate::neighbors::{QUERIES, compare, normalized};
use crate::{Error, Result};

/// Pairs at most, which take 240 MB. Where there are more, most images look alike to the backbone.
const MOST_PAIRS: usize = 10_000_000;

/// Rounding of the similarity of equal images.
const ROUNDING: f32 = 1e-6;

/// What was found.
pub struct Duplicates {
    /// Pairs of nearly equal images.
    pub pairs: usize,
    /// Groups of images that such pairs connect.
    pub groups: usize,
    /// Images that are left out of the list, as the first of their group is in it.
    pub left_out: usize,
    /// The table of pairs.
    pub table: PathBuf,
    /// The list of the images without duplicates, which scrl-prep reads; `None` where the images
    /// are not files of their own.
    pub list: Option<PathBuf>,
}

/// Finds pairs with a similarity of at least `least` and writes them beside `out`, with a list of
/// the images that leaves all but the first by path of each group out. `file` gives the file of an
/// image, if it is one of its own.
///
/// # Errors
/// If there are too many pairs or a file cannot be written; [`Error::Stopped`] if the program is
/// asked to stop.
pub(super) fn write(
    rows: &[EmbeddedRow],
    (embeddings, channels): (&[f32], usize),
    least: f32,
    (out, file): (&Path, impl Fn(&EmbeddedRow) -> Option<PathBuf>),
    reporter: &Reporter,
) -> Result<Duplicates> {
    reporter.begin("images", rows.len() as u64, 0);
    reporter.set_status("duplicates");
    let pairs = pairs((embeddings, channels), least, MOST_PAIRS, reporter)?;
    reporter.log();
    let table = out.with_extension("duplicates.csv");
    let lines = pairs.iter().map(|&(a, b, similarity)| {
        [rows[a].path.clone(), rows[b].path.clone(), format!("{similarity:.6}")]
    });
    write_csv(&table, ["path_a", "path_b", "similarity"], lines)?;
    let paths: Vec<&str> = rows.iter().map(|row| &*row.path).collect();
    let first = first_of_group(&paths, &pairs);
    let kept: Vec<usize> = (0..rows.len()).filter(|&row| first[row] == row).collect();
    let files = kept.iter().map(|&row| Some(absolute(file(&rows[row])?)));
    let list = files.collect::<Option<Vec<PathBuf>>>().map(|files| {
        let list = out.with_extension("keep.csv");
        let lines = kept.iter().zip(files).map(|(&row, file)| {
            [file.to_string_lossy().into_owned(), rows[row].class.clone().unwrap_or_default()]
        });
        if rows.iter().any(|row| row.class.is_some()) {
            write_csv(&list, ["path", "class"], lines)?;
        } else {
            write_csv(&list, ["path"], lines.map(|[path, _]| [path]))?;
        }
        Ok::<PathBuf, Error>(list)
    });
    let left_out = rows.len() - kept.len();
    let mut groups: Vec<usize> =
        (0..rows.len()).filter(|&row| first[row] != row).map(|row| first[row]).collect();
    groups.sort_unstable();
    groups.dedup();
    let (pairs, groups) = (pairs.len(), groups.len());
    Ok(Duplicates { pairs, groups, left_out, table, list: list.transpose()? })
}

/// A path that leads to the same file from any folder; a URL as it is.
fn absolute(file: PathBuf) -> PathBuf {
    match store::is_url(&file) {
        true => file,
        false => std::path::absolute(&file).unwrap_or(file),
    }
}

/// All pairs with at least this similarity, ascending, and their similarities. The result does not
/// depend on the number of threads.
///
/// # Errors
/// [`Error::Option`] if there are more than `most`.
fn pairs(
    (embeddings, channels): (&[f32], usize),
    least: f32,
    most: usize,
    reporter: &Reporter,
) -> Result<Vec<(usize, usize, f32)>> {
    let least = least.min(1.0 - ROUNDING);
    let rows = normalized(embeddings, channels);
    let count = AtomicUsize::new(0);
    let of_block = |(number, block): (usize, &[f32])| {
        let begin = number * QUERIES;
        let mut found = Vec::new();
        let later = &rows[begin * channels..];
        compare([block, later], channels, reporter, |query, first, similarities| {
            let (a, before) = (begin + query, found.len());
            let with = (begin + first..).zip(similarities);
            let near = with.filter(|&(b, &similarity)| b > a && similarity >= least);
            found.extend(near.map(|(b, &similarity)| (a, b, similarity.min(1.0))));
            let added = found.len() - before;
            if count.fetch_add(added, Ordering::Relaxed) + added > most {
                return refuse(
                    "duplicates",
                    format!(
                        "more than {most} pairs are at least this similar; give a larger T, or \
                         better weights: to poor ones all images look alike"
                    ),
                );
            }
            Ok(())
        })?;
        reporter.advance((block.len() / channels) as u64);
        found.sort_unstable_by_key(|&(a, b, _)| (a, b));
        Ok(found)
    };
    let blocks = rows.par_chunks(QUERIES * channels).enumerate();
    Ok(blocks.map(of_block).collect::<Result<Vec<_>>>()?.concat())
}

/// The first row by path of each row's group: of rows that pairs connect.
fn first_of_group(paths: &[&str], pairs: &[(usize, usize, f32)]) -> Vec<usize> {
    fn root(first: &mut [usize], mut row: usize) -> usize {
        while first[row] != row {
            first[row] = first[first[row]];
            row = first[row];
        }
        row
    }
    let mut first: Vec<usize> = (0..paths.len()).collect();
    for &(a, b, _) in pairs {
        let (a, b) = (root(&mut first, a), root(&mut first, b));
        let (before, behind) = if (paths[a], a) <= (paths[b], b) { (a, b) } else { (b, a) };
        first[behind] = before;
    }
    (0..paths.len()).map(|row| root(&mut first, row)).collect()
}

fn write_csv<const N: usize>(
    path: &Path,
    header: [&str; N],
    lines: impl Iterator<Item = [String; N]>,
) -> Result<()> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    // Memory takes all, and rows have the fields of the header.
    writer.write_record(header).expect("a header");
    lines.for_each(|line| writer.write_record(line).expect("a row"));
    Ok(store::write(path, &writer.into_inner().expect("in memory"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_connect_groups_and_the_first_one_stays() {
        // 0, 2 and 3 point the same way but for a little, 1 and 4 are equal, 5 is alone.
        let rows = [
            [1.0, 0.0, 0.0],
            [0.0, 1.0, 0.0],
            [2.0, 0.1, 0.0],
            [1.0, 0.1, 0.0],
            [0.0, 3.0, 0.0],
            [0.0, 0.0, 1.0],
        ];
        let found = all((rows.as_flattened(), 3), 0.99);
        let places: Vec<_> = found.iter().map(|&(a, b, _)| (a, b)).collect();
        assert_eq!(places, [(0, 2), (0, 3), (1, 4), (2, 3)]);
        let paths = ["a", "f", "c", "b", "e", "d"];
        assert_eq!(first_of_group(&paths, &found), [0, 4, 0, 0, 4, 5]);
        let chain = [(1, 2, 1.0), (3, 4, 1.0), (2, 3, 1.0)];
        assert_eq!(first_of_group(&["e", "d", "c", "b", "a"], &chain), [0, 4, 4, 4, 4]);
    }

    fn all(embeddings: (&[f32], usize), least: f32) -> Vec<(usize, usize, f32)> {
        pairs(embeddings, least, usize::MAX, &Reporter::silent()).unwrap()
    }

    #[test]
    fn all_pairs_are_found_on_any_number_of_threads() {
        // Several blocks of both, none of them full at the end: every 13th row is equal.
        let (count, channels) = (2500, 5);
        let element = |row: usize, channel: usize| ((row % 13) * (channel + 3) % 7) as f32 - 2.5;
        let rows: Vec<f32> =
            (0..count * channels).map(|i| element(i / channels, i % channels)).collect();
        let found = all((&rows, channels), 1.0);
        let equal = |a: usize, b: usize| (0..channels).all(|c| element(a, c) == element(b, c));
        let expected: Vec<(usize, usize)> = (0..count)
            .flat_map(|a| (a + 1..count).map(move |b| (a, b)))
            .filter(|&(a, b)| equal(a, b))
            .collect();
        assert_eq!(found.iter().map(|&(a, b, _)| (a, b)).collect::<Vec<_>>(), expected);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        assert_eq!(pool.install(|| all((&rows, channels), 1.0)), found);
    }

    #[test]
    fn too_many_pairs_are_refused_and_rows_without_a_direction_have_none() {
        let rows = vec![1.0f32; 200];
        let refused = pairs((&rows, 2), 0.9, 4949, &Reporter::silent()).unwrap_err().to_string();
        assert!(refused.starts_with("--duplicates: more than 4949 pairs"), "{refused}");
        assert_eq!(pairs((&rows, 2), 0.9, 4950, &Reporter::silent()).unwrap().len(), 4950);
        assert!(all((&[0.0, 0.0, 0.0, 0.0, f32::NAN, 1.0], 2), 0.1).is_empty());
        assert!(all((&[], 2), 0.1).is_empty());
    }
}
