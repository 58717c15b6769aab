//! All random numbers of a row.

use scrl_schemas::{Epoch, MatchedBox, PrepOptions, ViewParams};

use super::boxes::draw_boxes;
use super::params::{ViewIndex, draw_view};
use super::rng::{Purpose, Stream};
use crate::images::ImageSize;

/// Everything of a row that is drawn at random: with the source image it determines the row.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// View 1.
    pub view1: ViewParams,
    /// View 2.
    pub view2: ViewParams,
    /// The boxes that both show.
    pub boxes: Vec<MatchedBox>,
}

/// Draws the views and boxes of an image in an epoch; they depend on the arguments alone.
pub fn draw_recipe(
    seed: u64,
    epoch: Epoch,
    image_id: u32,
    size: ImageSize,
    options: &PrepOptions,
) -> Recipe {
    let image_id = u64::from(image_id);
    let [view1, view2] = [ViewIndex::First, ViewIndex::Second]
        .map(|view| draw_view(seed, epoch.0, image_id, view, size, options));
    let mut random = Stream::new(seed, epoch.0, image_id, Purpose::Boxes);
    let boxes = draw_boxes(&mut random, &view1, &view2, options);
    Recipe { view1, view2, boxes }
}
