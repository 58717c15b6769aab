//! Sums over the ranks of tensors that become known one by one.

use candle_core::{Result, Tensor};

use super::Ranks;

/// Bytes that are exchanged together: enough to use a network well, few enough to begin early.
const BUCKET_BYTES: usize = 8 << 20;

/// Sums that are under way while the backward pass still computes further gradients. Every rank adds
/// tensors of the same sizes in the same order.
pub(crate) struct PendingSums {
    ranks: Ranks,
    bucket: Vec<Tensor>,
    bytes: usize,
}

impl PendingSums {
    /// None yet.
    pub fn new(ranks: &Ranks) -> Self {
        Self { ranks: ranks.clone(), bucket: Vec::new(), bytes: 0 }
    }

    /// Replaces a contiguous float32 tensor by its sum over the ranks, at the latest by
    /// [`PendingSums::finish`]. Until then it must not be used.
    pub fn add(&mut self, tensor: &Tensor) -> Result<()> {
        if self.ranks.is_alone() {
            return Ok(());
        }
        self.bucket.push(tensor.clone());
        self.bytes += 4 * tensor.elem_count();
        if self.bytes < BUCKET_BYTES {
            return Ok(());
        }
        self.exchange()
    }

    /// Completes all sums, before whatever the device is given next.
    pub fn finish(&mut self) -> Result<()> {
        self.exchange()?;
        self.ranks.wait_for_sums()
    }

    fn exchange(&mut self) -> Result<()> {
        self.bytes = 0;
        let bucket = std::mem::take(&mut self.bucket);
        if bucket.is_empty() { Ok(()) } else { self.ranks.sum(&bucket) }
    }
}
