//! The tensors that a network consists of: made, named, and laid out here, and nowhere else.
//!
//! Inside, a convolution's filter is `[O, kh, kw, I]` and the affine parameters or running statistics of a batch norm are
//! one tensor `[2, C]`; checkpoints hold PyTorch's layouts and names. [`Role`] knows the way between the two.

use candle_core::{Device, Result, Tensor, bail};
use scrl_preprocess::rng::{Purpose, Stream};

/// Initial weights belong to no epoch; this stands in its place among what keys the random numbers.
const NO_EPOCH: u32 = u32::MAX;

/// What a tensor is, which decides its initial values, its layout in a checkpoint, and how it is optimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `[O, kh, kw, I]`; Kaiming normal, fan-out. In a checkpoint `name.weight`, `[O, I, kh, kw]`.
    Filter,
    /// `[O, I]`; U(±1/√I). In a checkpoint `name.weight`.
    Weight,
    /// `[O]`, for I inputs; U(±1/√I). In a checkpoint `name.bias`.
    Bias,
    /// `[2, C]`: ones, then zeros. In a checkpoint `name.weight` and `name.bias`.
    Affine,
    /// `[2, C]`: means (zeros), then variances (ones). In a checkpoint `name.running_mean` and `name.running_var`.
    /// Not optimised.
    RunningStatistics,
}

impl Role {
    /// The names that follow the layer's in a checkpoint.
    fn suffixes(self) -> &'static [&'static str] {
        match self {
            Self::Filter | Self::Weight => &["weight"],
            Self::Bias => &["bias"],
            Self::Affine => &["weight", "bias"],
            Self::RunningStatistics => &["running_mean", "running_var"],
        }
    }

    /// Whether LARS decays and adapts it: PyTorch's tensors of rank above 1.
    pub fn is_adapted(self) -> bool {
        matches!(self, Self::Filter | Self::Weight)
    }

    /// Whether it has a gradient.
    pub fn is_optimized(self) -> bool {
        self != Self::RunningStatistics
    }
}

/// A tensor and its name. The tensor is updated in place; clones share its memory.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// The layer's name, such as `online.backbone.layer1.0.conv1`.
    pub layer: String,
    /// What it is.
    pub role: Role,
    /// Its value, float32.
    pub tensor: Tensor,
}

impl Parameter {
    /// The tensor's parts as a checkpoint holds them: names and values in PyTorch's layout.
    pub fn to_checkpoint(&self) -> Result<Vec<(String, Tensor)>> {
        let names = self.checkpoint_names();
        match self.role {
            Role::Filter => Ok(vec![(names[0].clone(), self.tensor.permute((0, 3, 1, 2))?.contiguous()?)]),
            Role::Weight | Role::Bias => Ok(vec![(names[0].clone(), self.tensor.clone())]),
            Role::Affine | Role::RunningStatistics => names
                .into_iter()
                .enumerate()
                .map(|(row, name)| Ok((name, self.tensor.get(row)?.contiguous()?)))
                .collect(),
        }
    }

    /// The names under which a checkpoint holds the tensor's parts.
    pub fn checkpoint_names(&self) -> Vec<String> {
        self.role.suffixes().iter().map(|suffix| format!("{}.{suffix}", self.layer)).collect()
    }

    /// The same names, each with the shape of its part.
    pub fn checkpoint_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let dims = self.tensor.dims();
        let shape = match self.role {
            Role::Filter => vec![dims[0], dims[3], dims[1], dims[2]],
            Role::Weight | Role::Bias => dims.to_vec(),
            Role::Affine | Role::RunningStatistics => dims[1..].to_vec(),
        };
        self.checkpoint_names().into_iter().map(|name| (name, shape.clone())).collect()
    }

    /// Overwrites the tensor with its parts from a checkpoint, given in the order of [`Parameter::checkpoint_names`].
    ///
    /// # Errors
    /// If a part's shape is not this parameter's.
    pub fn set_from_checkpoint(&self, parts: &[Tensor]) -> Result<()> {
        let value = match (self.role, parts) {
            (Role::Filter, [part]) => part.permute((0, 2, 3, 1))?.contiguous()?,
            (Role::Weight | Role::Bias, [part]) => part.clone(),
            (Role::Affine | Role::RunningStatistics, [first, second]) => Tensor::stack(&[first, second], 0)?,
            (role, parts) => bail!("{}: {} parts for {role:?}", self.layer, parts.len()),
        };
        if value.dims() != self.tensor.dims() {
            bail!("{}: {:?} where {:?} is expected", self.layer, value.dims(), self.tensor.dims());
        }
        self.set(&value)
    }

    /// Overwrites the tensor.
    pub fn set(&self, value: &Tensor) -> Result<()> {
        let value = value.to_device(self.tensor.device())?.contiguous()?;
        self.tensor.slice_set(&value, 0, 0)
    }
}

