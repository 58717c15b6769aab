//! Writing Python's pickles: the few instructions that dictionaries of tensors need.
//!
//! A pickle is a program for a stack machine: values are pushed, [`Op`]s take them off and push what they make of them.

use std::io::{Result, Write};

/// An instruction without an operand.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Op {
    /// Marks where the parts of a tuple or a dictionary begin.
    Mark = b'(',
    /// Everything down to the mark → a tuple.
    Tuple = b't',
    /// → an empty dictionary.
    EmptyDict = b'}',
    /// A dictionary, a mark, keys and values by turns → the dictionary with these.
    SetItems = b'u',
    /// A callable, a tuple of arguments → what it returns.
    Reduce = b'R',
    /// An object, its state → the object in that state.
    Build = b'b',
    /// An identifier → what the reader knows by it.
    Persistent = b'Q',
    /// → `None`.
    None = b'N',
    /// → `True`.
    True = 0x88,
    /// → `False`.
    False = 0x89,
    /// Ends the program; the value on the stack is its result.
    Stop = b'.',
}

/// A pickle being written.
pub(super) struct Pickle<W> {
    out: W,
}

impl<W: Write> Pickle<W> {
    /// Begins a pickle. Protocol 2 is PyTorch's; bytes need 3.
    pub fn new(mut out: W, protocol: u8) -> Result<Self> {
        out.write_all(&[0x80, protocol])?;
        Ok(Self { out })
    }

    /// Instructions, one after the other.
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

    /// Pushes a whole number.
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

    /// Pushes a tuple of whole numbers.
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
        u32::try_from(bytes.len()).map_err(|_| std::io::Error::other("over 4 GiB in one piece"))?;
    Ok(length.to_le_bytes())
}
