//! The kernels' sources, and how each is launched. The order of arguments here is that of the kernel.

use super::program::{Argument, Launch, Numbers, Operand, Recorder, Work};
use Argument::{Float, Int, Long, Place};

/// The sources, each with its file's name, in the order in which they make one program.
pub const SOURCES: [(&str, &str); 6] = [
    ("base.cu", include_str!("kernels/base.cu")),
    ("batch_norm.cu", include_str!("kernels/batch_norm.cu")),
    ("pool.cu", include_str!("kernels/pool.cu")),
    ("roi_align.cu", include_str!("kernels/roi_align.cu")),
    ("loss.cu", include_str!("kernels/loss.cu")),
    ("optim.cu", include_str!("kernels/optim.cu")),
];

/// All sources as one, each line belonging to its file.
pub fn source(numbers: Numbers) -> String {
    let mut all = String::new();
    if numbers == Numbers::Bf16 {
        all.push_str("#define SCRL_BF16\n");
    }
    for (name, text) in SOURCES {
        all.push_str(&format!("#line 1 \"{name}\"\n{text}\n"));
    }
    all
}

/// Threads of a block of one dimension, and the most of a block of rows (`THREADS`).
const THREADS: usize = 256;

/// Packs of channels side by side in a block: a warp's width.
const MOST_PACKS: usize = 32;

/// Blocks that fill the GPUs of today several times over; sums are cut into about so many pieces.
const BLOCKS: usize = 1056;

/// Rows a thread takes where nothing is summed.
const ROWS_PER_THREAD: usize = 8;

/// Channels, and pieces, that a block takes that adds up pieces (`COLUMNS`, `SHARERS`).
const COLUMNS: usize = 32;
const SHARERS: usize = 32;

/// Cells of a map one way, and RoIs of a view, that RoIAlign's shared memory is laid out for.
pub const MOST_CELLS: usize = 64;
/// See [`MOST_CELLS`].
pub const MOST_ROIS: usize = 64;

/// Bytes of the struct `Batch` of `kernels/loss.cu`.
pub const BATCH_BYTES: usize = 24;

/// A matrix of pixels or vectors by channels, of which the rows from a number on that lies on the device are no data.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// Rows in memory.
    pub rows: usize,
    /// How many of them count; [`Operand::Null`] for all.
    pub valid: Operand,
    /// Channels.
    pub channels: usize,
    /// Of the matrix.
    pub numbers: Numbers,
}

/// How a matrix is cut into blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiles {
    grid: [u32; 2],
    block: [u32; 2],
    rows_per_block: usize,
}

impl Rows {
    /// Numbers of the matrix.
    pub fn count(&self) -> usize {
        self.rows * self.channels
    }

    fn tiles(&self, rows_per_block: impl Fn(usize, usize) -> usize) -> Tiles {
        let packs = self.channels / self.numbers.lanes();
        let wide = packs.min(MOST_PACKS);
        let high = THREADS / wide;
        let across = packs.div_ceil(wide);
        let rows_per_block = rows_per_block(across, high).max(1);
        let down = self.rows.div_ceil(rows_per_block);
        Tiles { grid: [down as u32, across as u32], block: [wide as u32, high as u32], rows_per_block }
    }

    /// Tiles whose sums become one piece each: as many as fill the device.
    fn summed(&self) -> Tiles {
        self.tiles(|across, high| self.rows.div_ceil((BLOCKS / across).max(1)).next_multiple_of(high))
    }

    /// Tiles of which each thread takes a few rows.
    fn mapped(&self) -> Tiles {
        self.tiles(|_, high| high * ROWS_PER_THREAD)
    }

    /// Bytes of the pieces of a sum over the rows: two numbers a channel each.
    fn piece_bytes(&self) -> usize {
        self.summed().grid[0] as usize * 2 * self.channels * 4
    }
}

/// Blocks that hold so many threads.
fn line(threads: usize) -> ([u32; 2], [u32; 2]) {
    ([threads.div_ceil(THREADS) as u32, 1], [THREADS as u32, 1])
}

/// A block each.
fn blocks(count: usize) -> ([u32; 2], [u32; 2]) {
    ([count as u32, 1], [THREADS as u32, 1])
}