/// All parameters of a network, in a fixed order.
#[derive(Clone, Debug, Default)]
pub struct Parameters(pub Vec<Parameter>);

impl Parameters {
    /// Those with a gradient.
    pub fn optimized(&self) -> impl Iterator<Item = &Parameter> {
        self.0.iter().filter(|parameter| parameter.role.is_optimized())
    }
}

/// Makes parameters below a name, and remembers them.
pub struct Builder<'a> {
    name: String,
    /// `None` where nothing is drawn.
    seed: Option<u64>,
    device: &'a Device,
    made: &'a mut Parameters,
}

impl<'a> Builder<'a> {
    /// A builder whose first layers' names begin with `name`.
    pub fn new(name: &str, seed: u64, device: &'a Device, made: &'a mut Parameters) -> Self {
        Self { name: name.to_owned(), seed: Some(seed), device, made }
    }

    /// A builder whose random values are zeros: for shapes, and for weights that come from a file.
    pub fn blank(name: &str, device: &'a Device, made: &'a mut Parameters) -> Self {
        Self { name: name.to_owned(), seed: None, device, made }
    }

    /// A builder for what lies below `part`.
    pub fn below(&mut self, part: impl std::fmt::Display) -> Builder<'_> {
        let name = format!("{}.{part}", self.name);
        Builder { name, seed: self.seed, device: self.device, made: self.made }
    }

    /// `[outputs, kernel, kernel, inputs]`.
    pub fn filter(&mut self, inputs: usize, outputs: usize, kernel: usize) -> Result<Tensor> {
        let deviation = (2.0 / (outputs * kernel * kernel) as f64).sqrt();
        // Drawn in PyTorch's order of elements, so that a checkpoint does not show how filters lie here.
        let values =
            self.draw(Role::Filter, outputs * inputs * kernel * kernel, |stream| deviation * stream.normal());
        let value = Tensor::from_vec(values, (outputs, inputs, kernel, kernel), self.device)?;
        self.remember(Role::Filter, value.permute((0, 2, 3, 1))?.contiguous()?)
    }

    /// `[outputs, inputs]`.
    pub fn weight(&mut self, inputs: usize, outputs: usize) -> Result<Tensor> {
        let bound = 1.0 / (inputs as f64).sqrt();
        let values = self.draw(Role::Weight, inputs * outputs, |stream| stream.uniform(-bound, bound));
        self.remember(Role::Weight, Tensor::from_vec(values, (outputs, inputs), self.device)?)
    }

    /// `[outputs]`, for a layer of so many inputs.
    pub fn bias(&mut self, inputs: usize, outputs: usize) -> Result<Tensor> {
        let bound = 1.0 / (inputs as f64).sqrt();
        let values = self.draw(Role::Bias, outputs, |stream| stream.uniform(-bound, bound));
        self.remember(Role::Bias, Tensor::from_vec(values, outputs, self.device)?)
    }

    /// `[2, channels]`.
    pub fn affine(&mut self, channels: usize) -> Result<Tensor> {
        self.two_rows(Role::Affine, 1.0, 0.0, channels)
    }

    /// `[2, channels]`.
    pub fn running_statistics(&mut self, channels: usize) -> Result<Tensor> {
        self.two_rows(Role::RunningStatistics, 0.0, 1.0, channels)
    }

    fn two_rows(&mut self, role: Role, first: f32, second: f32, channels: usize) -> Result<Tensor> {
        let values = [vec![first; channels], vec![second; channels]].concat();
        self.remember(role, Tensor::from_vec(values, (2, channels), self.device)?)
    }

    /// Random values that depend on the seed and the tensor's name alone.
    fn draw(&self, role: Role, count: usize, mut value: impl FnMut(&mut Stream) -> f64) -> Vec<f32> {
        let Some(seed) = self.seed else { return vec![0.0; count] };
        let name = format!("{}.{}", self.name, role.suffixes()[0]);
        let mut stream = Stream::new(seed, NO_EPOCH, fnv1a(name.as_bytes()), Purpose::WeightInit);
        (0..count).map(|_| value(&mut stream) as f32).collect()
    }

    fn remember(&mut self, role: Role, tensor: Tensor) -> Result<Tensor> {
        self.made.0.push(Parameter { layer: self.name.clone(), role, tensor: tensor.clone() });
        Ok(tensor)
    }
}

/// The 64-bit FNV-1a hash.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
