//! Counter-based random numbers: each depends on the seed and on its purpose alone.
//!
//! Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011)
//! turns a key and a counter into four random words. The key is the seed; the counter holds the
//! epoch, the image, the purpose and the position in the stream. So every row can be drawn again
//! alone, in any order, on any number of threads.

use libm::{cos, log, sqrt};

const ROUNDS: u32 = 10;
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// The golden ratio and √3 − 1, added to the key in each round.
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Bits of the counter for the position: a stream has 2²⁴ blocks of four words.
const BLOCK_BITS: u32 = 24;

/// One block of Philox4x32-10: four random words for a counter under a key.
fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..ROUNDS {
        if round > 0 {
            key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
        }
        let a = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let b = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
    }
    counter
}

/// What a stream is used for. Streams of different purposes are independent. The values are part of
/// the format: changing one changes every shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Purpose {
    /// The parameters of view 1.
    View1 = 1,
    /// The parameters of view 2.
    View2 = 2,
    /// The matched boxes.
    Boxes = 3,
    /// The permutation of the images of a pass.
    ImageShuffle = 4,
    /// The permutation of the chunks of an epoch.
    ShardShuffle = 5,
    /// The permutation of the rows of a shard.
    RowShuffle = 6,
    /// The initial weights of a network.
    WeightInit = 7,
    /// Synthetic scenes.
    SceneDrawing = 8,
    /// Flips and permutation of the examples of an evaluation.
    Evaluation = 9,
    /// The pairs that scrl-inspect shows.
    PairsToShow = 10,
    /// The images from which the window of `--levels auto` is computed.
    LevelsSample = 11,
}

/// A sequence of random numbers for one purpose.
#[derive(Clone, Debug)]
pub struct Stream {
    key: [u32; 2],
    counter: [u32; 4],
    block: [u32; 4],
    /// Words of `block` already used.
    used: usize,
    /// The second number of the last Box–Muller pair.
    spare_normal: Option<f64>,
}

impl Stream {
    /// The stream of `purpose` for an image (or a chunk or a layer, as the purpose counts) in an
    /// epoch (or a pass).
    pub fn new(seed: u64, epoch: u32, image: u64, purpose: Purpose) -> Self {
        Self {
            key: [seed as u32, (seed >> 32) as u32],
            counter: [
                u32::from(purpose as u8) << BLOCK_BITS,
                epoch,
                image as u32,
                (image >> 32) as u32,
            ],
            block: [0; 4],
            used: 4,
            spare_normal: None,
        }
    }

    /// The next 32 random bits. After 2²⁶ such words a stream repeats.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == self.block.len() {
            self.block = philox4x32(self.counter, self.key);
            let mask = (1 << BLOCK_BITS) - 1;
            self.counter[0] = (self.counter[0] & !mask) | (self.counter[0].wrapping_add(1) & mask);
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// The next 64 random bits.
    pub(crate) fn next_u64(&mut self) -> u64 {
        let low = u64::from(self.next_u32());
        low | u64::from(self.next_u32()) << 32
    }

    /// Uniform in [0, 1), a multiple of 2⁻²⁴.
    pub fn uniform_f32(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 * (1.0 / (1 << 24) as f32)
    }

    /// Uniform in [0, 1), a multiple of 2⁻⁵³.
    pub fn uniform_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform between `low` and `high`; `low` itself where the two are equal.
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform_f64()
    }

    /// An integer from 0 to `n` − 1, each equally likely; 0 where `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        // Lemire: Fast Random Integer Generation in an Interval (2019).
        let mut product = u128::from(self.next_u64()) * u128::from(n);
        if (product as u64) < n {
            let threshold = n.wrapping_neg() % n;
            while (product as u64) < threshold {
                product = u128::from(self.next_u64()) * u128::from(n);
            }
        }
        (product >> 64) as u64
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.uniform_f64() < p
    }

    /// Normally distributed with mean 0 and variance 1 (Box and Muller 1958).
    pub fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare_normal.take() {
            return spare;
        }
        // 1 − u lies in (0, 1], so the logarithm is finite.
        let radius = sqrt(-2.0 * log(1.0 - self.uniform_f64()));
        let turn = self.uniform_f64();
        let angle = std::f64::consts::TAU * turn;
        self.spare_normal = Some(radius * libm::sin(angle));
        radius * cos(angle)
    }

    /// Permutes `items`, each permutation equally likely (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last as u64 + 1) as usize;
            items.swap(last, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers of the Random123 library (`kat_vectors`, philox4x32 10).
    #[test]
    fn known_answers() {
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox4x32(counter, key), expected);
        }
    }

    #[test]
    fn streams_repeat_and_differ_by_every_argument() {
        let first =
            |seed, epoch, image, purpose| Stream::new(seed, epoch, image, purpose).next_u64();
        let base = first(1, 2, 3, Purpose::View1);
        assert_eq!(base, first(1, 2, 3, Purpose::View1));
        for other in [
            first(1 << 40, 2, 3, Purpose::View1),
            first(1, 3, 3, Purpose::View1),
            first(1, 2, 3 << 40, Purpose::View1),
            first(1, 2, 3, Purpose::View2),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut stream = Stream::new(0, 0, 0, Purpose::WeightInit);
        let n = 200_000;
        let (mut sum, mut squares, mut fourth) = (0.0, 0.0, 0.0);
        for _ in 0..n {
            let x = stream.normal();
            sum += x;
            squares += x * x;
            fourth += x.powi(4);
        }
        let n = f64::from(n);
        assert!(
            (sum / n).abs() < 0.01
                && (squares / n - 1.0).abs() < 0.02
                && (fourth / n - 3.0).abs() < 0.1
        );
        let mean = (0..100_000).map(|_| stream.uniform(2.0, 4.0)).sum::<f64>() / 1e5;
        assert!((mean - 3.0).abs() < 0.01);
        let hits = (0..100_000).filter(|_| stream.chance(0.2)).count();
        assert!((19_000..21_000).contains(&hits));
    }

    #[test]
    fn integers_cover_their_range_evenly() {
        let mut stream = Stream::new(5, 0, 0, Purpose::ImageShuffle);
        let mut counts = [0u32; 7];
        for _ in 0..70_000 {
            counts[stream.below(7) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
        assert_eq!((stream.below(1), stream.below(0)), (0, 0));
        let mut items: Vec<u32> = (0..100).collect();
        stream.shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
