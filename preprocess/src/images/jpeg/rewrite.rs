//! A JPEG written anew as libjpeg understands it.
//!
//! [`Markers::open`] reads the header, [`Markers::rewrite`] the rest. What libjpeg only warns of is
//! gone from the stream that the decoder gets: tables stand where they are used, scans have the
//! parameters that count, restart markers are in sequence, and the end is there.

use image::metadata::Orientation;

use super::markers::{
    APPLICATION_0, APPLICATION_1, APPLICATION_14, END_OF_IMAGE, Fault, Frame, HUFFMAN_TABLES, Next,
    QUANTIZATION_TABLES, RESTART_0, RESTART_INTERVAL, Reader, START_OF_IMAGE, START_OF_SCAN, Scan,
};
use crate::images::rgb_image::ImageSize;
use Fault::{Broken, Cut, Unsupported};

/// Scans beyond which an image is refused. Encoders write about ten; each costs a pass over the
/// image.
pub(super) const MAX_SCANS: usize = 100;
/// Bytes that Pillow hands to libjpeg at a time.
const PILLOW_BLOCK: usize = 1 << 16;

/// How the samples of a pixel are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Color {
    Gray,
    YCbCr,
    Rgb,
    Cmyk,
    Ycck,
}

/// A JPEG whose header has been read up to the data of its first scan.
pub(super) struct Markers<'a> {
    reader: Reader<'a>,
    frame: Frame,
    scan: Scan,
    pub(super) color: Color,
    pub(super) orientation: Orientation,
}

/// A file as the decoder gets to see it.
pub(super) struct Rewritten {
    pub(super) stream: Vec<u8>,
    pub(super) scans: usize,
    /// The first fault behind the header.
    pub(super) fault: Option<Fault>,
}

impl<'a> Markers<'a> {
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, Fault> {
        let mut reader = Reader::new(bytes);
        let (mut frame, mut jfif, mut adobe, mut exif) = (None, false, None, None);
        let (mut frame, data) = loop {
            match reader.next()? {
                Next::Segment(APPLICATION_0, data) => {
                    jfif |= data.starts_with(b"JFIF\0") && data.len() >= 14;
                }
                Next::Segment(APPLICATION_1, data) => {
                    exif = exif.or(data.strip_prefix(b"Exif\0\0"));
                }
                Next::Segment(APPLICATION_14, data) if data.starts_with(b"Adobe") => {
                    adobe = data.get(11).copied().or(adobe);
                }
                Next::Segment(..) => {}
                Next::Frame(_) if frame.is_some() => return Err(Broken("a second frame")),
                Next::Frame(header) => frame = Some(header),
                Next::Scan(data) => break (frame.ok_or(Broken("a scan without a frame"))?, data),
                Next::End => return Err(Broken("no scan before the end")),
            }
        };
        let scan = Scan::new(data, &mut frame, &reader)?;
        // The decoder makes something else of most of them, without an error.
        if !frame.progressive && scan.components.len() < frame.components.len() {
            return Err(Unsupported("a sequential image in several scans"));
        }
        // libjpeg's guesses, in its order.
        let is_rgb = frame.components.iter().map(|component| component.id).eq(*b"RGB");
        let color = match (frame.components.len(), adobe) {
            (1, _) => Color::Gray,
            (3, _) if jfif => Color::YCbCr,
            (3, Some(0)) => Color::Rgb,
            (3, None) if is_rgb => Color::Rgb,
            (3, _) => Color::YCbCr,
            (_, None | Some(0)) => Color::Cmyk,
            _ => Color::Ycck,
        };
        let orientation = exif.and_then(Orientation::from_exif_chunk);
        let orientation = orientation.unwrap_or(Orientation::NoTransforms);
        Ok(Self { reader, frame, scan, color, orientation })
    }

    pub(super) fn size(&self) -> ImageSize {
        self.frame.size
    }

