//! Damages images at random and looks for inputs that break the way from a file to a row.
//!
//! usage: cargo run --example fuzz_decode -- [--seconds N] [--seed S] [--strict] FILES…
//!
//! Each input goes through `read_size`, `decode`, `sample_values` and, with each encoding by turns,
//! `RowMaker::make`. A finding is a panic, a hang, more memory than `decode` promises, or two
//! answers that disagree; the input is written to `fuzz-finding.bin` and the program ends with 1.
//! Panics that `decode` caught inside a third-party decoder are counted and listed; with `--strict`
//! they are findings as well. The same seed and files give the same inputs.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use scrl_preprocess::images::{
    Decoding, MAX_BYTES_PER_PIXEL, SPARE_BYTES, decode, read_size, sample_values,
};
use scrl_preprocess::prepare::Options;
use scrl_preprocess::prepare::rows::RowMaker;
use scrl_schemas::{Epoch, Exif, PrepOptions, Source, ViewEncoding};

/// An input that takes longer is a finding: the largest images take seconds, on a busy machine ten.
const MAX_TIME: Duration = Duration::from_secs(20);
/// An input that takes this long never ends.
const HANG: Duration = Duration::from_secs(60);
/// Where a finding is written.
const FINDING: &str = "fuzz-finding.bin";

/// Counts the bytes in use and their peak.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // As if it grew where it stands.
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        count(size);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(place, layout, size) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(place, layout) }
    }
}

fn count(size: usize) {
    let now = IN_USE.fetch_add(size, Ordering::Relaxed) + size;
    PEAK.fetch_max(now, Ordering::Relaxed);
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// A place in a file: half of the time near its start, where the headers are.
    fn place(&mut self, length: usize) -> usize {
        let near = if self.below(2) == 0 { length.min(200) } else { length };
        self.below(near)
    }
}

/// Numbers at which counts and lengths go wrong.
const ODD_NUMBERS: [u32; 14] = [
    0,
    1,
    2,
    3,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
];

fn mutate(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(5) {
        if bytes.is_empty() {
            break;
        }
        let at = random.place(bytes.len());
        let end = at + random.below((bytes.len() - at).min(400) + 1);
        match random.below(9) {
            0 | 1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes[at] = random.next() as u8,
            3 => bytes.truncate(at),
            4 => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.place(other.len());
                let to = from + random.below((other.len() - from).min(400) + 1);
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            5 => {
                let chunk = bytes[at..end].to_vec();
                let copies = if random.below(20) == 0 { 200 } else { 1 + random.below(3) };
                bytes.splice(at..at, chunk.repeat(copies));
            }
            6 => drop(bytes.drain(at..end)),
            kind => {
                let number = ODD_NUMBERS[random.below(ODD_NUMBERS.len())]
                    .wrapping_add(random.below(3) as u32);
                let width = [1, 2, 2, 4][random.below(4)];
                let mut field = if kind == 7 { number.to_le_bytes() } else { number.to_be_bytes() };
                if kind == 8 {
                    field.rotate_right(width % 4);
                }
                for (target, source) in bytes[at..].iter_mut().zip(&field[..width]) {
                    *target = *source;
                }
            }
        }
    }
    if random.below(4) != 0 {
        mend_png(&mut bytes);
    }
    bytes
}

/// Makes the checksums of a PNG right again: behind wrong ones nothing would be read.
fn mend_png(bytes: &mut [u8]) {
    if !bytes.starts_with(b"\x89PNG") {
        return;
    }
    let mut at = 8;
    while let Some(length) = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()) {
        let end = (at + 8).saturating_add(u32::from_be_bytes(*length) as usize);
        if end + 4 > bytes.len() {
            return;
        }
        let checksum = !bytes[at + 4..end].iter().fold(u32::MAX, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| {
                (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
            })
        });
        bytes[end..end + 4].copy_from_slice(&checksum.to_be_bytes());
        at = end + 4;
    }
}

#[derive(Default)]
struct Counts {
    inputs: u64,
    decoded: u64,
    caught: BTreeMap<String, u64>,
    slowest: Duration,
    largest: usize,
    strict: bool,
}

