//! The learner whose steps run on a device.
//!
//! It is made of a [`Learner`] on the CPU, whose tensors it takes over: so initial weights, files of weights and
//! checkpoints come from, and go to, the same place whatever computes the steps.

use std::collections::VecDeque;

use candle_core::{Device, Tensor};

use super::backend::{Backend, Outcome, Places};
use super::kernels::{MOST_CELLS, MOST_ROIS};
use super::layout::Layout;
use super::schedule::{Programs, StepShape};
use crate::data::Batch;
use crate::learner::Learner;
use crate::model::STEM_CHANNELS;
use crate::run::{Method, Precision};
use crate::{Error, Result};

/// Bytes left to the libraries, such as convolutions that need room beside their tensors.
const BESIDE: usize = 3 << 29;

/// Pixels of a view for one of the map, one way.
const STRIDE: usize = 32;

/// What a device's learner must know beyond its tensors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CudaConfig {
    /// What is compared.
    pub method: Method,
    /// Of the maps.
    pub precision: Precision,
    /// Pairs of a micro-batch.
    pub pairs: usize,
    /// Side of a view in pixels.
    pub size: usize,
    /// The most matched boxes of a pair.
    pub boxes: usize,
}

/// What a step is told.
#[derive(Clone, Copy, Debug)]
pub struct StepScalars {
    /// Learning rate.
    pub lr: f64,
    /// τ of the moving average.
    pub tau: f64,
    /// Matched boxes, or views' pairs, of the global batch.
    pub matches: usize,
    /// Labelled views of the global batch.
    pub labelled: usize,
}

/// A micro-batch and the classes of its views, where there is an online evaluation.
#[derive(Clone, Copy)]
pub struct MicroBatch<'a> {
    /// The views and their boxes.
    pub batch: &'a Batch,
    /// The class of each view `[2B]`, −1 where it is not known.
    pub classes: Option<&'a [i64]>,
}

/// A learner on a device.
pub struct CudaLearner<B> {
    /// The learner on the CPU; its tensors are those of the device after [`CudaLearner::settle`].
    learner: Learner,
    backend: B,
    shape: StepShape,
    layout: Layout,
    programs: Programs,
    places: Places,
    /// Steps whose outcome was not waited for.
    under_way: usize,
    outcomes: VecDeque<Outcome>,
}

impl<B: Backend> CudaLearner<B> {
    /// Takes over the tensors of `learner`, which stays on the CPU.
    ///
    /// # Errors
    /// If the sizes do not fit the kernels, or the memory does not hold a batch; the largest that should fit is named then.
    pub fn new(learner: Learner, config: CudaConfig, mut backend: B) -> Result<Self> {
        let shape = step_shape(&learner, config);
        check(&shape)?;
        let layout = Layout::new(&learner, shape.numbers, shape.kept());
        let programs = Programs::new(&layout, &shape);
        let [kept, buffers] = match allocate(&mut backend, &layout, &programs) {
            Err(Error::OutOfMemory { free, .. }) => return Err(out_of_memory(&learner, &shape, free)),
            places => places?,
        };
        let places = Places { kept, buffers, staged: [0; 2] };
        let outcomes = VecDeque::new();
        let mut new = Self { learner, backend, shape, layout, programs, places, under_way: 0, outcomes };
        new.upload()?;
        Ok(new)
    }

    /// Copies the learner's tensors to the device.
    fn upload(&mut self) -> Result<()> {
        let address = |place| self.places.address(&self.programs.copy, place);
        let table = self.layout.table();
        for (bytes, place) in self.layout.table_bytes().iter().zip([table.chunks, table.spans]) {
            self.backend.upload(bytes, address(place))?;
        }
        for parameter in self.learner.state() {
            let numbers: Vec<f32> = parameter.tensor.flatten_all()?.to_vec1()?;
            let bytes: Vec<u8> = numbers.into_iter().flat_map(f32::to_le_bytes).collect();
            self.backend.upload(&bytes, address(self.layout.place(parameter)))?;
        }
        self.backend.run(&self.programs.copy, &self.places)
    }

    /// The learner on the CPU, after the device's tensors were copied into it.
    pub fn settle(&mut self) -> Result<&Learner> {
        for parameter in self.learner.state() {
            let mut bytes = vec![0; 4 * parameter.tensor.elem_count()];
            let from = self.places.address(&self.programs.copy, self.layout.place(parameter));
            self.backend.download(from, &mut bytes)?;
            let (numbers, _) = bytes.as_chunks::<4>();
            let numbers: Vec<f32> = numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            parameter.set(&Tensor::from_vec(numbers, parameter.tensor.dims(), &Device::Cpu)?)?;
        }
        Ok(&self.learner)
    }

