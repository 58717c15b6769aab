//! Files made to exhaust memory or time, or to break a decoder: each is read or refused soon,
//! within the memory that `decode` promises.

mod tiffs;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use scrl_preprocess::images::{Decoding, MAX_BYTES_PER_PIXEL, SPARE_BYTES, decode, read_size};
use scrl_schemas::Exif;

/// Longest time for one file, on a slow and busy machine. Most take milliseconds.
const MAX_TIME: Duration = Duration::from_secs(20);

/// Counts the bytes in use and their peak. There is one test in this file, so that they are those
/// of its thread.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = IN_USE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What has to come of a file.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// It is read.
    Read,
    /// It is refused with a reason that contains this.
    Refused(&'static str),
}
use Fate::{Read, Refused};

fn golden(name: &str) -> Vec<u8> {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/decode");
    std::fs::read(goldens.join(name)).unwrap()
}

/// The file with other bytes from a place on.
fn patched(name: &str, at: usize, with: &[u8]) -> Vec<u8> {
    let mut bytes = golden(name);
    bytes[at..at + with.len()].copy_from_slice(with);
    bytes
}

/// The file with more bytes put in at a place.
fn stuffed(name: &str, at: usize, with: &[u8]) -> Vec<u8> {
    let mut bytes = golden(name);
    bytes.splice(at..at, with.iter().copied());
    bytes
}

