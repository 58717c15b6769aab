//! Length-limited canonical Huffman codes, as in WebP and Deflate: least significant bit first.

/// A code for `N` symbols; symbols that do not occur have length 0.
#[derive(Clone, Debug)]
pub(crate) struct Code<const N: usize> {
    /// By symbol: the number of bits.
    pub(crate) lengths: [u8; N],
    /// By symbol: the bits, least significant first.
    pub(crate) bits: [u16; N],
    /// The only symbol, with length 0, if no other occurs.
    pub(crate) single: Option<usize>,
    /// Symbols that occur, rarest first, as `frequency · 2¹⁶ + symbol`; a field to reuse its
    /// memory.
    sorted: Vec<u64>,
    /// Weights of the inner nodes, then depths of all nodes; and the parents of all nodes.
    weights: Vec<u64>,
    parents: Vec<u16>,
}

impl<const N: usize> Default for Code<N> {
    fn default() -> Self {
        Self {
            lengths: [0; N],
            bits: [0; N],
            single: Some(0),
            sorted: Vec::with_capacity(N),
            weights: Vec::with_capacity(N),
            parents: Vec::with_capacity(2 * N),
        }
    }
}

impl<const N: usize> Code<N> {
    /// Builds the optimal code for the frequencies, then shortens codes above `limit` bits. Returns
    /// the only symbol, with length 0, if no other occurs (symbol 0 if none does).
    pub(crate) fn build(&mut self, frequencies: &[u32; N], limit: u8) -> Option<usize> {
        self.lengths.fill(0);
        self.bits.fill(0);
        self.sorted.clear();
        for (symbol, &frequency) in frequencies.iter().enumerate() {
            if frequency > 0 {
                self.sorted.push(u64::from(frequency) << 16 | symbol as u64);
            }
        }
        if self.sorted.len() <= 1 {
            self.single = Some(self.sorted.first().map_or(0, |&entry| (entry & 0xFFFF) as usize));
            return self.single;
        }
        self.single = None;
        self.sorted.sort_unstable();
        let counts = self.count_lengths(limit);
        // The rarest symbols get the longest codes.
        let mut length = usize::from(limit);
        let mut left = counts[length];
        for &entry in &self.sorted {
            while left == 0 {
                length -= 1;
                left = counts[length];
            }
            self.lengths[(entry & 0xFFFF) as usize] = length as u8;
            left -= 1;
        }
        self.assign_bits(&counts);
        None
    }

    /// The code of each symbol: the number of its bits in the lowest byte, the bits above.
    pub(crate) fn packed(&self) -> [u32; N] {
        std::array::from_fn(|symbol| {
            u32::from(self.bits[symbol]) << 8 | u32::from(self.lengths[symbol])
        })
    }

    /// How many symbols have a code of each length.
    fn count_lengths(&mut self, limit: u8) -> [u32; 17] {
        // Two queues, leaves and inner nodes, both ascending: the lightest nodes are at their
        // heads.
        let leaves = self.sorted.len();
        let inner = leaves - 1;
        self.weights.clear();
        self.parents.clear();
        self.parents.resize(leaves + inner, 0);
        let (mut leaf, mut node) = (0, 0);
        for made in 0..inner {
            let mut weight = 0;
            for _ in 0..2 {
                let takes_leaf = leaf < leaves
                    && (node == made || self.sorted[leaf] >> 16 <= self.weights[node]);
                if takes_leaf {
                    weight += self.sorted[leaf] >> 16;
                    self.parents[leaf] = (leaves + made) as u16;
                    leaf += 1;
                } else {
                    weight += self.weights[node];
                    self.parents[leaves + node] = (leaves + made) as u16;
                    node += 1;
                }
            }
            self.weights.push(weight);
        }
        // Depths from the root down; a node's parent comes after it.
        let mut counts = [0u32; 17];
        let limit = usize::from(limit);
        let root = leaves + inner - 1;
        self.weights.clear();
        self.weights.resize(leaves + inner, 0);
        for index in (0..root).rev() {
            let depth = self.weights[usize::from(self.parents[index])] + 1;
            self.weights[index] = depth;
            if index < leaves {
                counts[(depth as usize).min(limit)] += 1;
            }
        }
        // Codes cut to the limit exceed Kraft's sum; lengthening others restores it.
        let mut room: u64 =
            (1..=limit).map(|length| u64::from(counts[length]) << (limit - length)).sum();
        while room > 1 << limit {
            let mut length = limit - 1;
            while counts[length] == 0 {
                length -= 1;
            }
            counts[length] -= 1;
            counts[length + 1] += 2;
            counts[limit] -= 1;
            room -= 1;
        }
        counts
    }

    /// Canonical codes: shorter before longer, then by symbol.
    fn assign_bits(&mut self, counts: &[u32; 17]) {
        let mut next = [0u32; 17];
        for length in 1..17 {
            next[length] =
                (next[length - 1] + if length > 1 { counts[length - 1] } else { 0 }) << 1;
        }
        for (bits, &length) in self.bits.iter_mut().zip(&self.lengths) {
            if length > 0 {
                let code = next[usize::from(length)] as u16;
                next[usize::from(length)] += 1;
                *bits = code.reverse_bits() >> (16 - length);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_complete_within_their_limit_and_short_where_frequent() {
        let mut code = Code::<64>::default();
        for limit in [7, 15] {
            // Fibonacci numbers give the deepest tree.
            let mut frequencies = [0u32; 64];
            let (mut a, mut b) = (1, 1);
            for frequency in &mut frequencies[..40] {
                *frequency = a;
                (a, b) = (b, a + b);
            }
            assert_eq!(code.build(&frequencies, limit), None);
            let room: f64 =
                code.lengths.iter().filter(|&&l| l > 0).map(|&l| 0.5f64.powi(i32::from(l))).sum();
            assert_eq!(room, 1.0);
            assert!(code.lengths.iter().all(|&length| length <= limit));
            assert!(code.lengths[..40].windows(2).all(|pair| pair[0] >= pair[1]));
            assert!(code.lengths[40..].iter().all(|&length| length == 0));
        }
    }

    #[test]
    fn the_classic_example_has_its_lengths() {
        let mut code = Code::<6>::default();
        assert_eq!(code.build(&[5, 9, 12, 13, 16, 45], 15), None);
        assert_eq!(code.lengths, [4, 4, 3, 3, 3, 1]);
        assert_eq!(code.bits[5], 0);
        assert_eq!(code.build(&[0, 0, 7, 0, 0, 0], 15), Some(2));
        assert_eq!(code.build(&[0; 6], 15), Some(0));
    }
}
