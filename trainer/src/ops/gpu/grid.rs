//! How the kernels' work is laid out over blocks and threads. The constants are those of
//! `kernels/`.

use candle_core::{DType, Result, bail};

/// Threads of a block of one dimension, and the most of a block of rows (`THREADS`).
const THREADS: usize = 256;

/// Packs of channels side by side in a block: a warp's width.
const MOST_PACKS: usize = 32;

/// Blocks of a sum, and at most the pieces that it is cut into: as many as the threads that add them
/// up read at once (`AHEAD` times `SHARERS`). A multiprocessor holds two to four blocks of the kernels
/// concerned (`cuda_cubins` prints their registers), so that 132 of them, an H100, take one or two
/// rounds, and what one block of each has on its way keeps the memory busy in a round that is not
/// full.
const BLOCKS: usize = 512;

/// Rows of a thread where nothing is summed: four times those that it reads at once (`AHEAD`).
const ROWS_PER_THREAD: usize = 16;

/// Columns, and threads that share each, of a block that adds up columns (`COLUMNS`, `SHARERS`).
const COLUMNS: usize = 8;
const SHARERS: usize = 128;

/// Bytes of a pack, the unit in which maps are read.
const PACK_BYTES: usize = 16;

/// Blocks, and threads of each, in two dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    pub blocks: [u32; 2],
    pub threads: [u32; 2],
}

/// Numbers in a pack (`LANES`).
pub(crate) fn lanes(dtype: DType) -> usize {
    PACK_BYTES / dtype.size_in_bytes()
}

/// The packs of `count` numbers in rows of `channels`.
pub(crate) fn packs(count: usize, channels: usize, dtype: DType) -> Result<usize> {
    match lanes(dtype) {
        lanes if channels.is_multiple_of(lanes) => Ok(count / lanes),
        lanes => bail!("{channels} channels are no multiple of {lanes}, which a device needs"),
    }
}

/// A grid of `threads` threads, counted in 32 bits.
pub(crate) fn line(threads: usize) -> Result<Grid> {
    if u32::try_from(threads).is_err() {
        bail!(
            "a map of {threads} packs is too large for a device's kernels: \
             use a smaller --batch-size"
        );
    }
    Ok(Grid { blocks: [threads.div_ceil(THREADS) as u32, 1], threads: [THREADS as u32, 1] })
}

/// A grid of `count` blocks.
pub(crate) fn blocks(count: usize) -> Result<Grid> {
    match i32::try_from(count) {
        Ok(count) => Ok(Grid { blocks: [count as u32, 1], threads: [THREADS as u32, 1] }),
        Err(_) => {
            bail!("{count} rows are too many for a device's kernels: use a smaller --batch-size")
        }
    }
}

/// A grid of `blocks` blocks along x for each of `tensors` along y.
pub(crate) fn shared(blocks: usize, tensors: usize) -> Grid {
    Grid { blocks: [blocks as u32, tensors as u32], threads: [THREADS as u32, 1] }
}

/// A grid of blocks that add up `count` columns.
pub(crate) fn columns(count: usize) -> Grid {
    Grid { blocks: [count.div_ceil(COLUMNS) as u32, 1], threads: [COLUMNS as u32, SHARERS as u32] }
}

/// How a matrix of rows by channels is cut into blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tiles {
    pub grid: Grid,
    pub rows_per_block: usize,
}

impl Tiles {
    /// Tiles whose sums become one piece each: as many as fill the device.
    pub fn summed(rows: usize, channels: usize, dtype: DType) -> Result<Self> {
        Self::new(rows, channels, dtype, |across, high| {
            rows.div_ceil((BLOCKS / across).max(1)).next_multiple_of(high)
        })
    }

    /// Tiles with a few rows for each thread.
    pub fn mapped(rows: usize, channels: usize, dtype: DType) -> Result<Self> {
        Self::new(rows, channels, dtype, |_, high| high * ROWS_PER_THREAD)
    }

    fn new(
        rows: usize,
        channels: usize,
        dtype: DType,
        rows_per_block: impl Fn(usize, usize) -> usize,
    ) -> Result<Self> {
        let packs = packs(channels, channels, dtype)?;
        let wide = packs.min(MOST_PACKS);
        let (high, across) = (THREADS / wide, packs.div_ceil(wide));
        let rows_per_block = rows_per_block(across, high).max(high);
        // Rows are counted in 32 bits by the kernels.
        let down = blocks(rows)?.blocks[0].div_ceil(rows_per_block as u32);
        let grid = Grid { blocks: [down, across as u32], threads: [wide as u32, high as u32] };
        Ok(Self { grid, rows_per_block })
    }

    /// Tiles one below the other: pieces of a sum over the rows.
    pub fn count(&self) -> usize {
        self.grid.blocks[0] as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_row_and_channel() {
        for (rows, channels, dtype) in [
            (1, 64, DType::BF16),
            (6_422_528, 64, DType::BF16),
            (25_088, 2048, DType::F32),
            (77, 4096, DType::F32),
            (0, 256, DType::F32),
        ] {
            for tiles in
                [Tiles::summed(rows, channels, dtype), Tiles::mapped(rows, channels, dtype)]
            {
                let Tiles { grid, rows_per_block } = tiles.unwrap();
                let [down, across] = grid.blocks.map(|blocks| blocks as usize);
                let [wide, high] = grid.threads.map(|threads| threads as usize);
                assert!(wide * high <= THREADS);
                assert!(across * wide * lanes(dtype) >= channels);
                assert_eq!(down, rows.div_ceil(rows_per_block));
            }
        }
    }

    #[test]
    fn counts_beyond_the_kernels_are_refused() {
        assert!(line(1 << 32).is_err());
        assert!(packs(30, 10, DType::BF16).unwrap_err().to_string().contains("no multiple of 8"));
    }
}