fn int(number: usize) -> Argument {
    Int(i32::try_from(number).expect("sizes are checked when a learner is made"))
}

/// The parts of a batch norm that its kernels use; rows of float32 numbers, a number a channel each.
#[derive(Clone, Copy, Debug)]
pub struct NormPlaces {
    /// Weights, then biases `[2, C]`.
    pub affine: Operand,
    /// Running mean, then variance `[2, C]`.
    pub running: Operand,
    /// A bias that was left out of what is normalised `[C]`, or none.
    pub bias: Operand,
}

/// Where a gradient passes a batch norm's ReLU (`MASK_…` of `kernels/batch_norm.cu`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mask {
    /// No ReLU.
    None,
    /// ReLU directly behind the batch norm.
    Own,
    /// ReLU behind the sum with a residual, whose result this is.
    Result(Operand),
}

impl Mask {
    fn arguments(self) -> (Argument, Argument) {
        match self {
            Self::None => (Place(Operand::Null), Int(0)),
            Self::Own => (Place(Operand::Null), Int(1)),
            Self::Result(result) => (Place(result), Int(2)),
        }
    }
}

/// Sizes of a square map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapShape {
    /// Images.
    pub n: usize,
    /// Side in pixels.
    pub side: usize,
    /// Channels.
    pub channels: usize,
}

impl MapShape {
    /// Numbers of the map.
    pub fn count(&self) -> usize {
        self.n * self.side * self.side * self.channels
    }
}

/// The kernels that a program may launch, each a function with its operands.
impl Recorder {
    fn launch(
        &mut self,
        kernel: &'static str,
        (grid, block): ([u32; 2], [u32; 2]),
        arguments: impl IntoIterator<Item = Argument>,
    ) {
        let arguments = arguments.into_iter().collect();
        self.add(Work::Launch(Launch { kernel, grid, block, arguments }));
    }

    /// The statistics of a batch norm over `x`, as `scale` `[4, C]`, which is returned; they enter the running ones.
    pub fn batch_statistics(&mut self, x: Operand, shape: Rows, norm: NormPlaces) -> Operand {
        let tiles = shape.summed();
        let pieces = self.buffer(shape.piece_bytes());
        let scale = self.buffer(4 * 4 * shape.channels);
        let (rows, channels) = (int(shape.rows), int(shape.channels));
        let per_block = int(tiles.rows_per_block);
        self.launch(
            "batch_moments",
            (tiles.grid, tiles.block),
            [Place(x), Place(pieces), rows, Place(shape.valid), channels, per_block],
        );
        self.launch(
            "batch_statistics",
            Self::gathering(shape.channels),
            [
                Place(pieces),
                Int(tiles.grid[0] as i32),
                rows,
                Place(shape.valid),
                channels,
                per_block,
                Place(norm.affine),
                Place(norm.bias),
                Place(norm.running),
                Place(scale),
            ],
        );
        scale
    }

    fn gathering(channels: usize) -> ([u32; 2], [u32; 2]) {
        ([channels.div_ceil(COLUMNS) as u32, 1], [COLUMNS as u32, SHARERS as u32])
    }

    /// `x` normalised with `scale`, plus a residual with its scale where it is a map before its own batch norm.
    pub fn batch_norm(
        &mut self,
        (x, scale): (Operand, Operand),
        (residual, residual_scale): (Operand, Operand),
        y: Operand,
        shape: Rows,
        relu: bool,
    ) {
        let tiles = shape.mapped();
        self.launch(
            "batch_norm",
            (tiles.grid, tiles.block),
            [
                Place(x),
                Place(scale),
                Place(residual),
                Place(residual_scale),
                Place(y),
                int(shape.rows),
                Place(shape.valid),
                int(shape.channels),
                int(tiles.rows_per_block),
                Int(i32::from(relu)),
            ],
        );
    }

