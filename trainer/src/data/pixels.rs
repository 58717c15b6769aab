//! A row's two views as pixels: decoded where the shard holds them, rendered from the source where
//! it holds the recipe.

use std::path::PathBuf;

use rayon::prelude::*;
use scrl_preprocess::images::{Decoding, decode, decode_view};
use scrl_preprocess::views::render::{RenderOptions, Renderer};
use scrl_schemas::{EncodedImage, PrepOptions, Row};

use super::source_images::SourceImages;
use crate::{Error, Result};

/// Writes the views of P rows, `[2P, S, S, 3]`, first views, then second views; by all threads of
/// rayon's pool.
pub(super) fn fill_views(
    sources: &SourceImages,
    options: &PrepOptions,
    rows: &[Row],
    pixels: &mut [u8],
) -> Result<()> {
    let size = options.size as usize;
    let view = size * size * 3;
    let (first, second) = pixels.split_at_mut(rows.len() * view);
    rows.par_iter()
        .zip(first.par_chunks_mut(view))
        .zip(second.par_chunks_mut(view))
        .try_for_each_init(
            || PixelSource::new(sources, options),
            |source, ((row, view1), view2)| source.fill(row, view1, view2),
        )
}

/// Produces the pixels of one row after another, with buffers that it reuses. One for each thread.
struct PixelSource<'a> {
    sources: &'a SourceImages,
    decoding: Decoding,
    options: RenderOptions,
    renderer: Renderer,
}

impl<'a> PixelSource<'a> {
    /// For shards made with `options` from `sources`.
    fn new(sources: &'a SourceImages, options: &PrepOptions) -> Self {
        Self {
            sources,
            decoding: Decoding::from(options),
            options: RenderOptions::from(options),
            renderer: Renderer::default(),
        }
    }

    /// Writes the two views of `row`, `[S, S, 3]` each.
    fn fill(&mut self, row: &Row, view1: &mut [u8], view2: &mut [u8]) -> Result<()> {
        match (&row.view1.image, &row.view2.image) {
            (Some(first), Some(second)) => {
                self.decode(row, first, view1)?;
                self.decode(row, second, view2)
            }
            _ => self.render(row, view1, view2),
        }
    }

    fn decode(&self, row: &Row, encoded: &EncodedImage, view: &mut [u8]) -> Result<()> {
        let problem = |reason: String| {
            let name = PathBuf::from(format!("{} ({})", encoded.path, row.path));
            Error::dataset(
                &name,
                format!("{reason}; the shard is damaged: prepare its epoch again"),
            )
        };
        let size = self.options.size as usize;
        decode_view(&encoded.bytes, size, view).map_err(|error| problem(error.to_string()))
    }

    fn render(&mut self, row: &Row, view1: &mut [u8], view2: &mut [u8]) -> Result<()> {
        let bytes = self.sources.read(row)?;
        let changed = |reason: String| {
            let path = self.sources.path_of(&row.path);
            Error::dataset(&path, format!("{reason}; the source changed since scrl-prep"))
        };
        let source = decode(&bytes, self.decoding).map_err(|error| changed(error.to_string()))?;
        let size = (source.size.width as i32, source.size.height as i32);
        if size != (row.source_width, row.source_height) {
            return Err(changed(format!("{}×{} pixels", size.0, size.1)));
        }
        for (params, view) in [(&row.view1.params, view1), (&row.view2.params, view2)] {
            self.renderer.render(&source, params, self.options, view.as_chunks_mut::<3>().0);
        }
        Ok(())
    }
}