    /// Reads the rest and writes the whole anew.
    pub(super) fn rewrite(self) -> Rewritten {
        let Self { mut reader, mut frame, scan: mut next, color, .. } = self;
        let mut writer =
            Writer { stream: Vec::with_capacity(reader.bytes.len()), ..Writer::default() };
        let mut scans = 0;
        let fault = loop {
            let copied = writer.scan(&mut reader, &frame, &next);
            scans += 1;
            if let Err(fault) = copied {
                break Some(fault);
            }
            if !frame.progressive {
                // All pixels are there: Pillow looks no further than the bytes it has at hand.
                let end = reader.at.next_multiple_of(PILLOW_BLOCK).min(reader.bytes.len());
                reader.bytes = &reader.bytes[..end];
            }
            match reader.next_scan(&mut frame) {
                Ok(None) => break None,
                Err(Cut) if !frame.progressive => break None,
                Ok(Some(_)) if !frame.progressive => break Some(Broken("a second scan")),
                Ok(Some(_)) if scans == MAX_SCANS => {
                    break Some(Unsupported("more than 100 scans"));
                }
                Ok(Some(scan)) => next = scan,
                Err(fault) => break Some(fault),
            }
        };
        let mut stream = header(&frame, color);
        stream.append(&mut writer.stream);
        stream.extend([0xFF, END_OF_IMAGE]);
        Rewritten { stream, scans, fault }
    }
}

#[derive(Default)]
struct Writer<'a> {
    stream: Vec<u8>,
    /// The tables and the interval that were written last.
    huffman: [[Option<&'a [u8]>; 4]; 2],
    restart_interval: usize,
}

impl<'a> Writer<'a> {
    fn segment(&mut self, kind: u8, data: &[&[u8]]) {
        let length = 2 + data.iter().map(|part| part.len()).sum::<usize>();
        self.stream.extend([0xFF, kind]);
        self.stream.extend((length as u16).to_be_bytes());
        data.iter().for_each(|part| self.stream.extend(*part));
    }

    fn scan(&mut self, reader: &mut Reader<'a>, frame: &Frame, scan: &Scan) -> Result<(), Fault> {
        for (kind, number) in scan.tables(frame.progressive) {
            let table = reader.huffman[kind][number];
            if let Some(data) = table.filter(|_| table != self.huffman[kind][number]) {
                self.segment(HUFFMAN_TABLES, &[&[(kind << 4 | number) as u8], data]);
                self.huffman[kind][number] = table;
            }
        }
        let interval = reader.restart_interval;
        if interval != self.restart_interval {
            self.segment(RESTART_INTERVAL, &[&(interval as u16).to_be_bytes()]);
            self.restart_interval = interval;
        }
        let components = scan.components.iter().map(|&(index, tables)| [index as u8, tables]);
        let components = components.collect::<Vec<_>>();
        let count = [components.len() as u8];
        self.segment(START_OF_SCAN, &[&count, components.as_flattened(), &scan.band]);
        reader.copy_data(&mut self.stream)?;
        let restarts = match interval {
            0 => 0,
            _ => frame.units(scan).div_ceil(interval) - 1,
        };
        for number in (0..8).cycle().take(restarts) {
            reader.restart(number)?;
            self.stream.extend([0xFF, RESTART_0 + number]);
            if reader.pending.is_none() {
                reader.copy_data(&mut self.stream)?;
            }
        }
        Ok(())
    }
}

/// What stands before the first scan.
fn header(frame: &Frame, color: Color) -> Vec<u8> {
    let mut header = Writer { stream: vec![0xFF, START_OF_IMAGE], ..Writer::default() };
    // The sign of Motion JPEG: Huffman tables that are missing are those of the standard.
    header.segment(APPLICATION_0, &[b"AVI1\0"]);
    let transform = match color {
        Color::Rgb | Color::Cmyk => Some(0),
        Color::YCbCr => Some(1),
        Color::Ycck => Some(2),
        Color::Gray => None,
    };
    if let Some(transform) = transform {
        header.segment(APPLICATION_14, &[b"Adobe\0\x64\0\0\0\0", &[transform]]);
    }
    let ImageSize { width, height } = frame.size;
    let sides = [(height as u16).to_be_bytes(), (width as u16).to_be_bytes()];
    let mut components = Vec::new();
    for (number, component) in (0..).zip(&frame.components) {
        // A component without a scan is zero throughout.
        let table = component.quantization.unwrap_or([1; 64]).map(u16::to_be_bytes);
        header.segment(QUANTIZATION_TABLES, &[&[0x10 | number], table.as_flattened()]);
        let sampling = component.horizontal << 4 | component.vertical;
        components.push([number, sampling as u8, number]);
    }
    let (kind, count) = (if frame.progressive { 0xC2 } else { 0xC0 }, components.len() as u8);
    header.segment(kind, &[&[8], sides.as_flattened(), &[count], components.as_flattened()]);
    header.stream
}
