//! The markers of a JPEG, read as Pillow and libjpeg read them.
//!
//! A fault is what makes libjpeg give up. What it only warns of is none.

use crate::images::rgb_image::{ImageSize, Unreadable};

/// Blocks of 8×8 samples that a unit of an interleaved scan may have.
const MAX_BLOCKS_IN_UNIT: usize = 10;

pub(super) const HUFFMAN_TABLES: u8 = 0xC4;
pub(super) const RESTART_0: u8 = 0xD0;
const RESTART_7: u8 = 0xD7;
pub(super) const START_OF_IMAGE: u8 = 0xD8;
pub(super) const END_OF_IMAGE: u8 = 0xD9;
pub(super) const START_OF_SCAN: u8 = 0xDA;
pub(super) const QUANTIZATION_TABLES: u8 = 0xDB;
pub(super) const RESTART_INTERVAL: u8 = 0xDD;
pub(super) const APPLICATION_0: u8 = 0xE0;
pub(super) const APPLICATION_1: u8 = 0xE1;
pub(super) const APPLICATION_14: u8 = 0xEE;

/// Why reading stopped.
#[derive(Debug)]
pub(super) enum Fault {
    /// The file ends.
    Cut,
    /// libjpeg gives up here.
    Broken(&'static str),
    /// The decoder, or Pillow, does not know it.
    Unsupported(&'static str),
}
use Fault::{Broken, Cut, Unsupported};

impl From<Fault> for Unreadable {
    fn from(fault: Fault) -> Self {
        Self::because(match fault {
            Cut => "JPEG: the file ends too soon".to_owned(),
            Broken(reason) => format!("JPEG: broken data, {reason}"),
            Unsupported(reason) => format!("JPEG: {reason} is not supported"),
        })
    }
}

/// A component of the frame.
#[derive(Debug)]
pub(super) struct Component {
    pub id: u8,
    pub horizontal: usize,
    pub vertical: usize,
    pub table: u8,
    /// The values of `table` at the first scan of this component.
    pub quantization: Option<[u16; 64]>,
}

#[derive(Debug)]
pub(super) struct Frame {
    pub progressive: bool,
    pub size: ImageSize,
    pub components: Vec<Component>,
}

impl Frame {
    pub fn new(data: &[u8], progressive: bool) -> Result<Self, Fault> {
        let Some((&[bits, y0, y1, x0, x1, count], rest)) = data.split_first_chunk::<6>() else {
            return Err(Broken("a short frame header"));
        };
        if bits != 8 {
            return Err(Unsupported("a precision other than 8 bits"));
        }
        if !matches!(count, 1 | 3 | 4) {
            return Err(Unsupported("a number of components other than 1, 3 and 4"));
        }
        let (width, height) = (u16::from_be_bytes([x0, x1]), u16::from_be_bytes([y0, y1]));
        if width == 0 || height == 0 || rest.len() != usize::from(count) * 3 {
            return Err(Broken("a frame without pixels"));
        }
        let component = |&[id, sampling, table]: &[u8; 3]| Component {
            id,
            horizontal: usize::from(sampling >> 4),
            vertical: usize::from(sampling & 15),
            table,
            quantization: None,
        };
        let mut components = rest.as_chunks().0.iter().map(component).collect::<Vec<_>>();
        let range = 1..=4;
        if components.iter().any(|c| !range.contains(&c.horizontal) || !range.contains(&c.vertical))
        {
            return Err(Broken("a sampling factor other than 1 to 4"));
        }
        if let [only] = &mut components[..] {
            // There is nothing that it could be sampled against.
            (only.horizontal, only.vertical) = (1, 1);
        }
        let size = ImageSize { width: i32::from(width), height: i32::from(height) };
        let frame = Self { progressive, size, components };
        let (h, v) = frame.largest();
        if frame.components.iter().any(|c| h % c.horizontal != 0 || v % c.vertical != 0) || h == 3 {
            return Err(Unsupported("subsampling by 3 or 3/2"));
        }
        Ok(frame)
    }

    /// The largest sampling factors, horizontal and vertical.
    pub fn largest(&self) -> (usize, usize) {
        self.components.iter().fold((1, 1), |(h, v), c| (h.max(c.horizontal), v.max(c.vertical)))
    }

    /// Coded units of a scan.
    pub fn units(&self, scan: &Scan) -> usize {
        let (width, height) = (self.size.width as usize, self.size.height as usize);
        let (h, v) = self.largest();
        match scan.components[..] {
            [(only, _)] => {
                let Component { horizontal, vertical, .. } = self.components[only];
                (width * horizontal).div_ceil(h * 8) * (height * vertical).div_ceil(v * 8)
            }
            _ => width.div_ceil(h * 8) * height.div_ceil(v * 8),
        }
    }
}

/// A scan's header.
#[derive(Debug)]
pub(super) struct Scan {
    /// Indices into the frame's components, and the numbers of their tables in half a byte each.
    pub components: Vec<(usize, u8)>,
    /// The first and last coefficient, and in half a byte each the last precision and this one.
    pub band: [u8; 3],
}

impl Scan {
    /// Reads the header and checks what libjpeg checks before it reads the data.
    pub fn new(data: &[u8], frame: &mut Frame, reader: &Reader) -> Result<Self, Fault> {
        let length = Broken("a scan header of the wrong length");
        let Some((&count, rest)) = data.split_first() else { return Err(length) };
        let Some((fields, &[first, last, precision])) = rest.split_last_chunk() else {
            return Err(length);
        };
        if !(1..=4).contains(&count) || fields.len() != 2 * usize::from(count) {
            return Err(length);
        }
        let mut components: Vec<(usize, u8)> = Vec::new();
        for &[id, tables] in fields.as_chunks().0 {
            let is_new = |&index: &usize| components.iter().all(|&(other, _)| other != index);
            let mut same = (0..frame.components.len()).filter(|&i| frame.components[i].id == id);
            let index =
                same.find(is_new).ok_or(Broken("a scan of a component that is not there"))?;
            components.push((index, tables));
        }
        let blocks = |&(index, _): &(usize, u8)| {
            frame.components[index].horizontal * frame.components[index].vertical
        };
        if count > 1 && components.iter().map(blocks).sum::<usize>() > MAX_BLOCKS_IN_UNIT {
            return Err(Broken("too many blocks in a unit"));
        }
        for &(index, _) in &components {
            let component = &mut frame.components[index];
            if component.quantization.is_none() {
                let table = reader.quantization.get(usize::from(component.table));
                let table = table.copied().flatten();
                component.quantization = Some(table.ok_or(Broken("no quantization table"))?);
            }
        }
        let (high, low) = (precision >> 4, precision & 15);
        let is_band = match first {
            0 => last == 0,
            _ => first <= last && last < 64 && count == 1,
        };
        if frame.progressive && (!is_band || low > 13 || high != 0 && high != low + 1) {
            return Err(Broken("a scan that makes no progression"));
        }
        let band = if frame.progressive { [first, last, precision] } else { [0, 63, 0] };
        let scan = Self { components, band };
        for (kind, number) in scan.tables(frame.progressive) {
            match reader.huffman[kind].get(number) {
                Some(Some(table)) if !is_huffman_code(table, kind == 0) => {
                    return Err(Broken("a Huffman table that is not a code"));
                }
                Some(Some(_)) => {}
                // The tables of the standard take their place.
                Some(None) if !frame.progressive && number < 2 => {}
                _ => return Err(Broken("no Huffman table")),
            }
        }
        Ok(scan)
    }

    /// The Huffman tables it needs: kind, DC or AC, and number.
    pub fn tables(&self, progressive: bool) -> Vec<(usize, usize)> {
        let [first, _, precision] = self.band;
        let is_needed = match progressive {
            false => [true, true],
            true => [first == 0 && precision >> 4 == 0, first != 0],
        };
        let tables = |&(_, tables): &(usize, u8)| {
            [(0, usize::from(tables >> 4)), (1, usize::from(tables & 15))]
        };
        let tables = self.components.iter().flat_map(tables);
        tables.filter(|&(kind, _)| is_needed[kind]).collect()
    }
}

/// Whether libjpeg can build the codes.
fn is_huffman_code(table: &[u8], dc: bool) -> bool {
    let (counts, symbols) = table.split_at(16);
    let mut free = 1;
    let mut fits = |&count: &u8| {
        free = free * 2 - i32::from(count);
        // No code is all ones.
        free > 0
    };
    counts.iter().all(&mut fits) && (!dc || symbols.iter().all(|&symbol| symbol < 16))
}

/// The marker segments of a file from a place on, and the tables they define.
pub(super) struct Reader<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
    /// A marker that was read and not yet acted on.
    pub pending: Option<u8>,
    pub quantization: [Option<[u16; 64]>; 4],
    /// By kind, DC and AC: counts of the code lengths and the symbols, as in the file.
    pub huffman: [[Option<&'a [u8]>; 4]; 2],
    pub restart_interval: usize,
}

/// What comes next in a file, tables apart.
pub(super) enum Next<'a> {
    /// A segment of an application or a comment.
    Segment(u8, &'a [u8]),
    Frame(Frame),
    /// The data of a scan's header.
    Scan(&'a [u8]),
    End,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            // Behind the mark of the image's start.
            at: 2,
            pending: None,
            quantization: [None; 4],
            huffman: [[None; 4]; 2],
            restart_interval: 0,
        }
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        Ok(self.take(1)?[0])
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let taken = self.bytes.get(self.at..).and_then(|rest| rest.get(..count)).ok_or(Cut)?;
        self.at += count;
        Ok(taken)
    }

    /// The data of a segment, which stand behind their length.
    fn data(&mut self) -> Result<&'a [u8], Fault> {
        let length = self.take(2)?;
        self.take(usize::from(u16::from_be_bytes([length[0], length[1]])).saturating_sub(2))
    }

    /// The next marker, past whatever stands before it.
    fn marker(&mut self) -> Result<u8, Fault> {
        if let Some(marker) = self.pending.take() {
            return Ok(marker);
        }
        loop {
            while self.byte()? != 0xFF {}
            match self.after_ff()? {
                0 => {}
                marker => return Ok(marker),
            }
        }
    }

    /// The byte behind 0xFF and its repetitions.
    fn after_ff(&mut self) -> Result<u8, Fault> {
        loop {
            match self.byte()? {
                0xFF => {}
                byte => return Ok(byte),
            }
        }
    }

    pub fn next(&mut self) -> Result<Next<'a>, Fault> {
        loop {
            match self.marker()? {
                kind @ 0xC0..=0xC2 => {
                    return Ok(Next::Frame(Frame::new(self.data()?, kind == 0xC2)?));
                }
                0xC3 => return Err(Unsupported("lossless coding")),
                0xC5..=0xC7 => return Err(Unsupported("hierarchical coding")),
                0xC9..=0xCB | 0xCD..=0xCF => return Err(Unsupported("arithmetic coding")),
                HUFFMAN_TABLES => self.define_huffman()?,
                QUANTIZATION_TABLES => self.define_quantization()?,
                RESTART_INTERVAL => match *self.data()? {
                    [high, low] => {
                        self.restart_interval = usize::from(u16::from_be_bytes([high, low]));
                    }
                    _ => return Err(Broken("a restart interval of the wrong length")),
                },
                // Conditions of arithmetic coding and a number of lines play no part.
                0xCC | 0xDC => drop(self.data()?),
                0x01 | RESTART_0..=RESTART_7 => {}
                kind @ (0xE0..=0xEF | 0xFE) => return Ok(Next::Segment(kind, self.data()?)),
                START_OF_SCAN => return Ok(Next::Scan(self.data()?)),
                END_OF_IMAGE => return Ok(Next::End),
                START_OF_IMAGE => return Err(Broken("a second image before the end")),
                _ => return Err(Broken("a marker without a meaning")),
            }
        }
    }