/// One input; the error is the finding.
fn check(
    bytes: &[u8],
    rows: &mut RowMaker,
    options: &PrepOptions,
    counts: &mut Counts,
) -> Result<(), String> {
    let (before, start) = (IN_USE.load(Ordering::Relaxed), Instant::now());
    PEAK.store(before, Ordering::Relaxed);
    let exif = if counts.inputs.is_multiple_of(2) { Exif::Ignore } else { Exif::Apply };
    // A window reads kinds that have no other levels.
    let window = (!counts.inputs.is_multiple_of(5)).then_some([-1.0, 1000.0]);
    let lenient = counts.inputs.is_multiple_of(7);
    let how = Decoding { window, lenient, ..Decoding::from(exif) };
    let size = read_size(bytes, how);
    let image = decode(bytes, how);
    let beginning = read_size(&bytes[..bytes.len() / 2], how);
    let values = sample_values(bytes, how);
    let peak = PEAK.load(Ordering::Relaxed) - before;
    // Values are read with a window, whatever the image is.
    let promised = read_size(bytes, Decoding { window: Some([0.0, 1.0]), ..how });
    let pixels = promised.map_or(0, |size| size.width as u64 * size.height as u64);
    let allowed = pixels * MAX_BYTES_PER_PIXEL + SPARE_BYTES + 8 * bytes.len() as u64;
    if peak as u64 > allowed {
        return Err(format!("{peak} bytes for {pixels} pixels, allowed are {allowed}"));
    }
    counts.inputs += 1;
    counts.largest = counts.largest.max(peak);
    for reason in
        [size.as_ref().err(), image.as_ref().err(), values.as_ref().err()].into_iter().flatten()
    {
        if let Some(panic) = reason.0.strip_prefix("the decoder failed: ") {
            *counts.caught.entry(panic.to_owned()).or_default() += 1;
            if counts.strict {
                return Err(reason.to_string());
            }
        }
    }
    if let Ok(image) = image {
        counts.decoded += 1;
        if size.as_ref() != Ok(&image.size) || image.pixels.len() as u64 != pixels * 3 {
            return Err(format!(
                "read_size: {size:?}, decode: {:?}, {}",
                image.size,
                image.pixels.len()
            ));
        }
        if beginning.as_ref().is_ok_and(|size| *size != image.size) {
            return Err(format!("from its first half: {beginning:?}, from all: {:?}", image.size));
        }
        let source = Source {
            path: "fuzz".to_owned(),
            class: None,
            width: image.size.width,
            height: image.size.height,
            bytes: bytes.len() as i64,
            error: None,
        };
        rows.make(0, &source, &image, counts.inputs, Epoch(0), options)
            .map_err(|error| error.to_string())?;
    }
    let elapsed = start.elapsed();
    counts.slowest = counts.slowest.max(elapsed);
    if elapsed > MAX_TIME { Err(format!("took {elapsed:?}")) } else { Ok(()) }
}

/// The input under way and when it began, for the watch.
static CURRENT: Mutex<Option<(Instant, Vec<u8>)>> = Mutex::new(None);

fn watch() {
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            if let Some((start, bytes)) = CURRENT.lock().ok().and_then(|current| current.clone())
                && start.elapsed() > HANG
            {
                eprintln!("hangs; the input is in {FINDING}");
                let written = std::fs::write(FINDING, bytes);
                std::process::exit(if written.is_ok() { 1 } else { 2 });
            }
        }
    });
}

fn main() -> Result<ExitCode> {
    let (mut seconds, mut seed, mut files) = (60, 0, Vec::new());
    let mut counts = Counts::default();
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<u64> {
            let value = arguments.next().and_then(|value| value.into_string().ok());
            value.context("a number is missing")?.parse().context("not a number")
        };
        match argument.to_str() {
            Some("--seconds") => seconds = number()?,
            Some("--seed") => seed = number()?,
            Some("--strict") => counts.strict = true,
            _ => files.push(PathBuf::from(argument)),
        }
    }
    if files.is_empty() {
        bail!("usage: fuzz_decode [--seconds N] [--seed S] [--strict] FILES…");
    }
    let read = |file| {
        std::fs::read(file)
            .with_context(|| format!("cannot read {}", PathBuf::from(file).display()))
    };
    let corpus = files.iter().map(read).collect::<Result<Vec<_>>>()?;
    let options = [ViewEncoding::Webp, ViewEncoding::Jpeg, ViewEncoding::Recipe].map(|views| {
        let given =
            Options { views: Some(views), size: Some(32), min_box: Some(8), ..Options::default() };
        given.prep_options()
    });
    let [webp, jpeg, recipe] = options;
    let options = [webp?, jpeg?, recipe?];
    let (mut random, mut rows) = (Random(seed), RowMaker::default());
    watch();
    let start = Instant::now();
    let mut finding = None;
    while start.elapsed() < Duration::from_secs(seconds) && finding.is_none() {
        // First the files as they are.
        let bytes = match corpus.get(counts.inputs as usize) {
            Some(bytes) => bytes.clone(),
            None => mutate(&mut random, &corpus),
        };
        if let Ok(mut current) = CURRENT.lock() {
            *current = Some((Instant::now(), bytes.clone()));
        }
        let options = &options[counts.inputs as usize % 3];
        let result =
            catch_unwind(AssertUnwindSafe(|| check(&bytes, &mut rows, options, &mut counts)));
        if let Some(reason) = result.unwrap_or_else(|_| Err("panicked".to_owned())).err() {
            std::fs::write(FINDING, &bytes)?;
            finding = Some(reason);
        }
    }
    let Counts { inputs, decoded, caught, slowest, largest, strict: _ } = counts;
    println!(
        "{inputs} inputs in {:?}, {decoded} decoded, slowest {slowest:?}, most memory {largest}",
        start.elapsed()
    );
    for (panic, count) in caught {
        println!("caught {count} times: {panic}");
    }
    Ok(match finding {
        Some(reason) => {
            eprintln!("{reason}; the input is in {FINDING}");
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    })
}
