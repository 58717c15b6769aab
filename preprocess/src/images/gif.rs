//! GIF: the first frame on its canvas.

use gif::{ColorOutput, DecodeOptions, Decoder, MemoryLimit};
use image::metadata::Orientation;

use super::{Header, Unreadable, area, check_size};

/// Where the first frame lies.
struct First {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
    transparent: Option<u8>,
}

pub(super) fn header(bytes: &[u8]) -> Result<Header, Unreadable> {
    Ok(open(bytes)?.1)
}

pub(super) fn decode(bytes: &[u8]) -> Result<(Header, Vec<u8>), Unreadable> {
    let (mut decoder, header, first) = open(bytes)?;
    let mut indices = vec![0; first.width * first.height];
    if !indices.is_empty() {
        decoder.read_into_buffer(&mut indices).map_err(refused)?;
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
    // Around the frame Pillow shows the color that stands for transparency or else the first one, whatever the file
    // says of its background.
    let around = color(first.transparent.unwrap_or(0));
    let mut pixels = around.repeat(area(header.size));
    let stride = 3 * header.size.width as usize;
    for (row, line) in indices.chunks_exact(first.width.max(1)).enumerate() {
        let start = (first.top + row) * stride + 3 * first.left;
        let (targets, _) = pixels[start..start + 3 * first.width].as_chunks_mut::<3>();
        for (target, &index) in targets.iter_mut().zip(line) {
            *target = color(index);
        }
    }
    Ok((header, pixels))
}

/// The canvas grows where the first frame leaves it, as Pillow's does.
fn open(bytes: &[u8]) -> Result<(Decoder<&[u8]>, Header, First), Unreadable> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    // What is buffered beside the frame, such as a color profile, is part of the file.
    options.set_memory_limit(MemoryLimit::Bytes(
        std::num::NonZeroU64::MIN.saturating_add(bytes.len() as u64),
    ));
    let mut decoder = options.read_info(bytes).map_err(refused)?;
    let canvas = [decoder.width(), decoder.height()].map(u64::from);
    let frame = decoder.next_frame_info().map_err(refused)?;
    let frame = frame.ok_or_else(|| Unreadable::because("GIF: no image in it"))?;
    let [left, top, width, height] =
        [frame.left, frame.top, frame.width, frame.height].map(usize::from);
    let first = First { left, top, width, height, transparent: frame.transparent };
    let size =
        check_size(canvas[0].max((left + width) as u64), canvas[1].max((top + height) as u64))?;
    Ok((decoder, Header { size, orientation: Orientation::NoTransforms }, first))
}

fn refused(error: impl std::fmt::Display) -> Unreadable {
    Unreadable::because(format!("GIF: {error}"))
}
