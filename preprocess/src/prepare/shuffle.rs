//! The permutation of every epoch: which image is in which shard, and at which row.
//!
//! Epochs are made in passes of `epochs_per_pass`, so that each image is decoded once a pass. A
//! pass cuts a random permutation of all images into chunks of `rows_per_shard`. Each of its epochs
//! permutes the chunks, one chunk for each shard, and the images of each chunk. So an epoch is a
//! random permutation of all images, each pass draws a new one, and the epochs of a pass put the
//! same images into a shard together.
//!
//! Everything follows from the seed, the number of images and the number of the epoch. An
//! unreadable image is left out of its shard and moves no other image.

use std::ops::Range;

use scrl_cli::World;
use scrl_schemas::{Epoch, Shard};

use crate::views::rng::{Purpose, Stream};

/// The permutation of every epoch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shuffle {
    seed: u64,
    images: u32,
    rows_per_shard: u32,
    epochs_per_pass: u32,
}

/// One pass over all images, for up to `epochs_per_pass` epochs.
#[derive(Clone, Debug)]
pub(crate) struct Pass {
    shuffle: Shuffle,
    number: u32,
    /// All images, permuted; 4 bytes each.
    permutation: Vec<u32>,
}

impl Shuffle {
    /// The shuffle of `images` images. `rows_per_shard` and `epochs_per_pass` are at least 1.
    pub fn new(seed: u64, images: u32, rows_per_shard: u32, epochs_per_pass: u32) -> Self {
        Self {
            seed,
            images,
            rows_per_shard: rows_per_shard.max(1),
            epochs_per_pass: epochs_per_pass.max(1),
        }
    }

    /// Shards of each epoch, which is also the number of chunks of each pass.
    pub fn shards_per_epoch(&self) -> u32 {
        self.images.div_ceil(self.rows_per_shard)
    }

    /// The number of images in a chunk: `rows_per_shard`, fewer in the last.
    pub fn chunk_images(&self, chunk: u32) -> u32 {
        self.rows_per_shard.min(self.images - chunk * self.rows_per_shard)
    }

    /// Whether a chunk is assigned to this process. Chunks are counted over all passes, so that
    /// even passes of few chunks are divided among many processes.
    pub fn assigns(&self, pass: u32, chunk: u32, world: World) -> bool {
        let number = u64::from(pass) * u64::from(self.shards_per_epoch()) + u64::from(chunk);
        number % u64::from(world.size) == u64::from(world.rank)
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

    /// Draws the permutation of a pass.
    pub fn pass(&self, number: u32) -> Pass {
        let mut permutation: Vec<u32> = (0..self.images).collect();
        Stream::new(self.seed, number, 0, Purpose::ImageShuffle).shuffle(&mut permutation);
        Pass { shuffle: *self, number, permutation }
    }

    /// The shard that holds each chunk in `epoch`, by chunk.
    pub fn shards_of_chunks(&self, epoch: Epoch) -> Vec<Shard> {
        let mut shards: Vec<Shard> = (0..self.shards_per_epoch()).map(Shard).collect();
        Stream::new(self.seed, epoch.0, 0, Purpose::ShardShuffle).shuffle(&mut shards);
        shards
    }
}

impl Pass {
    /// The pass's number, from 0.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The images of a chunk; [`Pass::rows`] has positions among them.
    pub fn images(&self, chunk: u32) -> &[u32] {
        let first = chunk as usize * self.shuffle.rows_per_shard as usize;
        let last = (first + self.shuffle.rows_per_shard as usize).min(self.permutation.len());
        &self.permutation[first..last]
    }

    /// The permutation of a chunk's rows in `epoch`: positions in [`Pass::images`].
    pub fn rows(&self, chunk: u32, epoch: Epoch) -> Vec<u32> {
        let mut rows: Vec<u32> = (0..self.images(chunk).len() as u32).collect();
        Stream::new(self.shuffle.seed, epoch.0, u64::from(chunk), Purpose::RowShuffle)
            .shuffle(&mut rows);
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The images of an epoch in reading order.
    fn permutation_of(shuffle: &Shuffle, epoch: u32) -> Vec<u32> {
        let pass = shuffle.pass(shuffle.passes(epoch..epoch + 1).start);
        let mut chunks: Vec<(Shard, u32)> =
            shuffle.shards_of_chunks(Epoch(epoch)).into_iter().zip(0..).collect();
        chunks.sort_unstable();
        chunks
            .into_iter()
            .flat_map(|(_, chunk)| {
                pass.rows(chunk, Epoch(epoch))
                    .into_iter()
                    .map(move |row| (chunk, row))
                    .collect::<Vec<_>>()
            })
            .map(|(chunk, row)| pass.images(chunk)[row as usize])
            .collect()
    }

    #[test]
    fn every_epoch_is_another_permutation_of_all_images() {
        let shuffle = Shuffle::new(9, 1001, 64, 4);
        let epochs: Vec<Vec<u32>> = (0..10).map(|epoch| permutation_of(&shuffle, epoch)).collect();
        for (index, epoch) in epochs.iter().enumerate() {
            let mut sorted = epoch.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..1001).collect::<Vec<_>>());
            assert!(epochs[..index].iter().all(|other| other != epoch));
        }
    }

    #[test]
    fn neighbors_of_one_epoch_are_not_neighbors_in_the_next() {
        let shuffle = Shuffle::new(1, 4096, 256, 8);
        let neighbors = |epoch: u32| -> std::collections::HashSet<(u32, u32)> {
            let images = permutation_of(&shuffle, epoch);
            images.windows(2).map(|pair| (pair[0].min(pair[1]), pair[0].max(pair[1]))).collect()
        };
        for epoch in 0..9 {
            let shared = neighbors(epoch).intersection(&neighbors(epoch + 1)).count();
            // Expected within a pass: 2 of 256 pairs, hence about 32 of 4095.
            assert!(shared < 80, "{shared} of 4095 pairs of neighbors stay together");
        }
    }

    #[test]
    fn passes_are_a_function_of_the_epoch_alone() {
        let shuffle = Shuffle::new(0, 10, 4, 8);
        assert_eq!(shuffle.shards_per_epoch(), 3);
        assert_eq!(shuffle.passes(0..3), 0..1);
        assert_eq!(shuffle.passes(7..9), 0..2);
        assert_eq!(shuffle.passes(5..5), 0..0);
        assert_eq!(shuffle.epochs(1), 8..16);
        for chunk in 0..3 {
            assert_eq!(shuffle.pass(0).images(chunk).len() as u32, shuffle.chunk_images(chunk));
        }
        assert_eq!(shuffle.chunk_images(2), 2);
    }
}
