//! Making the row of an image in an epoch.

use scrl_schemas::{Epoch, PrepOptions, Row, Source, View, ViewEncoding, ViewParams};

use crate::Result;
use crate::codec::ViewEncoder;
use crate::images::{ImageSize, RgbImage};
use crate::views::recipe::draw_recipe;
use crate::views::render::{RenderOptions, Renderer};

/// The row of an image of this size in an epoch, without pixels.
pub(crate) fn recipe_row(
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

/// Makes rows and reuses its buffers; one for each thread.
#[derive(Default)]
pub struct RowMaker {
    renderer: Renderer,
    encoder: ViewEncoder,
    pixels: Vec<[u8; 4]>,
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
        self.pixels.resize(options.size as usize * options.size as usize, [0; 4]);
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
