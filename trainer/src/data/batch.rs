//! The input of one micro-step.

use std::ops::Range;

use scrl_schemas::{Box2, Epoch, Row};

/// The pairs of one micro-batch, in the order of their rows; of several processes each decodes its
/// part, and knows of the others what decides which of them have anything to compare.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The epoch of the rows.
    pub epoch: Epoch,
    /// The views' pixels `[2P, S, S, 3]` of the P pairs of this process: first views, then second
    /// views.
    pub pixels: Vec<u8>,
    /// Side of a view, S.
    pub size: usize,
    /// The `image_id` of each pair, of all processes.
    pub image_ids: Vec<i64>,
    /// The label of each pair of this process, where it has one.
    pub labels: Vec<Option<i32>>,
    /// RoIs `[2R, 5]` of this process: the view's index in `pixels`, x0, y0, x1, y1 in pixels of
    /// the view; first those of first views, then the matching ones of second views.
    pub rois: Vec<f32>,
    /// The number of pairs with a label, of all processes.
    pub labeled: usize,
    /// The number of matched boxes, of all processes.
    pub matches: usize,
}

impl Batch {
    /// A batch of `rows`, with the decoded pixels of those in `own`.
    pub fn new(
        epoch: Epoch,
        rows: &[Row],
        own: Range<usize>,
        size: usize,
        pixels: Vec<u8>,
    ) -> Self {
        let roi = |view: usize, region: Box2| {
            let [x0, y0, x1, y1] = region.to_array();
            [view as f32, x0, y0, x1, y1]
        };
        let own = &rows[own];
        let matched = || {
            own.iter()
                .enumerate()
                .flat_map(|(index, row)| row.boxes.iter().map(move |b| (index, b)))
        };
        let first = matched().map(|(index, matched)| roi(index, matched.view1));
        let second = matched().map(|(index, matched)| roi(own.len() + index, matched.view2));
        Self {
            epoch,
            pixels,
            size,
            image_ids: rows.iter().map(|row| row.image_id).collect(),
            labels: own.iter().map(|row| row.label).collect(),
            rois: first.chain(second).flatten().collect(),
            labeled: rows.iter().filter(|row| row.label.is_some()).count(),
            matches: rows.iter().map(|row| row.boxes.len()).sum(),
        }
    }

    /// The number of pairs of all processes.
    pub fn pairs(&self) -> usize {
        self.image_ids.len()
    }

    /// The number of pairs of this process, P.
    pub fn own_pairs(&self) -> usize {
        self.labels.len()
    }
}