    fn define_quantization(&mut self) -> Result<(), Fault> {
        let mut data = self.data()?;
        while let Some((&number, rest)) = data.split_first() {
            let bytes = if number >> 4 == 0 { 1 } else { 2 };
            let target = self.quantization.get_mut(usize::from(number & 15));
            let target = target.ok_or(Broken("a quantization table of no number"))?;
            let split = rest.split_at_checked(64 * bytes);
            let (values, rest) = split.ok_or(Broken("half a quantization table"))?;
            for (value, bytes) in target.insert([0; 64]).iter_mut().zip(values.chunks_exact(bytes))
            {
                *value = bytes.iter().fold(0, |value, &byte| value << 8 | u16::from(byte));
            }
            data = rest;
        }
        Ok(())
    }

    fn define_huffman(&mut self) -> Result<(), Fault> {
        let mut data = self.data()?;
        while let Some((&[number, ref counts @ ..], _)) = data.split_first_chunk::<17>() {
            let symbols = counts.iter().map(|&count| usize::from(count)).sum::<usize>();
            let split = data[1..].split_at_checked(16 + symbols).filter(|_| symbols <= 256);
            let (table, rest) = split.ok_or(Broken("a Huffman table with too many symbols"))?;
            let (kind, number) = (usize::from(number >> 4 & 1), usize::from(number & 0xEF));
            let target = self.huffman[kind].get_mut(number);
            *target.ok_or(Broken("a Huffman table of no number"))? = Some(table);
            data = rest;
        }
        if data.is_empty() { Ok(()) } else { Err(Broken("half a Huffman table")) }
    }