    /// The learner on the CPU as it was after the last [`CudaLearner::settle`].
    pub fn learner(&self) -> &Learner {
        &self.learner
    }

    /// The device.
    pub fn backend(&mut self) -> &mut B {
        &mut self.backend
    }

    /// Bytes of device memory that the learner planned: what is kept, and what the programs' buffers share.
    pub fn memory(&self) -> [usize; 2] {
        [self.layout.bytes, self.programs.buffer_bytes()]
    }

    /// Floating-point operations of a micro-batch's convolutions and matrix products.
    pub fn operations(&self) -> f64 {
        self.programs.compute.operations()
    }

    /// Begins a step: loss and gradients of the micro-batches, summed, then the update. With `spread` the outcome says how
    /// much the vectors differ. Without micro-batches only the target moves, and there is no outcome.
    ///
    /// # Errors
    /// If a micro-batch is not of the shape that the learner was made for.
    pub fn step(&mut self, batches: &[MicroBatch], scalars: StepScalars, spread: bool) -> Result<()> {
        if batches.is_empty() {
            let description = self.describe(None, scalars, 0)?;
            self.take(&description, None)?;
            return self.backend.run(&self.programs.follow, &self.places);
        }
        let vectors = batches.iter().map(|micro| self.rows(micro.batch)).sum();
        for (index, micro) in batches.iter().enumerate() {
            let description = self.describe(Some(micro), scalars, vectors)?;
            self.take(&description, Some(&micro.batch.pixels))?;
            let Programs { compute, compute_more, spread: moments, spread_more, .. } = &self.programs;
            let first = index == 0;
            self.backend.run(if first { compute } else { compute_more }, &self.places)?;
            if spread {
                self.backend.run(if first { moments } else { spread_more }, &self.places)?;
            }
        }
        if spread {
            self.backend.run(&self.programs.spread_end, &self.places)?;
        }
        self.backend.run(&self.programs.update, &self.places)?;
        self.backend.fetch(self.places.address(&self.programs.update, self.layout.outcome(0)))?;
        self.under_way += 1;
        if self.under_way > 1 { self.collect() } else { Ok(()) }
    }

    /// The outcomes of steps, in order: of all steps so far if `all`, otherwise without waiting for the newest.
    pub fn outcomes(&mut self, all: bool) -> Result<Vec<Outcome>> {
        while all && self.under_way > 0 {
            self.collect()?;
        }
        Ok(self.outcomes.drain(..).collect())
    }

    fn collect(&mut self) -> Result<()> {
        self.outcomes.push_back(self.backend.fetched()?);
        self.under_way -= 1;
        Ok(())
    }

    /// Vectors of a micro-batch that count.
    fn rows(&self, batch: &Batch) -> usize {
        match self.shape.boxes {
            Some(_) => 2 * batch.matches(),
            None => 2 * batch.pairs(),
        }
    }

    /// Hands a batch over to the device.
    fn take(&mut self, description: &[u8], pixels: Option<&[u8]>) -> Result<()> {
        self.places.staged = self.backend.stage(description, pixels.unwrap_or(&[]))?;
        let program = if pixels.is_some() { &self.programs.input } else { &self.programs.describe };
        self.backend.run(program, &self.places)
    }

    /// The bytes of a batch's description: see [`StepShape::description_bytes`].
    fn describe(&self, micro: Option<&MicroBatch>, scalars: StepScalars, vectors: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.shape.description_bytes()];
        let [batch_at, rois_at, first_at, classes_at] = self.shape.description_parts();
        let mut write = |at: usize, words: &mut dyn Iterator<Item = [u8; 4]>| {
            for (place, word) in bytes[at..].as_chunks_mut::<4>().0.iter_mut().zip(words) {
                *place = word;
            }
        };
        let share = |count: usize| if count == 0 { 0.0 } else { 1.0 / count as f32 };
        let rows = micro.map_or(0, |micro| self.rows(micro.batch));
        let [rows, vectors] = [rows, vectors].map(|count| (count as i32).to_le_bytes());
        let floats = [share(scalars.matches), share(scalars.labelled), scalars.lr as f32, scalars.tau as f32];
        let [matches, labelled, lr, tau] = floats.map(f32::to_le_bytes);
        write(batch_at, &mut [rows, matches, labelled, lr, tau, vectors].into_iter());
        if let Some(MicroBatch { batch, classes }) = micro {
            self.check_batch(batch)?;
            if self.shape.boxes.is_some() {
                let first = first_rois(batch, self.shape.views())?;
                write(rois_at, &mut batch.rois.iter().map(|number| number.to_le_bytes()));
                write(first_at, &mut first.into_iter().map(i32::to_le_bytes));
            }
            let unknown = vec![-1; self.shape.views()];
            let classes = classes.unwrap_or(&unknown);
            write(classes_at, &mut classes.iter().map(|class| (*class as i32).to_le_bytes()));
        }
        Ok(bytes)
    }

    fn check_batch(&self, batch: &Batch) -> Result<()> {
        let StepShape { pairs, size, .. } = self.shape;
        if batch.pairs() != pairs || batch.size != size || self.rows(batch) > self.shape.vectors() {
            let found = (batch.pairs(), batch.size, batch.matches());
            return Err(Error::Device(format!(
                "a batch of (pairs, side, boxes) {found:?} where {pairs} pairs of side {size} with at most {} \
                 boxes are expected",
                self.shape.vectors() / 2
            )));
        }
        Ok(())
    }
}

