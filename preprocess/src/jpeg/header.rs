//! What stands before the scan: sizes, quantization and Huffman codes (ITU T.81, annex B).

use super::entropy::HuffmanTable;

const MARKER: u8 = 0xFF;
const START_OF_IMAGE: u8 = 0xD8;
const START_OF_FRAME: u8 = 0xC0;
const HUFFMAN_TABLES: u8 = 0xC4;
const START_OF_SCAN: u8 = 0xDA;
const QUANTIZATION_TABLES: u8 = 0xDB;
const JFIF: u8 = 0xE0;

/// How a component is coded.
pub(super) struct Component<'a> {
    /// By coefficient, in zigzag order.
    pub quantization: &'a [i32; 64],
    pub dc: &'a HuffmanTable,
    pub ac: &'a HuffmanTable,
}

/// A picture of three components of full resolution: brightness, blue and red difference.
pub(super) struct Header<'a> {
    tables: Tables,
    /// Of each component its name, and its two Huffman tables in four bits each.
    codes: [[u8; 2]; 3],
    /// The coded blocks and the marker that ends them.
    pub scan: &'a [u8],
}

/// What the segments told.
#[derive(Default)]
struct Tables {
    quantization: [Option<[i32; 64]>; 4],
    /// First those of DC, then those of AC.
    huffman: [[Option<Box<HuffmanTable>>; 4]; 2],
    /// Of each component its name and its quantization table.
    frame: Option<[(u8, usize); 3]>,
}

impl<'a> Header<'a> {
    /// `None` for pictures of another kind or size.
    pub fn read(file: &'a [u8], width: usize, height: usize) -> Option<Self> {
        let mut rest = file.strip_prefix(&[MARKER, START_OF_IMAGE])?;
        let mut tables = Tables::default();
        loop {
            let (&[mark, kind, high, low], _) = rest.split_first_chunk()?;
            let length = usize::from(u16::from_be_bytes([high, low]));
            let (segment, after) = rest.get(2..)?.split_at_checked(length)?;
            let content = segment.get(2..)?;
            rest = after;
            match kind {
                _ if mark != MARKER => return None,
                JFIF => {}
                QUANTIZATION_TABLES => tables.read_quantization(content)?,
                HUFFMAN_TABLES => tables.read_huffman(content)?,
                START_OF_FRAME => tables.read_frame(content, width, height)?,
                START_OF_SCAN => {
                    return Some(Self { tables, codes: codes(content)?, scan: rest });
                }
                // Another coding, restarts, or a mark that changes the meaning of colors.
                _ => return None,
            }
        }
    }

    /// The components with the tables they name; `None` where they name others than there are.
    pub fn components(&self) -> Option<[Component<'_>; 3]> {
        let Tables { quantization, huffman: [dc, ac], frame } = &self.tables;
        let mut found = frame.as_ref()?.iter().zip(self.codes).map(|((name, steps), [named, codes])| {
            (*name == named).then_some(Component {
                quantization: quantization.get(*steps)?.as_ref()?,
                dc: dc.get(usize::from(codes >> 4))?.as_ref()?,
                ac: ac.get(usize::from(codes & 15))?.as_ref()?,
            })
        });
        Some([found.next()??, found.next()??, found.next()??])
    }
}

/// Of each component its name and its codes, from the header of a scan of all three with all 64 coefficients and all bits.
fn codes(content: &[u8]) -> Option<[[u8; 2]; 3]> {
    let &[3, ref components @ .., 0, 63, 0] = content else { return None };
    let (components, []) = components.as_chunks() else { return None };
    components.first_chunk().copied()
}

impl Tables {
    fn read_quantization(&mut self, content: &[u8]) -> Option<()> {
        let (tables, rest) = content.as_chunks::<65>();
        for [place, steps @ ..] in tables {
            // A place of 16 and more: steps of two bytes each.
            *self.quantization.get_mut(usize::from(*place))? = Some(steps.map(i32::from));
        }
        rest.is_empty().then_some(())
    }

    fn read_huffman(&mut self, mut content: &[u8]) -> Option<()> {
        while let Some((&place, rest)) = content.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>()?;
            let symbols = counts.iter().map(|count| usize::from(*count)).sum();
            let (symbols, rest) = rest.split_at_checked(symbols)?;
            let class = self.huffman.get_mut(usize::from(place >> 4))?;
            *class.get_mut(usize::from(place & 15))? = Some(HuffmanTable::new(counts, symbols)?);
            content = rest;
        }
        Some(())
    }

    fn read_frame(&mut self, content: &[u8], width: usize, height: usize) -> Option<()> {
        const FULL_RESOLUTION: u8 = 0x11;
        let (&[bits, h1, h0, w1, w0, 3], components) = content.split_first_chunk()? else {
            return None;
        };
        let found = [[w1, w0], [h1, h0]].map(|side| usize::from(u16::from_be_bytes(side)));
        let (components, []) = components.as_chunks::<3>() else { return None };
        let components: &[_; 3] = components.first_chunk()?;
        let full = components.iter().all(|component| component[1] == FULL_RESOLUTION);
        self.frame = Some(components.map(|[name, _, table]| (name, usize::from(table))));
        (bits == 8 && found == [width, height] && full).then_some(())
    }
}
