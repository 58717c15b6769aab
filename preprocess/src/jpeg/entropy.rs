//! The Huffman codes of a scan (ITU T.81, annex F.2).

use super::header::Component;
use super::transform::Coefficients;

/// Bits that one look into a table takes.
const INDEX_BITS: u32 = 11;
/// Longest code.
const MAX_BITS: usize = 16;
/// Most bits of a difference of DC values (8-bit samples); other coefficients have one less.
const MAX_VALUE_BITS: u8 = 11;
/// Zeros behind the stream, so that eight bytes can be read from any place in it, and from a little behind its end.
const PADDING: usize = 16;
/// Where the coefficients of a block stand, row by row. Behind the 64 there are, zeros end a block, and damaged streams go.
const ZIGZAG: [u8; 256] = {
    let mut places = [63; 256];
    let mut index = 0;
    while index < 64 {
        places[index] = FIRST_64[index];
        index += 1;
    }
    places
};
#[rustfmt::skip]
const FIRST_64: [u8; 64] = [
     0,  1,  8, 16,  9,  2,  3, 10, 17, 24, 32, 25, 18, 11,  4,  5,
    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13,  6,  7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// The coded bytes of a scan without the zeros that stand behind each 255, and [`PADDING`]. `None` unless the end of the
/// image follows, and nothing else.
pub(super) fn unstuffed(scan: &[u8]) -> Option<Vec<u8>> {
    let coded = scan.strip_suffix(&[0xFF, 0xD9])?;
    let mut bytes = Vec::with_capacity(coded.len() + PADDING);
    let mut begin = 0;
    for at in memchr::memchr_iter(0xFF, coded) {
        bytes.extend_from_slice(&coded[begin..=at]);
        begin = at + 2;
        if coded.get(at + 1) != Some(&0) {
            return None;
        }
    }
    bytes.extend_from_slice(&coded[begin..]);
    bytes.resize(bytes.len() + PADDING, 0);
    Some(bytes)
}

/// A Huffman code whose symbols are a run of zeros and how many bits the value behind it has.
pub(super) struct HuffmanTable {
    /// By the next [`INDEX_BITS`] bits; [`Entry::LONG`] where the code is longer, or is none.
    short: [Entry; 1 << INDEX_BITS],
    /// How many codes there are of each length, from 1 on.
    counts: [u8; MAX_BITS],
    /// By length.
    symbols: [u8; 256],
}

/// A symbol and its length: bits 0 to 4 the bits of code and value together, 5 to 8 those of the value, 9 to 15 the run.
#[derive(Clone, Copy, PartialEq)]
struct Entry(u16);

impl Entry {
    const LONG: Self = Self(0);
    /// The run of the symbol that ends a block: longer than all others, to wherever they lead.
    const TO_THE_END: u16 = 127;

    fn new(symbol: u8, code_bits: u32) -> Self {
        let value_bits = u16::from(symbol & 15);
        let run = if symbol == 0 { Self::TO_THE_END } else { u16::from(symbol >> 4) };
        Self(run << 9 | value_bits << 5 | (code_bits as u16 + value_bits))
    }

    #[inline(always)]
    fn bits(self) -> u32 {
        u32::from(self.0 & 31)
    }

    #[inline(always)]
    fn value_bits(self) -> u32 {
        u32::from(self.0 >> 5 & 15)
    }

    #[inline(always)]
    fn run(self) -> usize {
        usize::from(self.0 >> 9)
    }
}

impl HuffmanTable {
    /// The canonical code with so many codes of each length; `None` if there is none.
    pub fn new(counts: &[u8; MAX_BITS], symbols: &[u8]) -> Option<Box<Self>> {
        let empty = Self { short: [Entry::LONG; 1 << INDEX_BITS], counts: *counts, symbols: [0; 256] };
        let mut table = Box::new(empty);
        table.symbols.get_mut(..symbols.len())?.copy_from_slice(symbols);
        // Runs without a value are those of a whole block and of sixteen zeros.
        let known = |symbol: u8| match symbol & 15 {
            0 => matches!(symbol, 0 | 0xF0),
            value_bits => value_bits <= MAX_VALUE_BITS,
        };
        if !symbols.iter().all(|symbol| known(*symbol)) {
            return None;
        }
        let (mut next, mut symbols) = (0, symbols.iter());
        for (length, count) in (1..).zip(counts) {
            for symbol in symbols.by_ref().take(usize::from(*count)) {
                if next >> length != 0 {
                    return None;
                }
                if length <= INDEX_BITS {
                    let beyond = INDEX_BITS - length;
                    table.short[next << beyond..(next + 1) << beyond].fill(Entry::new(*symbol, length));
                }
                next += 1;
            }
            next <<= 1;
        }
        Some(table)
    }

    #[inline(always)]
    fn look_up(&self, window: u64) -> Entry {
        let entry = self.short[(window >> (64 - INDEX_BITS)) as usize];
        if entry == Entry::LONG { self.look_up_long(window) } else { entry }
    }

    /// Bit for bit: codes of a length are numbers in a row, and those of the next length follow them. For bits that are
    /// no code, the symbol 0 with as many bits as a code can have.
    #[cold]
    fn look_up_long(&self, window: u64) -> Entry {
        let (mut first, mut index) = (0, 0);
        for (length, count) in (1..).zip(&self.counts) {
            let code = (window >> (64 - length)) as usize;
            let count = usize::from(*count);
            if code < first + count {
                return Entry::new(self.symbols[index + code - first], length);
            }
            index += count;
            first = (first + count) << 1;
        }
        Entry::new(0, MAX_BITS as u32)
    }
}

/// Reads the blocks of a scan one after the other.
pub(super) struct BlockReader<'a> {
    /// With [`PADDING`].
    bytes: &'a [u8],
    /// Bits read.
    at: usize,
}

