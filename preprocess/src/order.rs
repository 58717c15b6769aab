//! Which image lies in which part of which epoch, and where in it.
//!
//! Epochs are made in passes of `epochs_per_pass`, so that each image is decoded once a pass. A pass cuts a random order
//! of all images into chunks of `rows_per_shard`. An epoch puts the chunks of its pass into a random order, one chunk
//! a part, and the images of each part into a random order of their own. So within an epoch the order is random over
//! all images (each pass draws a new one), and between epochs of a pass the parts hold the same images in another
//! order.
//!
//! Everything follows from the seed, the number of images and the epoch's number. Images that turn out unreadable
//! leave a gap in their part and move no other image.

use std::ops::Range;

use scrl_schemas::{Epoch, Part};

use crate::rng::{Purpose, Stream};

/// The order of every epoch.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    seed: u64,
    images: u32,
    rows_per_shard: u32,
    epochs_per_pass: u32,
}

/// One pass over all images, for up to `epochs_per_pass` epochs.
#[derive(Clone, Debug)]
pub struct Pass {
    order: Order,
    number: u32,
    /// All images in the random order of the pass; 4 bytes each.
    permutation: Vec<u32>,
}

impl Order {
    /// The order of `images` images. `rows_per_shard` and `epochs_per_pass` are at least 1.
    pub fn new(seed: u64, images: u32, rows_per_shard: u32, epochs_per_pass: u32) -> Self {
        Self { seed, images, rows_per_shard: rows_per_shard.max(1), epochs_per_pass: epochs_per_pass.max(1) }
    }

    /// Parts of each epoch, which is also the number of chunks of each pass.
    pub fn parts(&self) -> u32 {
        self.images.div_ceil(self.rows_per_shard)
    }

    /// Images of a chunk: as many as any other's, but for the last.
    pub fn chunk_images(&self, chunk: u32) -> u32 {
        self.rows_per_shard.min(self.images - chunk * self.rows_per_shard)
    }

    /// The passes that `epochs` fall into.
    pub fn passes(&self, epochs: Range<u32>) -> Range<u32> {
        if epochs.is_empty() {
            return 0..0;
        }
        epochs.start / self.epochs_per_pass..(epochs.end - 1) / self.epochs_per_pass + 1
    }

    /// The epochs of a pass.
    pub fn epochs(&self, pass: u32) -> Range<u32> {
        let first = pass.saturating_mul(self.epochs_per_pass);
        first..first.saturating_add(self.epochs_per_pass)
    }

    /// Draws the order of a pass.
    pub fn pass(&self, number: u32) -> Pass {
        let mut permutation: Vec<u32> = (0..self.images).collect();
        Stream::new(self.seed, number, 0, Purpose::ImageOrder).shuffle(&mut permutation);
        Pass { order: *self, number, permutation }
    }

    /// The part that holds each chunk in `epoch`, by chunk.
    pub fn parts_of_chunks(&self, epoch: Epoch) -> Vec<Part> {
        let mut parts: Vec<Part> = (0..self.parts()).map(Part).collect();
        Stream::new(self.seed, epoch.0, 0, Purpose::PartOrder).shuffle(&mut parts);
        parts
    }
}

impl Pass {
    /// The pass's number, from 0.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The images of a chunk, by which rows are numbered in [`Pass::rows`].
    pub fn images(&self, chunk: u32) -> &[u32] {
        let first = chunk as usize * self.order.rows_per_shard as usize;
        let last = (first + self.order.rows_per_shard as usize).min(self.permutation.len());
        &self.permutation[first..last]
    }

    /// The order of a chunk's rows in `epoch`: positions within [`Pass::images`].
    pub fn rows(&self, chunk: u32, epoch: Epoch) -> Vec<u32> {
        let mut rows: Vec<u32> = (0..self.images(chunk).len() as u32).collect();
        Stream::new(self.order.seed, epoch.0, u64::from(chunk), Purpose::RowOrder).shuffle(&mut rows);
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The images of an epoch in reading order.
    fn epoch_order(order: &Order, epoch: u32) -> Vec<u32> {
        let pass = order.pass(order.passes(epoch..epoch + 1).start);
        let mut chunks: Vec<(Part, u32)> = order.parts_of_chunks(Epoch(epoch)).into_iter().zip(0..).collect();
        chunks.sort_unstable();
        chunks
            .into_iter()
            .flat_map(|(_, chunk)| {
                pass.rows(chunk, Epoch(epoch)).into_iter().map(move |row| (chunk, row)).collect::<Vec<_>>()
            })
            .map(|(chunk, row)| pass.images(chunk)[row as usize])
            .collect()
    }

    #[test]
    fn every_epoch_holds_every_image_once_in_an_order_of_its_own() {
        let order = Order::new(9, 1001, 64, 4);
        let epochs: Vec<Vec<u32>> = (0..10).map(|epoch| epoch_order(&order, epoch)).collect();
        for (index, epoch) in epochs.iter().enumerate() {
            let mut sorted = epoch.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..1001).collect::<Vec<_>>());
            assert!(epochs[..index].iter().all(|other| other != epoch));
        }
    }

    #[test]
    fn neighbors_of_one_epoch_are_not_neighbors_in_the_next() {
        let order = Order::new(1, 4096, 256, 8);
        let neighbors = |epoch: u32| -> std::collections::HashSet<(u32, u32)> {
            let images = epoch_order(&order, epoch);
            images.windows(2).map(|pair| (pair[0].min(pair[1]), pair[0].max(pair[1]))).collect()
        };
        for epoch in 0..9 {
            let shared = neighbors(epoch).intersection(&neighbors(epoch + 1)).count();
            // By chance: 2 pairs in 256 within a pass, hence about 32 of 4095.
            assert!(shared < 80, "{shared} of 4095 pairs of neighbors stay together");
        }
    }

    #[test]
    fn passes_are_a_function_of_the_epoch_alone() {
        let order = Order::new(0, 10, 4, 8);
        assert_eq!(order.parts(), 3);
        assert_eq!(order.passes(0..3), 0..1);
        assert_eq!(order.passes(7..9), 0..2);
        assert_eq!(order.passes(5..5), 0..0);
        assert_eq!(order.epochs(1), 8..16);
        for chunk in 0..3 {
            assert_eq!(order.pass(0).images(chunk).len() as u32, order.chunk_images(chunk));
        }
        assert_eq!(order.chunk_images(2), 2);
    }
}
