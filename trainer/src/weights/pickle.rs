//! Writing Python's pickles: the few opcodes that dictionaries of tensors need.
//!
//! A pickle is a program for a stack machine: opcodes push values, or pop them and push a result.

use std::io::{Result, Write};

/// An opcode without an operand. The comments show what it pops → pushes.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Op {
    /// Marks where the items of a tuple or a dictionary begin.
    Mark = b'(',
    /// All values down to the mark → a tuple.
    Tuple = b't',
    /// → an empty dictionary.
    EmptyDict = b'}',
    /// A dictionary, a mark, pairs of key and value → the dictionary with these.
    SetItems = b'u',
    /// A callable, a tuple of arguments → the returned value.
    Reduce = b'R',
    /// An object, its state → the object in that state.
    Build = b'b',
    /// An identifier → the reader's object with this identifier.
    Persistent = b'Q',
    /// → `None`.
    None = b'N',
    /// → `True`.
    True = 0x88,
    /// → `False`.
    False = 0x89,
    /// The result → nothing; ends the program.
    Stop = b'.',
}

/// A pickle being written.
pub(super) struct Pickle<W> {
    out: W,
}

impl<W: Write> Pickle<W> {
    /// Begins a pickle. PyTorch uses protocol 2; bytes need 3.
    pub fn new(mut out: W, protocol: u8) -> Result<Self> {
        out.write_all(&[0x80, protocol])?;
        Ok(Self { out })
    }

    /// Writes opcodes.
    pub fn ops(&mut self, ops: &[Op]) -> Result<()> {
        ops.iter().try_for_each(|op| self.out.write_all(&[*op as u8]))
    }

    /// Pushes `module.name`.
    pub fn global(&mut self, module: &str, name: &str) -> Result<()> {
        write!(self.out, "c{module}\n{name}\n")
    }

    /// Pushes a string.
    pub fn text(&mut self, text: &str) -> Result<()> {
        self.out.write_all(b"X")?;
        self.out.write_all(&length(text.as_bytes())?)?;
        self.out.write_all(text.as_bytes())
    }

    /// Pushes bytes (protocol 3).
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(b"B")?;
        self.out.write_all(&length(bytes)?)?;
        self.out.write_all(bytes)
    }

    /// Pushes an integer.
    pub fn int(&mut self, value: i64) -> Result<()> {
        match i32::try_from(value) {
            Ok(value) => {
                self.out.write_all(b"J")?;
                self.out.write_all(&value.to_le_bytes())
            }
            Err(_) => {
                self.out.write_all(&[0x8a, 8])?;
                self.out.write_all(&value.to_le_bytes())
            }
        }
    }

    /// Pushes a tuple of integers.
    pub fn ints(&mut self, values: &[usize]) -> Result<()> {
        self.ops(&[Op::Mark])?;
        values.iter().try_for_each(|value| self.int(*value as i64))?;
        self.ops(&[Op::Tuple])
    }

    /// Ends the pickle.
    pub fn finish(mut self) -> Result<W> {
        self.ops(&[Op::Stop])?;
        Ok(self.out)
    }
}

fn length(bytes: &[u8]) -> Result<[u8; 4]> {
    let length =
        u32::try_from(bytes.len()).map_err(|_| std::io::Error::other("over 4 GiB in a value"))?;
    Ok(length.to_le_bytes())
}