impl<'a> BlockReader<'a> {
    /// For what [`unstuffed`] made.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next bits, the first one highest: enough for two symbols with their values. `None` well behind the end.
    #[inline(always)]
    fn window(&self) -> Option<u64> {
        let next = self.bytes.get(self.at / 8..)?.first_chunk()?;
        Some(u64::from_be_bytes(*next) << (self.at % 8))
    }

    /// Takes a symbol and the value behind it out of the window: how many zeros come before the value, and the value.
    #[inline(always)]
    fn take(&mut self, table: &HuffmanTable, window: &mut u64) -> (usize, i32) {
        let entry = table.look_up(*window);
        let value_bits = entry.value_bits();
        let bits = *window << (entry.bits() - value_bits);
        *window <<= entry.bits();
        self.at += entry.bits() as usize;
        // Table F.1: the upper half of the numbers stand for themselves, the lower half for the negative ones.
        let negative = !(bits as i64 >> 63) as i32;
        let number = (bits >> 1 >> (63 - value_bits)) as i32;
        (entry.run(), number + (negative & (1 - (1 << value_bits))))
    }

    /// Reads a block of `component` to place `block` of `coefficients`, dequantized; `dc` is the component's DC value before
    /// it and becomes that of this block. `None` where the stream is damaged.
    #[inline(always)]
    pub fn read(
        &mut self,
        component: &Component,
        dc: &mut i32,
        coefficients: &mut Coefficients,
        block: usize,
    ) -> Option<()> {
        let mut window = self.window()?;
        *dc += self.take(component.dc, &mut window).1;
        coefficients.0[0][block] = *dc * component.quantization[0];
        let mut index = 1;
        let mut next = |reader: &mut Self, window: &mut u64| {
            let (run, value) = reader.take(component.ac, window);
            index += run;
            // Without a branch for zeros alone, which put a zero where one is.
            let place = usize::from(ZIGZAG[index & 255]) & 63;
            coefficients.0[place][block] = value * component.quantization[index & 63];
            index += 1;
            index
        };
        let end = loop {
            let index = next(self, &mut window);
            if index >= 64 {
                break index;
            }
            window = self.window()?;
            let index = next(self, &mut window);
            if index >= 64 {
                break index;
            }
        };
        (end == 64 || end > usize::from(Entry::TO_THE_END)).then_some(())
    }

    /// Whether all bits were read, and none beyond, but for those that fill the last byte.
    pub fn is_at_end(&self) -> bool {
        self.at.div_ceil(8) == self.bytes.len() - PADDING
    }
}