    /// The gradient of the affine parameters from `dy`, and the coefficients of [`Recorder::batch_norm_backward`], which
    /// are returned. The masked gradient goes to `masked`, if given.
    pub fn batch_norm_sums(
        &mut self,
        (x, scale): (Operand, Operand),
        dy: Operand,
        mask: Mask,
        masked: Operand,
        shape: Rows,
        (affine_gradient, accumulate): (Operand, bool),
    ) -> Operand {
        let tiles = shape.summed();
        let pieces = self.buffer(shape.piece_bytes());
        let coefficients = self.buffer(2 * 4 * shape.channels);
        let (rows, channels) = (int(shape.rows), int(shape.channels));
        let (result, mask) = mask.arguments();
        self.launch(
            "batch_norm_sums",
            (tiles.grid, tiles.block),
            [
                Place(x),
                Place(dy),
                result,
                mask,
                Place(scale),
                Place(pieces),
                Place(masked),
                rows,
                Place(shape.valid),
                channels,
                int(tiles.rows_per_block),
            ],
        );
        self.launch(
            "batch_norm_coefficients",
            Self::gathering(shape.channels),
            [
                Place(pieces),
                Int(tiles.grid[0] as i32),
                rows,
                Place(shape.valid),
                channels,
                Place(scale),
                Place(affine_gradient),
                Int(i32::from(accumulate)),
                Place(coefficients),
            ],
        );
        coefficients
    }

    /// The gradient of a batch norm's map; `mask` is none or the batch norm's own, and `dx` may be `dy`.
    pub fn batch_norm_backward(
        &mut self,
        (x, scale): (Operand, Operand),
        (dy, mask): (Operand, Mask),
        coefficients: Operand,
        dx: Operand,
        shape: Rows,
    ) {
        let tiles = shape.mapped();
        self.launch(
            "batch_norm_backward",
            (tiles.grid, tiles.block),
            [
                Place(x),
                Place(dy),
                mask.arguments().1,
                Place(scale),
                Place(coefficients),
                Place(dx),
                int(shape.rows),
                Place(shape.valid),
                int(shape.channels),
                int(tiles.rows_per_block),
            ],
        );
    }

    /// Bytes `[pixels, 3]` → normalised `[pixels, 4]`.
    pub fn normalize_pixels(&mut self, bytes: Operand, out: Operand, pixels: usize) {
        let arguments = [Place(bytes), Place(out), Long(pixels as i64)];
        self.launch("normalize_pixels", line(pixels.div_ceil(4)), arguments);
    }

    /// A float32 filter `[taps, 3]` → `[taps, 4]` in the maps' numbers.
    pub fn pad_filter(&mut self, filter: Operand, padded: Operand, taps: usize) {
        self.launch("pad_filter", line(4 * taps), [Place(filter), Place(padded), int(taps)]);
    }

    /// The gradient `[taps, 4]` → float32 `[taps, 3]`.
    pub fn unpad_gradient(&mut self, padded: Operand, gradient: Operand, taps: usize, accumulate: bool) {
        let arguments = [Place(padded), Place(gradient), int(taps), Int(i32::from(accumulate))];
        self.launch("unpad_gradient", line(3 * taps), arguments);
    }

    /// Batch norm with `scale`, ReLU and max-pool of `x`; `winners` are bytes for each number of `y`, or none.
    pub fn max_pool(
        &mut self,
        (x, scale): (Operand, Operand),
        y: Operand,
        winners: Operand,
        (shape, numbers): (MapShape, Numbers),
    ) {
        let MapShape { n, side, channels } = shape;
        let pooled = MapShape { side: side.div_ceil(2), ..shape };
        self.launch(
            "max_pool",
            line(pooled.count() / numbers.lanes()),
            [Place(x), Place(scale), Place(y), Place(winners), int(n), int(side), int(side), int(channels)],
        );
    }

    /// The gradient of the activations that were pooled.
    pub fn max_pool_backward(
        &mut self,
        dy: Operand,
        winners: Operand,
        dx: Operand,
        (shape, numbers): (MapShape, Numbers),
    ) {
        let MapShape { n, side, channels } = shape;
        let arguments = [Place(dy), Place(winners), Place(dx), int(n), int(side), int(side), int(channels)];
        self.launch("max_pool_backward", line(shape.count() / numbers.lanes()), arguments);
    }

    /// One of the three kernels over the mean of a map's pixels.
    fn pooling(
        &mut self,
        kernel: &'static str,
        [from, to]: [Operand; 2],
        (shape, threads): (MapShape, usize),
    ) {
        let pixels = shape.side * shape.side;
        let arguments = [Place(from), Place(to), int(shape.n), int(pixels), int(shape.channels)];
        self.launch(kernel, line(threads), arguments);
    }

