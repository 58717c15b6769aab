//! Writing bits into bytes, least significant bit first.

/// Writes bits, least significant bit first. The buffer needs eight bytes of room behind the last
/// bit.
pub(super) struct BitWriter<'a> {
    pub bytes: &'a mut [u8],
    /// Complete bytes written.
    pub at: usize,
    /// The bits after them, fewer than 8.
    pub buffer: u64,
    pub filled: u32,
}

impl<'a> BitWriter<'a> {
    /// Writes to the start of `bytes`.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, at: 0, buffer: 0, filled: 0 }
    }

    /// The most bits that one call can take: with the seven that may be pending, fewer than 64, as
    /// a shift by 64 is not defined.
    pub const MOST: u32 = 63 - 7;

    /// Appends the lowest `count` bits of `bits`, whose others are 0.
    #[inline(always)]
    pub fn write(&mut self, bits: u64, count: u32) {
        // Always a store and never a branch, as the number of complete bytes is hard to predict.
        self.buffer |= bits << (self.filled & 7);
        self.bytes[self.at..self.at + 8].copy_from_slice(&self.buffer.to_le_bytes());
        let filled = self.filled + count;
        self.at += filled as usize / 8;
        self.buffer >>= filled & 56;
        self.filled = filled & 7;
    }

    /// The number of bytes, the last one padded with zeros.
    pub fn finish(self) -> usize {
        self.at + usize::from(self.filled > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_of_every_count_are_written_in_order() {
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
