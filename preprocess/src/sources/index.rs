//! A compact table of all images in memory: 40 bytes and the length of its path for each image. A
//! hundred million images with paths of 40 bytes take 8.0 GB.
//!
//! The table grows block by block, so that it is never copied and at most one block is partly
//! empty.

/// Images of a block.
const BLOCK: usize = 1 << 16;
/// Marks an image without a class.
const NO_CLASS: u32 = u32::MAX;

/// Where an image's bytes lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Location {
    /// The number of the archive or Parquet file; 0 where every image is a file of its own.
    pub container: u32,
    /// The first byte within the archive, or the row within the Parquet file.
    pub position: u64,
}

/// What the index holds of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    /// Its path below the images folder, or its name within the archive or table.
    pub path: String,
    /// The number of its class in [`super::classes::Classes`].
    pub class: Option<u32>,
    /// Width in pixels, 0 where the header could not be read.
    pub width: i32,
    /// Height in pixels, 0 where the header could not be read.
    pub height: i32,
    /// Its size in bytes.
    pub bytes: u64,
    /// Where its bytes lie.
    pub location: Location,
}

/// The records of all images, by their number from 0.
#[derive(Debug, Default)]
pub(super) struct Index {
    blocks: Vec<Block>,
}

/// The records of [`BLOCK`] images, a column for each field.
#[derive(Debug, Default)]
struct Block {
    /// All paths, one behind the other.
    paths: Vec<u8>,
    /// Where each path ends in `paths`.
    ends: Vec<u64>,
    classes: Vec<u32>,
    widths: Vec<i32>,
    heights: Vec<i32>,
    bytes: Vec<u64>,
    containers: Vec<u32>,
    positions: Vec<u64>,
}

impl Block {
    fn push(&mut self, record: &Record) {
        self.paths.extend_from_slice(record.path.as_bytes());
        self.ends.push(self.paths.len() as u64);
        self.classes.push(record.class.unwrap_or(NO_CLASS));
        self.widths.push(record.width);
        self.heights.push(record.height);
        self.bytes.push(record.bytes);
        self.containers.push(record.location.container);
        self.positions.push(record.location.position);
    }

    /// Frees the room that a full block does not need.
    fn shrink(&mut self) {
        let Self { paths, ends, classes, widths, heights, bytes, containers, positions } = self;
        paths.shrink_to_fit();
        ends.shrink_to_fit();
        classes.shrink_to_fit();
        widths.shrink_to_fit();
        heights.shrink_to_fit();
        bytes.shrink_to_fit();
        containers.shrink_to_fit();
        positions.shrink_to_fit();
    }

    fn get(&self, row: usize) -> Record {
        let start = if row == 0 { 0 } else { self.ends[row - 1] as usize };
        let path = &self.paths[start..self.ends[row] as usize];
        Record {
            path: String::from_utf8_lossy(path).into_owned(),
            class: Some(self.classes[row]).filter(|&class| class != NO_CLASS),
            width: self.widths[row],
            height: self.heights[row],
            bytes: self.bytes[row],
            location: Location { container: self.containers[row], position: self.positions[row] },
        }
    }

    /// Bytes of memory, room that is not used yet included.
    #[cfg(test)]
    fn memory(&self) -> usize {
        let Self { paths, ends, classes, widths, heights, bytes, containers, positions } = self;
        paths.capacity()
            + 8 * (ends.capacity() + bytes.capacity() + positions.capacity())
            + 4 * (classes.capacity() + widths.capacity() + heights.capacity())
            + 4 * containers.capacity()
    }
}

impl Index {
    /// Appends an image.
    pub fn push(&mut self, record: &Record) {
        match self.blocks.last_mut() {
            Some(block) if block.ends.len() < BLOCK => block.push(record),
            last => {
                last.into_iter().for_each(Block::shrink);
                let mut block = Block::default();
                block.push(record);
                self.blocks.push(block);
            }
        }
    }

    /// How many images there are.
    pub fn len(&self) -> u64 {
        let full = self.blocks.len().saturating_sub(1) as u64;
        full * BLOCK as u64 + self.blocks.last().map_or(0, |block| block.ends.len()) as u64
    }

    /// The image of this number.
    ///
    /// # Panics
    /// If the number is not below [`Index::len`].
    pub fn get(&self, number: u64) -> Record {
        self.blocks[number as usize / BLOCK].get(number as usize % BLOCK)
    }

    /// Bytes of memory.
    #[cfg(test)]
    fn memory(&self) -> usize {
        let blocks = self.blocks.capacity() * size_of::<Block>();
        blocks + self.blocks.iter().map(Block::memory).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u64) -> Record {
        Record {
            path: format!("ü/{}.jpg", "x".repeat(number as usize % 7)),
            class: (!number.is_multiple_of(3)).then_some(number as u32),
            width: number as i32 * 3,
            height: 7,
            bytes: number << 33,
            location: Location { container: number as u32 % 5, position: u64::MAX - number },
        }
    }

    #[test]
    fn records_come_back_from_every_block() {
        let mut index = Index::default();
        assert_eq!(index.len(), 0);
        let count = 2 * BLOCK as u64 + 500;
        for number in 0..count {
            index.push(&record(number));
            assert_eq!(index.len(), number + 1);
        }
        for number in (0..count).step_by(97).chain([0, BLOCK as u64 - 1, BLOCK as u64, count - 1]) {
            assert_eq!(index.get(number), record(number));
        }
    }

    #[test]
    fn a_hundred_million_images_take_less_than_10_gb() {
        let mut index = Index::default();
        let images = 1_000_000;
        let mut path_bytes = 0;
        for number in 0..images {
            // As in ImageNet, below a folder for each split: 36 bytes.
            let path =
                format!("train/n{:08}/n{:08}_{:05}.JPEG", number / 1300, number / 1300, number);
            path_bytes += path.len() as u64;
            index.push(&Record { path, ..record(number) });
        }
        let each = index.memory() as f64 / images as f64;
        let expected = 40.0 + path_bytes as f64 / images as f64;
        assert!(each < 1.05 * expected, "{each} bytes an image, {expected} expected");
        assert!(each * 1e8 < 10e9, "{each} bytes an image");
    }
}