    /// The mean of a map's pixels, in the maps' numbers.
    pub fn average_pool(&mut self, map: Operand, means: Operand, (shape, numbers): (MapShape, Numbers)) {
        let threads = shape.n * shape.channels / numbers.lanes();
        self.pooling("average_pool", [map, means], (shape, threads));
    }

    /// The mean of a map's pixels, as float32.
    pub fn average_features(&mut self, map: Operand, means: Operand, (shape, numbers): (MapShape, Numbers)) {
        let threads = shape.n * shape.channels / numbers.lanes();
        self.pooling("average_features", [map, means], (shape, threads));
    }

    /// The gradient of [`Recorder::average_pool`].
    pub fn average_pool_backward(
        &mut self,
        dmeans: Operand,
        dmap: Operand,
        (shape, numbers): (MapShape, Numbers),
    ) {
        let threads = shape.count() / numbers.lanes();
        self.pooling("average_pool_backward", [dmeans, dmap], (shape, threads));
    }

    /// Vectors for so many RoIs, of which `valid` count.
    pub fn roi_align(
        &mut self,
        map: Operand,
        (rois, count, valid): (Operand, usize, Operand),
        vectors: Operand,
        shape: MapShape,
    ) {
        let side = int(shape.side);
        let arguments =
            [Place(map), Place(rois), Place(valid), Place(vectors), side, side, int(shape.channels)];
        self.launch("roi_align", blocks(count), arguments);
    }

    /// The gradient of the map; `first` says where each view's RoIs begin.
    pub fn roi_align_backward(
        &mut self,
        gradient: Operand,
        (rois, first): (Operand, Operand),
        dmap: Operand,
        shape: MapShape,
    ) {
        let side = int(shape.side);
        let arguments =
            [Place(gradient), Place(rois), Place(first), Place(dmap), side, side, int(shape.channels)];
        self.launch("roi_align_backward", blocks(shape.n), arguments);
    }

    /// The loss of `rows` predictions, put into `sum` or added to it, and their gradient.
    pub fn cosine_loss(
        &mut self,
        [predictions, targets, gradient]: [Operand; 3],
        (batch, sum, accumulate): (Operand, Operand, bool),
        (rows, width): (usize, usize),
    ) {
        let losses = self.buffer(8 * rows);
        let arguments =
            [Place(predictions), Place(targets), Place(gradient), Place(losses), Place(batch), int(width)];
        self.launch("cosine_loss", blocks(rows), arguments);
        self.sum_rows(losses, rows, sum, accumulate);
    }

    /// The sum of float64 numbers, put into `sum` or added to it.
    fn sum_rows(&mut self, numbers: Operand, count: usize, sum: Operand, accumulate: bool) {
        let arguments = [Place(numbers), int(count), Place(sum), Int(i32::from(accumulate))];
        self.launch("sum_rows", blocks(1), arguments);
    }

    /// Adds a bias to each row of a float32 matrix.
    pub fn add_bias(&mut self, matrix: Operand, bias: Operand, (rows, columns): (usize, usize)) {
        let arguments = [Place(matrix), Place(bias), int(rows), int(columns)];
        self.launch("add_bias", line(rows * columns), arguments);
    }

    /// The cross-entropy of `rows` of logits, which become their gradient, and how many are right.
    pub fn cross_entropy(
        &mut self,
        [logits, classes, batch]: [Operand; 3],
        ([loss, right], accumulate): ([Operand; 2], bool),
        (rows, width): (usize, usize),
    ) {
        let (losses, rights) = (self.buffer(8 * rows), self.buffer(8 * rows));
        let arguments =
            [Place(logits), Place(classes), Place(losses), Place(rights), Place(batch), int(width)];
        self.launch("cross_entropy", blocks(rows), arguments);
        self.sum_rows(losses, rows, loss, accumulate);
        self.sum_rows(rights, rows, right, accumulate);
    }

    /// The sums of a float32 matrix' columns.
    pub fn column_sums(
        &mut self,
        matrix: Operand,
        (rows, columns): (usize, usize),
        sums: Operand,
        accumulate: bool,
    ) {
        let arguments = [Place(matrix), int(rows), int(columns), Place(sums), Int(i32::from(accumulate))];
        self.launch("column_sums", blocks(columns), arguments);
    }