/// Where the RoIs of each view begin, and where all end. They must stand in the order of the views.
fn first_rois(batch: &Batch, views: usize) -> Result<Vec<i32>> {
    let mut first = vec![0; views + 1];
    let mut last = 0;
    for roi in batch.rois.chunks_exact(5) {
        let view = roi[0] as usize;
        if view < last || view >= views {
            return Err(Error::Device(format!("a RoI of view {view} behind one of view {last}")));
        }
        last = view;
        first[view + 1] += 1;
    }
    for view in 0..views {
        if first[view + 1] > MOST_ROIS as i32 {
            return Err(Error::Device(format!("{} boxes in a view", first[view + 1])));
        }
        first[view + 1] += first[view];
    }
    Ok(first)
}

fn step_shape(learner: &Learner, config: CudaConfig) -> StepShape {
    let learns = learner.config();
    StepShape {
        arch: learns.arch,
        sizes: learns.sizes,
        pairs: config.pairs,
        size: config.size,
        boxes: (config.method == Method::Scrl).then_some(config.boxes),
        classes: learns.classes,
        numbers: config.precision.into(),
        lars: learns.lars,
    }
}

/// What the kernels ask of the sizes.
fn check(shape: &StepShape) -> Result<()> {
    let refuse = |option, reason: String| Err(Error::Option { option, reason });
    let lanes = shape.numbers.lanes();
    for (option, value) in [("hidden", shape.sizes.hidden), ("projection", shape.sizes.projection)] {
        if value % lanes != 0 {
            return refuse(option, format!("{value} is no multiple of {lanes}, which the GPU needs"));
        }
    }
    let boxes = shape.boxes.unwrap_or(0);
    if boxes > MOST_ROIS || shape.size.div_ceil(STRIDE) > MOST_CELLS {
        let reason = format!("the GPU takes at most {MOST_ROIS} boxes in a pair and views of 2048 pixels");
        return refuse("device", reason);
    }
    // Threads of the kernels on the stem's map, the largest, are counted in 32 bits.
    let largest = shape.views() * shape.size.div_ceil(2).pow(2) * STEM_CHANNELS / lanes;
    if i32::try_from(largest.max(shape.vectors() * shape.sizes.hidden)).is_err() {
        return refuse("batch-size", format!("{} pairs are too many for the GPU's kernels", shape.pairs));
    }
    Ok(())
}

/// All memory that steps need, and whatever else can be decided ahead.
fn allocate(backend: &mut impl Backend, layout: &Layout, programs: &Programs) -> Result<[u64; 2]> {
    // The larger piece first, so that little is taken when it does not fit.
    let buffers = backend.allocate(programs.buffer_bytes())?;
    let kept = backend.allocate(layout.bytes)?;
    programs.all().into_iter().try_for_each(|program| backend.prepare(program))?;
    Ok([kept, buffers])
}

/// Bytes that steps of a shape need.
fn needs(learner: &Learner, shape: &StepShape) -> usize {
    let layout = Layout::new(learner, shape.numbers, shape.kept());
    let staged = 2 * (shape.description_bytes() + shape.pixel_bytes());
    layout.bytes + Programs::new(&layout, shape).buffer_bytes() + staged + BESIDE
}

/// Names the largest batch whose memory is within `free` bytes.
fn out_of_memory(learner: &Learner, shape: &StepShape, free: usize) -> Error {
    let (mut fits, mut fails) = (0, shape.pairs);
    while fails - fits > 1 {
        let middle = (fits + fails) / 2;
        let in_free = needs(learner, &StepShape { pairs: middle, ..*shape }) <= free;
        if in_free { fits = middle } else { fails = middle }
    }
    Error::OutOfMemory { needed: needs(learner, shape), free, fits }
}
