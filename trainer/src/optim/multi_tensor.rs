//! Launches of the optimizer's kernels over many tensors at once, whose addresses travel with the
//! launch.

use candle_core::{DType, Result, Tensor, bail};

use super::sgd::SgdConfig;
use crate::ops::gpu::{Arg, Gpu, address, grid};
use crate::ops::weight_copies::copy_of;

/// Tensors of a launch (`MOST_TENSORS` of `optim.cuh`).
const MOST_TENSORS: usize = 64;

/// Blocks that share the numbers of a tensor, and so the pieces of its sums, whatever its size: at
/// most the threads of a block, and so many that the largest tensor, which is worked on alone in the
/// end, still has some megabytes on their way.
const BLOCKS: usize = 128;

/// What a kernel does to one tensor.
pub(super) struct Update<'a> {
    /// What is moved.
    pub parameter: &'a Tensor,
    /// Its gradient; in the EMA, the tensor that it moves towards.
    pub gradient: &'a Tensor,
    /// Its velocity, where it has one.
    pub velocity: Option<&'a Tensor>,
    /// Whether it is decayed, and by LARS adapted.
    pub decayed: bool,
}

/// The struct `Tensors` of `optim.cuh`; `copies` are those of the parameters.
fn tensors(updates: &[Update], copies: &[Option<Tensor>]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut add = |address_of: &dyn Fn(usize) -> Result<u64>| {
        for place in 0..MOST_TENSORS {
            let address = if place < updates.len() { address_of(place)? } else { 0 };
            if !address.is_multiple_of(16) {
                bail!("the optimizer's kernels take tensors that begin at multiples of 16 bytes");
            }
            bytes.extend(address.to_le_bytes());
        }
        Ok(())
    };
    add(&|place| address(updates[place].parameter))?;
    add(&|place| address(updates[place].gradient))?;
    add(&|place| updates[place].velocity.map_or(Ok(0), address))?;
    add(&|place| copies[place].as_ref().map_or(Ok(0), address))?;
    let fields: [fn(&Update) -> i32; 2] =
        [|update| update.parameter.elem_count() as i32, |update| update.decayed.into()];
    for field in fields {
        for place in 0..MOST_TENSORS {
            bytes.extend(updates.get(place).map_or(0, field).to_le_bytes());
        }
    }
    Ok(bytes)
}

/// Calls `launch` with as many of `updates` at a time as fit a launch: their struct and their
/// number.
fn in_launches(updates: &[Update], mut launch: impl FnMut(Arg, usize) -> Result<()>) -> Result<()> {
    updates.chunks(MOST_TENSORS).try_for_each(|some| {
        let copies: Vec<Option<Tensor>> =
            some.iter().map(|update| copy_of(update.parameter)).collect();
        launch(Arg::Bytes(&tensors(some, &copies)?), some.len())
    })
}

/// The step of all tensors, unless `loss` is NaN or infinite.
pub(super) fn sgd(
    gpu: &Gpu,
    updates: &[Update],
    loss: &Tensor,
    lr: f32,
    config: SgdConfig,
) -> Result<()> {
    let SgdConfig { momentum, nesterov, weight_decay, trust } = config;
    in_launches(updates, |tensors, count| {
        let grid = grid::shared(BLOCKS, count);
        let sums = match trust {
            Some(_) => {
                let sums = gpu.empty((count, BLOCKS, 2), DType::F64)?;
                gpu.launch("lars_norms", DType::F32, grid, &[tensors, Arg::Tensor(&sums)])?;
                Some(sums)
            }
            None => None,
        };
        let given = [tensors, sums.as_ref().map_or(Arg::Null, Arg::Tensor), Arg::Tensor(loss)];
        let numbers = [
            Arg::Float(lr),
            Arg::Float(momentum),
            Arg::Int(nesterov.into()),
            Arg::Double(weight_decay.into()),
            Arg::Double(trust.unwrap_or(0.0)),
        ];
        gpu.launch("sgd_update", DType::F32, grid, &[&given[..], &numbers].concat())
    })
}

/// The EMA of all tensors, unless `loss` is given and NaN or infinite.
pub(super) fn ema(gpu: &Gpu, updates: &[Update], loss: Option<&Tensor>, tau: f32) -> Result<()> {
    in_launches(updates, |tensors, count| {
        let loss = loss.map_or(Arg::Null, Arg::Tensor);
        let arguments = [tensors, loss, Arg::Float(tau)];
        gpu.launch("update_ema", DType::F32, grid::shared(BLOCKS, count), &arguments)
    })
}
