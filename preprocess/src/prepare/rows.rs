//! One image and one epoch to one row.

use scrl_schemas::{Epoch, MatchedBox, PrepOptions, Row, Source, View, ViewEncoding, ViewParams};

use crate::Result;
use crate::codec::ViewEncoder;
use crate::images::ImageSize;
use crate::images::RgbImage;
use crate::views::boxes::draw_boxes;
use crate::views::params::{ViewIndex, draw_view};
use crate::views::render::{RenderOptions, Renderer};
use crate::views::rng::{Purpose, Stream};

/// Everything of a row that is drawn at random.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// View 1.
    pub view1: ViewParams,
    /// View 2.
    pub view2: ViewParams,
    /// The boxes that both show.
    pub boxes: Vec<MatchedBox>,
}

/// Draws an image's views and boxes for an epoch; they depend on the arguments alone.
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

/// The row of an image of this size in an epoch, without pixels.
pub fn recipe_row(
    image_id: u32,
    source: &Source,
    size: ImageSize,
    seed: u64,
    epoch: Epoch,
    options: &PrepOptions,
) -> Row {
    let recipe = draw_recipe(seed, epoch, image_id, size, options);
    let view = |params: ViewParams| View { image: None, params };
    Row {
        image_id: i64::from(image_id),
        path: source.path.clone(),
        label: source.class.as_ref().map(|class| class.0),
        source_width: size.width,
        source_height: size.height,
        view1: view(recipe.view1),
        view2: view(recipe.view2),
        boxes: recipe.boxes,
    }
}

/// Makes rows, one after the other, in buffers that it keeps. One for each thread.
#[derive(Default)]
pub struct RowMaker {
    renderer: Renderer,
    encoder: ViewEncoder,
    pixels: Vec<u8>,
}

impl RowMaker {
    /// The row of an image in an epoch.
    ///
    /// # Errors
    /// Those of [`ViewEncoder::encode`].
    pub fn make(
        &mut self,
        image_id: u32,
        source: &Source,
        image: &RgbImage,
        seed: u64,
        epoch: Epoch,
        options: &PrepOptions,
    ) -> Result<Row> {
        let mut row = recipe_row(image_id, source, image.size, seed, epoch, options);
        if options.views == ViewEncoding::Recipe {
            return Ok(row);
        }
        for (view, number) in [(&mut row.view1, 1), (&mut row.view2, 2)] {
            self.renderer.render(
                image,
                &view.params,
                RenderOptions::from(options),
                &mut self.pixels,
            );
            let name = format!("{image_id:08}-view{number}");
            view.image = self.encoder.encode(
                &self.pixels,
                options.size,
                options.views,
                options.quality,
                &name,
            )?;
        }
        Ok(row)
    }
}
