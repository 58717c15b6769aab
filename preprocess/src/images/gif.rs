//! GIF: the first frame on its canvas.

use std::io::Cursor;
use std::num::NonZeroU64;

use gif::{ColorOutput, DecodeOptions, Decoder, MemoryLimit};
use image::metadata::Orientation;

use super::decode::Decoding;
use super::rgb_image::{Header, Unreadable, area, check_size};

type Gif = Decoder<Cursor<Vec<u8>>>;

/// Where the first frame lies.
struct First {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
    transparent: Option<u8>,
}

pub(super) fn header(bytes: &[u8], how: Decoding) -> Result<Header, Unreadable> {
    Ok(open(bytes, how)?.1)
}

pub(super) fn decode(bytes: &[u8], how: Decoding) -> Result<(Header, Vec<u8>), Unreadable> {
    let (mut decoder, header, first) = open(bytes, how)?;
    let mut indices = vec![0; first.width * first.height];
    match decoder.read_into_buffer(&mut indices) {
        Err(error) if !how.lenient => return Err(refused(error)),
        _ => {}
    }
    let palette = decoder.palette().map_err(refused)?;
    // An index beyond the palette is black.
    let color = |index: u8| {
        palette
            .get(3 * usize::from(index)..)
            .and_then(|rest| rest.first_chunk::<3>())
            .copied()
            .unwrap_or([0; 3])
    };
    // Around the frame Pillow shows the color that stands for transparency or else the first one,
    // whatever the file says of its background.
    let around = color(first.transparent.unwrap_or(0));
    let mut pixels = around.repeat(area(header.size));
    let stride = 3 * header.size.width as usize;
    for (row, line) in indices.chunks_exact(first.width).enumerate() {
        let start = (first.top + row) * stride + 3 * first.left;
        let (targets, _) = pixels[start..start + 3 * first.width].as_chunks_mut::<3>();
        for (target, &index) in targets.iter_mut().zip(line) {
            *target = color(index);
        }
    }
    Ok((header, pixels))
}

/// The canvas grows where the first frame leaves it, as Pillow's does.
fn open(bytes: &[u8], how: Decoding) -> Result<(Gif, Header, First), Unreadable> {
    let rewritten = first_frame(bytes).ok_or_else(|| Unreadable::because("GIF: no image in it"))?;
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    // What is buffered beside the frame is part of the file.
    let limit = NonZeroU64::MIN.saturating_add(bytes.len() as u64);
    options.set_memory_limit(MemoryLimit::Bytes(limit));
    let mut decoder = options.read_info(Cursor::new(rewritten)).map_err(refused)?;
    let canvas = [decoder.width(), decoder.height()].map(u64::from);
    let frame = decoder.next_frame_info().map_err(refused)?;
    let frame = frame.ok_or_else(|| Unreadable::because("GIF: no image in it"))?;
    let [left, top, width, height] =
        [frame.left, frame.top, frame.width, frame.height].map(usize::from);
    if width == 0 || height == 0 {
        return Err(Unreadable::because("GIF: its first frame is empty"));
    }
    let first = First { left, top, width, height, transparent: frame.transparent };
    let canvas = [canvas[0].max((left + width) as u64), canvas[1].max((top + height) as u64)];
    let size = check_size(canvas[0], canvas[1], how.max_pixels)?;
    Ok((decoder, Header::of_bytes(size, Orientation::NoTransforms), first))
}

/// The file from its first frame on, behind what that needs of the blocks before it. As in Pillow,
/// bytes that begin no block are passed over, and without a palette an index is a gray level.
fn first_frame(bytes: &[u8]) -> Option<Vec<u8>> {
    const SCREEN_BYTES: usize = 13;
    const FRAME_BYTES: usize = 10;
    const HAS_PALETTE: u8 = 0x80;
    const GRAPHIC_CONTROL: u8 = 0xF9;
    const COMMENT: u8 = 0xFE;
    let palette = |flags: u8| match flags & HAS_PALETTE {
        0 => 0,
        _ => 3 << ((flags & 7) + 1),
    };
    let mut screen = bytes.get(..SCREEN_BYTES)?.to_vec();
    let mut at = SCREEN_BYTES + palette(screen[10]);
    let global = bytes.get(SCREEN_BYTES..at)?;
    let mut control = &[][..];
    // The data of the next block of an extension.
    let data = |at: &mut usize| {
        let length = usize::from(*bytes.get(*at)?);
        let data = bytes.get(*at + 1..*at + 1 + length)?;
        *at += 1 + length;
        Some(data)
    };
    loop {
        at += 1;
        match bytes.get(at - 1)? {
            b'!' => {
                let kind = *bytes.get(at)?;
                at += 1;
                let mut block = data(&mut at)?;
                if kind == GRAPHIC_CONTROL && !block.is_empty() {
                    control = block.get(..4)?;
                }
                if kind != COMMENT || !block.is_empty() {
                    block = data(&mut at)?;
                }
                while !block.is_empty() {
                    block = data(&mut at)?;
                }
            }
            b',' => break,
            b';' => return None,
            _ => {}
        }
    }
    let rest = &bytes[at - 1..];
    if (screen[10] | rest.get(..FRAME_BYTES)?[9]) & HAS_PALETTE == 0 {
        screen[10] = HAS_PALETTE | 7;
        screen.extend((0..=255).flat_map(|level| [level; 3]));
    }
    screen.extend(global);
    if !control.is_empty() {
        screen.extend([b'!', GRAPHIC_CONTROL, 4].iter().chain(control).chain(&[0]));
    }
    screen.extend(rest);
    Some(screen)
}

fn refused(error: impl std::fmt::Display) -> Unreadable {
    Unreadable::because(format!("GIF: {error}"))
}