    /// Sums of `rows` vectors scaled to length 1 and of their squares, `[2, width]` in float64.
    pub fn unit_moments(
        &mut self,
        [vectors, batch, moments]: [Operand; 3],
        (rows, width): (usize, usize),
        accumulate: bool,
    ) {
        let inverses = self.buffer(8 * rows);
        self.launch("inverse_lengths", blocks(rows), [Place(vectors), Place(inverses), int(width)]);
        let accumulate = Int(i32::from(accumulate));
        let arguments = [Place(vectors), Place(inverses), Place(batch), Place(moments), accumulate];
        self.launch("unit_moments", blocks(width), arguments);
    }

    /// The mean standard deviation that the moments tell.
    pub fn unit_spread(&mut self, moments: Operand, width: usize, batch: Operand, spread: Operand) {
        self.launch("unit_spread", blocks(1), [Place(moments), int(width), Place(batch), Place(spread)]);
    }

    /// The norms of all tensors of a table, as LARS's ratios.
    pub fn lars_ratios(
        &mut self,
        table: Table,
        parameters: Operand,
        gradients: Operand,
        decay: f32,
    ) -> Operand {
        let sums = self.buffer(16 * table.chunk_count);
        let ratios = self.buffer(4 * table.span_count);
        self.launch(
            "lars_norms",
            blocks(table.chunk_count),
            [Place(table.chunks), Place(parameters), Place(gradients), Place(sums)],
        );
        let arguments = [Place(table.spans), Place(sums), Place(ratios), Float(decay)];
        self.launch("lars_ratios", blocks(table.span_count), arguments);
        ratios
    }

    /// Moves everything.
    pub fn lars_update(&mut self, table: Table, arrays: Arrays, ratios: Operand, momentum: f32, decay: f32) {
        self.launch(
            "lars_update",
            blocks(table.chunk_count),
            [
                Place(table.chunks),
                Place(ratios),
                Place(arrays.batch),
                Place(arrays.outcome),
                Place(arrays.parameters),
                Place(arrays.gradients),
                Place(arrays.velocities),
                Place(arrays.targets),
                Place(arrays.working),
                Place(arrays.working_targets),
                Float(momentum),
                Float(decay),
            ],
        );
    }

    /// Moves the target alone.
    pub fn follow(&mut self, table: Table, arrays: Arrays) {
        let Arrays { batch, parameters, targets, working_targets, .. } = arrays;
        let arguments =
            [Place(table.chunks), Place(batch), Place(parameters), Place(targets), Place(working_targets)];
        self.launch("follow", blocks(table.chunk_count), arguments);
    }

    /// Float32 parameters in the maps' numbers.
    pub fn make_working_copy(&mut self, parameters: Operand, working: Operand, count: usize) {
        let arguments = [Place(parameters), Place(working), Long(count as i64)];
        self.launch("make_working_copy", line(count.div_ceil(4)), arguments);
    }

    /// A gradient in the maps' numbers as float32, put there or added.
    pub fn store_gradient(&mut self, gradient: Operand, to: Operand, count: usize, accumulate: bool) {
        let arguments = [Place(gradient), Place(to), int(count), Int(i32::from(accumulate))];
        self.launch("store_gradient", line(count), arguments);
    }
}

/// The table that cuts parameters into chunks.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Of chunks.
    pub chunks: Operand,
    /// How many.
    pub chunk_count: usize,
    /// Of tensors.
    pub spans: Operand,
    /// How many.
    pub span_count: usize,
}

/// What the optimiser reads and changes: arrays of the same layout, and what the host says.
#[derive(Clone, Copy, Debug)]
pub struct Arrays {
    /// The struct `Batch`.
    pub batch: Operand,
    /// The struct `Outcome`.
    pub outcome: Operand,
    /// Of the network that learns.
    pub parameters: Operand,
    /// Their gradients.
    pub gradients: Operand,
    /// Their velocities.
    pub velocities: Operand,
    /// Of the network that follows.
    pub targets: Operand,
    /// Parameters in the maps' numbers, where those are not float32.
    pub working: Operand,
    /// The target's, likewise.
    pub working_targets: Operand,
}
