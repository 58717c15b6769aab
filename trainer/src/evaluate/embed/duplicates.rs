//! Images that are nearly equal, by the cosine similarity of their embeddings, and a list of images
//! without all but one of them.

use std::path::{Path, PathBuf};

use scrl_cli::Reporter;
use scrl_schemas::store;

use super::EmbeddedRow;
use crate::evaluate::neighbors::{nearest, normalized};
use crate::{Error, Result};

/// Neighbors of an image that are looked at.
const NEIGHBORS: usize = 32;

/// What was found.
pub struct Duplicates {
    /// Pairs of nearly equal images.
    pub pairs: usize,
    /// Images that are left out of the list, as one of their group is in it.
    pub left_out: usize,
    /// The table of pairs.
    pub table: PathBuf,
    /// The list of the images without duplicates, which scrl-prep reads; `None` where the images
    /// are not files of their own.
    pub list: Option<PathBuf>,
}

/// Finds pairs with a similarity of at least `least` and writes them beside `out`, with a list of
/// the images that leaves all but the first of each group out. `file` gives the file of an image,
/// if it is one of its own.
///
/// # Errors
/// If a file cannot be written; [`Error::Stopped`] if the program is asked to stop.
pub(super) fn write(
    rows: &[EmbeddedRow],
    (embeddings, channels): (&[f32], usize),
    least: f32,
    (out, file): (&Path, impl Fn(&EmbeddedRow) -> Option<PathBuf>),
    reporter: &Reporter,
) -> Result<Duplicates> {
    reporter.begin("images", rows.len() as u64, 0);
    reporter.set_status("duplicates");
    let pairs = pairs((embeddings, channels), least, reporter)?;
    reporter.log();
    let table = out.with_extension("duplicates.csv");
    let lines = pairs.iter().map(|&(a, b, similarity)| {
        [rows[a].path.clone(), rows[b].path.clone(), format!("{similarity:.6}")]
    });
    write_csv(&table, ["path_a", "path_b", "similarity"], lines)?;
    let first = first_of_group(rows.len(), &pairs);
    let is_kept = |row: &usize| first[*row] == *row;
    let kept: Vec<usize> = (0..rows.len()).filter(is_kept).collect();
    let files: Option<Vec<PathBuf>> = kept.iter().map(|&row| file(&rows[row])).collect();
    let list = files.map(|files| {
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
    Ok(Duplicates { pairs: pairs.len(), left_out, table, list: list.transpose()? })
}

/// The pairs, ascending, and their similarities. In a group of many equal images some pairs are
/// not told, but each image has one with the group's first ones.
fn pairs(
    (embeddings, channels): (&[f32], usize),
    least: f32,
    reporter: &Reporter,
) -> Result<Vec<(usize, usize, f32)>> {
    let rows = normalized(embeddings, channels);
    let found = nearest(
        [&rows, &rows],
        (channels, NEIGHBORS),
        |query, row| query == row,
        |query, neighbors| {
            let near = neighbors.iter().filter(|neighbor| neighbor.similarity >= least);
            near.map(|near| (query.min(near.row), query.max(near.row), near.similarity))
                .collect::<Vec<_>>()
        },
        reporter,
    )?;
    let mut pairs = found.concat();
    pairs.sort_by_key(|&(a, b, _)| (a, b));
    pairs.dedup_by_key(|&mut (a, b, _)| (a, b));
    Ok(pairs)
}

/// The first row of each row's group: rows that pairs connect.
fn first_of_group(rows: usize, pairs: &[(usize, usize, f32)]) -> Vec<usize> {
    fn root(first: &mut [usize], mut row: usize) -> usize {
        while first[row] != row {
            first[row] = first[first[row]];
            row = first[row];
        }
        row
    }
    let mut first: Vec<usize> = (0..rows).collect();
    for &(a, b, _) in pairs {
        let (a, b) = (root(&mut first, a), root(&mut first, b));
        first[a.max(b)] = a.min(b);
    }
    (0..rows).map(|row| root(&mut first, row)).collect()
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
        let found = pairs((rows.as_flattened(), 3), 0.99, &Reporter::silent()).unwrap();
        let places: Vec<_> = found.iter().map(|&(a, b, _)| (a, b)).collect();
        assert_eq!(places, [(0, 2), (0, 3), (1, 4), (2, 3)]);
        assert_eq!(first_of_group(6, &found), [0, 1, 0, 0, 1, 5]);
        let chain = [(1, 2, 1.0), (3, 4, 1.0), (2, 3, 1.0)];
        assert_eq!(first_of_group(5, &chain), [0, 1, 1, 1, 1]);
    }

    #[test]
    fn many_equal_images_are_one_group() {
        let rows = vec![[1.0f32, 2.0]; 100];
        let found = pairs((rows.as_flattened(), 2), 1.0 - 1e-6, &Reporter::silent()).unwrap();
        assert_eq!(first_of_group(100, &found), [0; 100]);
    }
}