    /// The next scan; none at the end.
    pub fn next_scan(&mut self, frame: &mut Frame) -> Result<Option<Scan>, Fault> {
        loop {
            match self.next()? {
                Next::Segment(..) => {}
                Next::Frame(_) => return Err(Broken("a second frame")),
                Next::Scan(data) => return Scan::new(data, frame, self).map(Some),
                Next::End => return Ok(None),
            }
        }
    }

    /// Copies the data of a scan up to the next marker, which is then pending.
    pub fn copy_data(&mut self, to: &mut Vec<u8>) -> Result<(), Fault> {
        loop {
            let rest = self.bytes.get(self.at..).ok_or(Cut)?;
            let length = rest.iter().position(|&byte| byte == 0xFF).unwrap_or(rest.len());
            to.extend(&rest[..length]);
            self.at += length + 1;
            match self.after_ff()? {
                0 => to.extend([0xFF, 0]),
                marker => {
                    self.pending = Some(marker);
                    return Ok(());
                }
            }
        }
    }

    /// Passes the restart marker of this number, in the way of libjpeg's `jpeg_resync_to_restart`.
    /// A marker that stays pending leaves no data behind the restart.
    pub fn restart(&mut self, number: u8) -> Result<(), Fault> {
        loop {
            match self.marker()? {
                marker @ RESTART_0..=RESTART_7 => {
                    match (marker - RESTART_0).wrapping_sub(number) & 7 {
                        1 | 2 => self.pending = Some(marker),
                        // One of those before.
                        6 | 7 => continue,
                        _ => {}
                    }
                }
                marker @ 0xC0.. => self.pending = Some(marker),
                _ => continue,
            }
            return Ok(());
        }
    }
}
