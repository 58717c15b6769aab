//! Bits in bytes, the first one in the lowest place.

/// Bits to bytes, from the lowest bit on. There must be room for eight bytes behind the last bit.
pub(super) struct BitWriter<'a> {
    pub bytes: &'a mut [u8],
    /// Whole bytes written.
    pub at: usize,
    /// The bits behind them, fewer than 8.
    pub buffer: u64,
    pub filled: u32,
}

impl<'a> BitWriter<'a> {
    /// Writes from the beginning of `bytes` on.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, at: 0, buffer: 0, filled: 0 }
    }

    /// The most bits that one call can take: with the seven that may wait, fewer than a whole buffer, which could not be
    /// shifted out.
    pub const MOST: u32 = 63 - 7;

    /// Appends the lowest `count` bits of `bits`, whose others are 0.
    #[inline(always)]
    pub fn write(&mut self, bits: u64, count: u32) {
        // Always a store and never a branch, as how many bytes fill up is hard to foresee.
        self.buffer |= bits << (self.filled & 7);
        self.bytes[self.at..self.at + 8].copy_from_slice(&self.buffer.to_le_bytes());
        let filled = self.filled + count;
        self.at += filled as usize / 8;
        self.buffer >>= filled & 56;
        self.filled = filled & 7;
    }

    /// The number of bytes, the last filled up with zeros.
    pub fn finish(self) -> usize {
        self.at + usize::from(self.filled > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_of_every_number_stand_where_they_belong() {
        let mut noise = 1u64;
        let mut random = move || {
            noise = noise
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            noise >> 7
        };
        let counts: Vec<u32> = (0..2000)
            .map(|index| (index * 7 + random() as u32 % 3) % (BitWriter::MOST + 1))
            .collect();
        let mut bytes = vec![0; 16_000];
        let mut writer = BitWriter::new(&mut bytes);
        let mut expected: Vec<bool> = Vec::new();
        for count in counts {
            let bits = random() & ((1 << count) - 1);
            writer.write(bits, count);
            expected.extend((0..count).map(|bit| bits >> bit & 1 == 1));
        }
        let end = writer.finish();
        assert_eq!(end, expected.len().div_ceil(8));
        for (index, bit) in expected.into_iter().enumerate() {
            assert_eq!(bytes[index / 8] >> (index % 8) & 1 == 1, bit, "bit {index}");
        }
    }
}
