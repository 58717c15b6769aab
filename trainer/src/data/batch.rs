//! The input of one micro-step.

use scrl_schemas::{Box2, Epoch, Row};

/// Decoded pairs, in the order of their rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The epoch of the rows.
    pub epoch: Epoch,
    /// The views' pixels `[2B, S, S, 3]`: first views, then second views.
    pub pixels: Vec<u8>,
    /// Side of a view, S.
    pub size: usize,
    /// The `image_id` of each pair, B in all.
    pub image_ids: Vec<i64>,
    /// The label of each pair, where it has one.
    pub labels: Vec<Option<i32>>,
    /// RoIs `[2R, 5]`: the view's index in `pixels`, x0, y0, x1, y1 in pixels of the view; first
    /// those of first views, then the matching ones of second views.
    pub rois: Vec<f32>,
}

impl Batch {
    /// A batch of `rows` with their decoded pixels.
    pub fn new(epoch: Epoch, rows: &[Row], size: usize, pixels: Vec<u8>) -> Self {
        let roi = |view: usize, region: Box2| {
            let [x0, y0, x1, y1] = region.to_array();
            [view as f32, x0, y0, x1, y1]
        };
        let matched = || {
            rows.iter()
                .enumerate()
                .flat_map(|(index, row)| row.boxes.iter().map(move |b| (index, b)))
        };
        let first = matched().map(|(index, matched)| roi(index, matched.view1));
        let second = matched().map(|(index, matched)| roi(rows.len() + index, matched.view2));
        Self {
            epoch,
            pixels,
            size,
            image_ids: rows.iter().map(|row| row.image_id).collect(),
            labels: rows.iter().map(|row| row.label).collect(),
            rois: first.chain(second).flatten().collect(),
        }
    }

    /// The number of pairs, B.
    pub fn pairs(&self) -> usize {
        self.image_ids.len()
    }

    /// The number of pairs with a label.
    pub fn labeled(&self) -> usize {
        self.labels.iter().flatten().count()
    }

    /// The number of matched boxes, R.
    pub fn matches(&self) -> usize {
        self.rois.len() / 10
    }
}