fn find(bytes: &[u8], pattern: &[u8]) -> usize {
    bytes.windows(pattern.len()).position(|window| window == pattern).unwrap()
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

fn png_chunk(name: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let named = [name.as_slice(), data].concat();
    let length = (data.len() as u32).to_be_bytes();
    [length.as_slice(), &named, &crc32(&named).to_be_bytes()].concat()
}

/// A PNG with another size in its header.
fn png_of_size(width: u32, height: u32) -> Vec<u8> {
    let golden = golden("rgb8.png");
    let mut header = golden[16..29].to_vec();
    header[..4].copy_from_slice(&width.to_be_bytes());
    header[4..8].copy_from_slice(&height.to_be_bytes());
    [&golden[..8], &png_chunk(b"IHDR", &header), &golden[33..]].concat()
}

/// A zlib stream of a few hundred kilobytes that unpacks to hundreds of megabytes of zeros. (One
/// block of fixed codes: a zero, then runs of 258 at distance 1; eight such runs of 13 bits are 13
/// bytes.)
fn bomb() -> Vec<u8> {
    struct Bits(Vec<u8>, u32);
    impl Bits {
        fn put(&mut self, code: u32, length: u32) {
            for bit in (0..length).map(|i| (code >> i) & 1) {
                if self.1.is_multiple_of(8) {
                    self.0.push(0);
                }
                *self.0.last_mut().unwrap() |= (bit as u8) << (self.1 % 8);
                self.1 += 1;
            }
        }
    }
    let mut bits = Bits(vec![0x78, 0x01], 0);
    bits.put(1, 1);
    bits.put(1, 2);
    // The literal 0 is 00110000, sent from its highest bit.
    bits.put(0b0000_1100, 8);
    for _ in 0..2_000_000 {
        // The length 258 is 11000101, the distance 1 is 00000.
        bits.put(0b1010_0011, 8);
        bits.put(0, 5);
    }
    bits.put(0, 7);
    [bits.0, vec![0; 4]].concat()
}

fn jpegs() -> Vec<(&'static str, Vec<u8>, Fate)> {
    let plain = golden("420.jpg");
    let frame = find(&plain, &[0xFF, 0xC0]);
    let scan = find(&plain, &[0xFF, 0xDA]);
    let progressive = golden("420-progressive.jpg");
    let scans: Vec<usize> = progressive
        .windows(2)
        .enumerate()
        .filter(|(_, pair)| *pair == [0xFF, 0xDA])
        .map(|(at, _)| at)
        .collect();
    let end = progressive.len() - 2;
    let restart = find(&golden("restarts.jpg"), &[0xFF, 0xD1]);
    let last_scan = progressive[*scans.last().unwrap()..end].to_vec();
    // Many scans of one component in an image whose first scan does not have them all.
    let mut single = plain[..scan].to_vec();
    single.extend([0xFF, 0xDA, 0, 8, 1, 1, 0, 0, 63, 0, 1].repeat(50_000));
    single.extend([0xFF, 0xD9]);
    let exif =
        [&[0xFF, 0xE1, 0xFF, 0xFF], b"Exif\0\0II*\0".as_slice(), &[0xFF; 0xFFFF - 12]].concat();
    let text = [&[0xFF, 0xFE, 0xFF, 0xFF], vec![b'x'; 0xFFFD].as_slice()].concat();
    vec![
        ("JPEG of 65535×65535", patched("420.jpg", frame + 5, &[0xFF; 4]), Refused("million")),
        (
            "JPEG of 12000×12000",
            patched("420.jpg", frame + 5, &[0x2E, 0xE0, 0x2E, 0xE0]),
            Refused("too few bytes"),
        ),
        ("JPEG without height", patched("420.jpg", frame + 5, &[0, 0]), Refused("JPEG")),
        (
            "JPEG with arithmetic coding",
            patched("420.jpg", frame + 1, &[0xC9]),
            Refused("arithmetic"),
        ),
        ("lossless JPEG", patched("420.jpg", frame + 1, &[0xC3]), Refused("lossless")),
        ("JPEG of 12 bits", patched("420.jpg", frame + 4, &[12]), Refused("JPEG")),
        ("JPEG of fill bytes", stuffed("420.jpg", frame, &[0xFF; 20_000_000]), Read),
        (
            "JPEG of fill bytes alone",
            [vec![0xFF, 0xD8], vec![0xFF; 20_000_000]].concat(),
            Refused("JPEG"),
        ),
        (
            "JPEG of restarts before the scan",
            stuffed("420.jpg", scan, &[0xFF, 0xD0].repeat(5_000_000)),
            Read,
        ),
        (
            "JPEG of restarts in the scan",
            stuffed("420.jpg", scan + 30, &[0xFF, 0xD0].repeat(5_000_000)),
            Read,
        ),
        (
            "JPEG of 5000 scans",
            stuffed("420-progressive.jpg", end, &last_scan.repeat(5000)),
            Refused("scans"),
        ),
        ("JPEG of 50000 single scans", single, Refused("a sequential image in several scans")),
        ("JPEG of much EXIF", stuffed("420.jpg", 2, &exif.repeat(100)), Read),
        ("JPEG of much text", stuffed("420.jpg", 2, &text.repeat(100)), Read),
        ("JPEG with a second scan", stuffed("420.jpg", plain.len() - 2, &plain[scan..]), {
            Refused("a second scan")
        }),
        ("JPEG with JPG in the scan", patched("420.jpg", scan + 40, &[0xFF, 0xC8]), {
            Refused("a marker without a meaning")
        }),
        (
            "JPEG with half a table in the scan",
            patched("420.jpg", scan + 40, &[0xFF, 0xC4, 0, 9]),
            { Refused("half a Huffman table") },
        ),
        ("JPEG with its end in the scan", patched("420.jpg", scan + 40, &[0xFF, 0xD9]), Read),
        ("JPEG without a quantization table", patched("420.jpg", frame + 12, &[3]), {
            Refused("no quantization table")
        }),
        ("JPEG sampled by 3", patched("420.jpg", frame + 11, &[0x31]), Refused("not supported")),
        ("JPEG sampled by 3/2", patched("420.jpg", frame + 11, &[0x33, 0, 2, 0x22]), {
            Refused("not supported")
        }),
        ("JPEG with a frame for 5", patched("420.jpg", frame + 9, &[5]), Refused("components")),
        (
            "JPEG whose progression skips the DC",
            patched("420-progressive.jpg", scans[0] + 11, &[0, 5]),
            { Refused("progression") },
        ),
        ("JPEG with an empty restart", patched("restarts.jpg", restart + 2, &[0xFF, 0xD0]), Read),
        ("JPEG of two images", [plain[..scan].to_vec(), plain.clone()].concat(), Refused("JPEG")),
    ]
}

fn pngs() -> Vec<(&'static str, Vec<u8>, Fate)> {
    let bomb = bomb();
    let profile = png_chunk(b"iCCP", &[b"x\0\0".as_slice(), &bomb].concat());
    let text = png_chunk(b"zTXt", &[b"x\0\0".as_slice(), &bomb].concat());
    let pixels =
        [&golden("rgb8.png")[..33], &png_chunk(b"IDAT", &bomb), &png_chunk(b"IEND", b"")].concat();
    let empty = png_chunk(b"IDAT", b"").repeat(300_000);
    let indexed = golden("palette1-clear.png");
    let palette = png_chunk(b"PLTE", &[7; 5]);
    // The chunk that was there is 18 bytes long.
    let half_a_color = [&indexed[..33], &palette, &indexed[33 + 18..]].concat();
    vec![
        ("PNG of 60000×60000", png_of_size(60_000, 60_000), Refused("million")),
        ("PNG of 13000×13000", png_of_size(13_000, 13_000), Refused("")),
        ("PNG of 2147483648 rows", png_of_size(1, 1 << 31), Refused("million")),
        ("PNG without width", png_of_size(0, 5), Refused("no pixels")),
        ("PNG with a profile that is a bomb", stuffed("rgb8.png", 33, &profile), Read),
        ("PNG with a text that is a bomb", stuffed("rgb8.png", 33, &text), Read),
        ("PNG with pixels that are a bomb", pixels, Read),
        ("PNG of half a color", half_a_color, Refused("palette")),
        ("PNG of empty chunks", stuffed("rgb8.png", 33, &empty), Read),
    ]
}

fn webps() -> Vec<(&'static str, Vec<u8>, Fate)> {
    let file = |chunks: &[(&[u8; 4], u32, &[u8])], rest: &[u8]| {
        let mut body = b"WEBP".to_vec();
        for (name, length, data) in chunks {
            body.extend(name.iter().chain(&length.to_le_bytes()).chain(*data));
        }
        body.extend(rest);
        [b"RIFF", (body.len() as u32).to_le_bytes().as_slice(), &body].concat()
    };
    // Flags, three bytes of nothing, width − 1 and height − 1 in three bytes each.
    let canvas = |flags: u8, side: u32| {
        let side = (side - 1).to_le_bytes();
        [&[flags, 0, 0, 0], &side[..3], &side[..3]].concat()
    };
    let lossless = golden("lossless-noise.webp");
    let data = lossless[20..].to_vec();
    let length = data.len() as u32;
    let lossy = golden("lossy-alpha.webp");
    let frame = find(&lossy, &[0x9D, 0x01, 0x2A]) + 3;
    let nested =
        [b"ANMF".as_slice(), &0xFF_FFFFu32.to_le_bytes(), &[0; 16]].concat().repeat(400_000);
    vec![
        (
            "WebP with a frame of 4613×12577",
            patched("lossy-alpha.webp", frame, &[5, 0x12, 0x21, 0x31]),
            Refused("canvas"),
        ),
        (
            "WebP of frames in frames",
            file(&[(b"VP8X", 10, &canvas(2, 17)), (b"ANIM", 6, &[0; 6])], &nested),
            Refused("WebP"),
        ),
        (
            "WebP of 16383×16383",
            patched("lossless-noise.webp", 21, &[0xFE, 0xBF, 0xFF, 0x0F]),
            Refused("million"),
        ),
        (
            "WebP of 60000×60000",
            file(&[(b"VP8X", 10, &canvas(0, 60_000)), (b"VP8L", length, &data)], b""),
            Refused("million"),
        ),
        (
            "WebP of 13000×13000",
            file(&[(b"VP8X", 10, &canvas(0, 13_000)), (b"VP8L", length, &data)], b""),
            Refused("WebP"),
        ),
        (
            "WebP with EXIF of 4 GB",
            file(
                &[
                    (b"VP8X", 10, &canvas(8, 17)),
                    (b"VP8L", length, &data),
                    (b"EXIF", u32::MAX - 9, b""),
                ],
                b"",
            ),
            Refused("WebP"),
        ),
        (
            "WebP without a frame",
            file(&[(b"VP8X", 10, &canvas(2, 17)), (b"ANIM", 6, &[0; 6])], b""),
            Refused("WebP"),
        ),
        ("WebP of an empty chunk", file(&[(b"VP8 ", 0, b"")], b""), Refused("WebP")),
    ]
}

fn others() -> Vec<(&'static str, Vec<u8>, Fate)> {
    let gif = golden("plain.gif");
    let frame = find(&gif, &[0x2C, 0, 0, 0, 0]);
    let mut wide_frame = gif.clone();
    wide_frame[frame + 5..frame + 9].copy_from_slice(&[0xFF; 4]);
    let comment = [b"\x21\xFE".as_slice(), &[255; 256].repeat(40_000), &[0]].concat();
    let big = |side: i32| [side.to_le_bytes(), side.to_le_bytes()].concat();
    vec![
        ("GIF of 65535×65535", patched("plain.gif", 6, &[0xFF; 4]), Refused("million")),
        ("GIF with a frame of 65535×65535", wide_frame, Refused("million")),
        ("GIF of 13000×13000", patched("plain.gif", 6, &[0xC8, 0x32, 0xC8, 0x32]), Read),
        ("GIF without a size", patched("part.gif", 6, &[0; 4]), Read),
        ("GIF with a long comment", stuffed("plain.gif", frame, &comment), Read),
        ("GIF without a frame", [&gif[..frame], b";"].concat(), Refused("GIF")),
        ("BMP of 60000×60000", patched("rgb24.bmp", 18, &big(60_000)), Refused("")),
        ("BMP of 13000×13000", patched("rgb24.bmp", 18, &big(13_000)), Refused("")),
        ("BMP without a size", patched("rgb24.bmp", 18, &big(0)), Refused("")),
        ("BMP of negative width", patched("rgb24.bmp", 18, &(-5i32).to_le_bytes()), Refused("")),
        (
            "BMP of the most negative height",
            patched("rgb24.bmp", 22, &i32::MIN.to_le_bytes()),
            Refused(""),
        ),
        (
            "BMP of an absurd palette",
            patched("palette8.bmp", 46, &u32::MAX.to_le_bytes()),
            Refused(""),
        ),
        ("BMP of 13000×13000 in runs", patched("rle8.bmp", 18, &big(13_000)), Refused("too soon")),
        (
            "BMP whose pixels are elsewhere",
            patched("rgb24.bmp", 10, &u32::MAX.to_le_bytes()),
            Refused(""),
        ),
    ]
}

#[test]
fn hostile_files_cost_little() {
    let mut faults = Vec::new();
    for (name, bytes, fate) in
        [jpegs(), pngs(), webps(), others(), tiffs::tiffs()].into_iter().flatten()
    {
        let (before, start) = (IN_USE.load(Ordering::Relaxed), Instant::now());
        PEAK.store(before, Ordering::Relaxed);
        // With a window, so that no sample is refused for its type.
        let how = Decoding { window: Some([0.0, 255.0]), ..Decoding::from(Exif::Ignore) };
        let size = read_size(&bytes, Decoding { exif: Exif::Apply, ..how });
        let image = decode(&bytes, how);
        let (time, peak) = (start.elapsed(), PEAK.load(Ordering::Relaxed) - before);
        let pixels = size.map_or(0, |size| size.width as u64 * size.height as u64);
        let outcome = match &image {
            Ok(image) => format!("{}×{}", image.size.width, image.size.height),
            Err(reason) => reason.to_string(),
        };
        println!("{name}: {} kB, {time:?}: {outcome}", peak >> 10);
        let right = match (fate, &image) {
            (Read, image) => image.is_ok(),
            (Refused(_), Ok(_)) => false,
            (Refused(why), Err(reason)) => {
                reason.0.contains(why) && !reason.0.contains("the decoder failed")
            }
        };
        let allowed = pixels * MAX_BYTES_PER_PIXEL + SPARE_BYTES + 8 * bytes.len() as u64;
        if !right || time > MAX_TIME || peak as u64 > allowed {
            faults.push(format!("{name}: {outcome}; {time:?}, {peak} bytes of {allowed}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
