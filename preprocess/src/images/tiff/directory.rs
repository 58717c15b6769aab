//! The first directory of a TIFF or BigTIFF: its tags and their values, none of which is copied.

use crate::images::rgb_image::Unreadable;

/// Whether a file is a BigTIFF.
pub(in crate::images) fn is_big(bytes: &[u8]) -> bool {
    bytes.starts_with(b"II+\0") || bytes.starts_with(b"MM\0+")
}

/// The first directory of a file.
#[derive(Clone, Copy)]
pub(super) struct Directory<'a> {
    pub bytes: &'a [u8],
    /// Whether the lowest byte of a number comes first.
    pub little: bool,
    is_big: bool,
    /// Where the entries begin.
    start: usize,
    entries: usize,
}

/// A tag's values.
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    directory: Directory<'a>,
    /// Bytes of a value.
    width: usize,
    pub count: usize,
    at: usize,
}

impl<'a> Directory<'a> {
    pub fn open(bytes: &'a [u8]) -> Result<Self, Unreadable> {
        let (little, is_big) = (bytes.starts_with(b"II"), is_big(bytes));
        let mut directory = Self { bytes, little, is_big, start: 0, entries: 0 };
        let [place, bytes_of_count] = if is_big { [8, 8] } else { [4, 2] };
        let start = directory.number_at(place, place).ok_or_else(cut)? as usize;
        let entries = directory.number_at(start, bytes_of_count).ok_or_else(cut)?;
        directory.start = start + bytes_of_count;
        directory.entries = usize::try_from(entries)
            .ok()
            .filter(|&entries| entries <= (bytes.len() - directory.start) / directory.entry_bytes())
            .ok_or_else(cut)?;
        Ok(directory)
    }

    fn entry_bytes(&self) -> usize {
        if self.is_big { 20 } else { 12 }
    }

    /// The number of so many bytes at a place of the file.
    fn number_at(&self, at: usize, width: usize) -> Option<u64> {
        let bytes = self.bytes.get(at..at.checked_add(width)?)?;
        let add = |number: u64, &byte: &u8| number << 8 | u64::from(byte);
        Some(match self.little {
            true => bytes.iter().rev().fold(0, add),
            false => bytes.iter().fold(0, add),
        })
    }

    /// A tag; `None` if the directory has none of this number.
    pub fn field(&self, tag: u16) -> Result<Option<Field<'a>>, Unreadable> {
        let mut places = (0..self.entries).map(|entry| self.start + entry * self.entry_bytes());
        let Some(at) = places.find(|&at| self.number_at(at, 2) == Some(tag.into())) else {
            return Ok(None);
        };
        let room = if self.is_big { 8 } else { 4 };
        let number = |at, width| self.number_at(at, width).ok_or_else(cut);
        let width = match number(at + 2, 2)? {
            3 | 8 => 2,
            4 | 9 | 11 | 13 => 4,
            5 | 10 | 12 | 16..=18 => 8,
            _ => 1,
        };
        let count = number(at + 4, room)?;
        let bytes = usize::try_from(count).ok().and_then(|count| count.checked_mul(width));
        let Some(bytes) = bytes.filter(|&bytes| bytes <= self.bytes.len()) else {
            return Err(Unreadable(format!("TIFF: tag {tag} promises more than the file has")));
        };
        let inside = at + 4 + room;
        let at = if bytes <= room { inside } else { number(inside, room)? as usize };
        if at.checked_add(bytes).is_none_or(|end| end > self.bytes.len()) {
            return Err(cut());
        }
        Ok(Some(Field { directory: *self, width, count: count as usize, at }))
    }

    /// The first value of a tag.
    pub fn number(&self, tag: u16) -> Result<Option<u64>, Unreadable> {
        Ok(self.field(tag)?.and_then(|field| field.get(0)))
    }

    /// The value that all of a tag's are.
    pub fn same(&self, tag: u16) -> Result<Option<u64>, Unreadable> {
        let Some(field) = self.field(tag)? else { return Ok(None) };
        let first = field.get(0);
        if (1..field.count).any(|index| field.get(index) != first) {
            return Err(Unreadable::because("TIFF: samples of several kinds are not supported"));
        }
        Ok(first)
    }
}

impl<'a> Field<'a> {
    /// A value as a number without a sign.
    pub fn get(&self, index: usize) -> Option<u64> {
        let inside = index < self.count;
        inside.then(|| self.directory.number_at(self.at + index * self.width, self.width)).flatten()
    }

    /// All values, undecoded.
    pub fn bytes(&self) -> &'a [u8] {
        &self.directory.bytes[self.at..][..self.count * self.width]
    }
}

pub(super) fn cut() -> Unreadable {
    Unreadable::because("TIFF: the file ends too soon")
}
