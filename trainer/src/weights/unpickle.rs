//! Reading Python's pickles as data: the opcodes of all protocols, without calling anything.
//!
//! A pickle is a program for a stack machine ([`super::pickle`] writes some). Here the values lie in
//! one list and refer to each other by their number, so that a value which is used a thousand times
//! costs no more than one, and a file can neither make a cycle of owners nor grow without end: each
//! opcode adds one value at most. Strings and bytes stay where they are in the file.

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

/// The number of a value.
pub(super) type Id = usize;

/// A value of Python.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// `None`, floats, sets: what no tensor is made of.
    Other,
    Bool(bool),
    Int(i64),
    /// A string: UTF-8 in this range of the file.
    Text(Range<usize>),
    /// Bytes, or a string of Python 2, in this range of the file.
    Bytes(Range<usize>),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A class or function: module and name.
    Global(String, String),
    /// What a call returns, its state, and what it contains if it is a kind of dictionary.
    Call {
        callable: Id,
        args: Id,
        state: Option<Id>,
        items: Vec<(Id, Id)>,
    },
    /// An object of the reader's, such as a storage of PyTorch's.
    Persistent(Id),
}

/// A pickle that has been read.
pub(super) struct Pickled {
    bytes: Rc<Vec<u8>>,
    values: Vec<Value>,
    root: Id,
}

impl Pickled {
    /// Reads the pickle that begins at `start`; returns its end as well.
    ///
    /// # Errors
    /// In a few words if the pickle is damaged.
    pub fn read(bytes: Rc<Vec<u8>>, start: usize) -> Result<(Self, usize), String> {
        let mut machine = Machine { bytes, at: start, ..Machine::default() };
        loop {
            let opcode_at = machine.at;
            match machine.step() {
                Ok(None) => {}
                Ok(Some(root)) => {
                    let Machine { bytes, at, values, .. } = machine;
                    return Ok((Self { bytes, values, root }, at));
                }
                Err(reason) => return Err(format!("{reason} at byte {opcode_at}")),
            }
        }
    }

    /// What the program returned.
    pub fn root(&self) -> Id {
        self.root
    }

    pub fn get(&self, id: Id) -> &Value {
        &self.values[id]
    }

    /// All values in the order in which they were made.
    pub fn values(&self) -> impl Iterator<Item = &Value> {
        self.values.iter()
    }

    /// A string, of Python 2 as well.
    pub fn text(&self, id: Id) -> Option<&str> {
        self.text_of(self.get(id))
    }

    pub fn text_of(&self, value: &Value) -> Option<&str> {
        match value {
            Value::Text(range) | Value::Bytes(range) => {
                str::from_utf8(&self.bytes[range.clone()]).ok()
            }
            _ => None,
        }
    }

    pub fn is_text(&self, id: Id, text: &str) -> bool {
        self.text(id) == Some(text)
    }

    /// Bytes, also if they were written by protocol 2, as a call that encodes a string of as many
    /// characters.
    pub fn bytes(&self, id: Id) -> Option<Vec<u8>> {
        match self.get(id) {
            Value::Bytes(range) => Some(self.bytes[range.clone()].to_vec()),
            // Bytes that were read with encoding="latin1" and written again.
            Value::Text(range) => latin1(str::from_utf8(&self.bytes[range.clone()]).ok()?),
            Value::Call { callable, args, .. } => {
                let encode = self.global(*callable)? == ("_codecs", "encode");
                let Value::Tuple(args) = self.get(*args) else { return None };
                match args.as_slice() {
                    [text, encoding] if encode && self.is_text(*encoding, "latin1") => {
                        latin1(self.text(*text)?)
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// The items of a dictionary or of an object that is a kind of one.
    pub fn items(&self, id: Id) -> Option<&[(Id, Id)]> {
        match self.get(id) {
            Value::Dict(items) => Some(items),
            Value::Call { items, .. } if !items.is_empty() => Some(items),
            _ => None,
        }
    }

    /// The value of a string key.
    pub fn item(&self, id: Id, key: &str) -> Option<Id> {
        let mut items = self.items(id)?.iter();
        items.find(|(found, _)| self.is_text(*found, key)).map(|(_, value)| *value)
    }

    pub fn tuple(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::Tuple(parts) => Some(parts),
            _ => None,
        }
    }

    /// The module and name of a class or function.
    pub fn global(&self, id: Id) -> Option<(&str, &str)> {
        match self.get(id) {
            Value::Global(module, name) => Some((module, name)),
            _ => None,
        }
    }

    /// An integer that is not negative.
    pub fn size(&self, id: Id) -> Option<usize> {
        match self.get(id) {
            Value::Int(value) => (*value).try_into().ok(),
            _ => None,
        }
    }

    /// A tuple of such integers.
    pub fn sizes(&self, id: Id) -> Option<Vec<usize>> {
        self.tuple(id)?.iter().map(|part| self.size(*part)).collect()
    }
}

/// The characters of a string as one byte each.
fn latin1(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|character| u8::try_from(character as u32).ok()).collect()
}

/// The machine in the middle of a program.
#[derive(Default)]
struct Machine {
    bytes: Rc<Vec<u8>>,
    at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    /// The heights of the stack at the marks that are open.
    marks: Vec<usize>,
    memo: HashMap<usize, Id>,
}

type Step<T> = Result<T, &'static str>;

const CUT_OFF: &str = "cut off";
const UNDERFLOW: &str = "too few values on the stack";

impl Machine {
    /// Executes an opcode; returns the result after the last one.
    fn step(&mut self) -> Step<Option<Id>> {
        match self.number(1)? as u8 {
            // PROTO and FRAME: nothing to know.
            0x80 => self.skip(1)?,
            0x95 => self.skip(8)?,
            b'(' => self.marks.push(self.stack.len()),
            b'.' => return self.pop().map(Some),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.above_mark()?),
            b'2' => {
                let top = *self.stack.last().ok_or(UNDERFLOW)?;
                self.stack.push(top);
            }
            b'N' => self.push(Value::Other),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'I' => match self.line()? {
                "00" => self.push(Value::Bool(false)),
                "01" => self.push(Value::Bool(true)),
                digits => {
                    let value = integer(digits)?;
                    self.push(value);
                }
            },
            b'L' => {
                let value = integer(self.line()?.trim_end_matches('L'))?;
                self.push(value);
            }
            b'J' => {
                let value = self.number(4)? as u32 as i32;
                self.push(Value::Int(value.into()));
            }
            b'K' => self.unsigned(1)?,
            b'M' => self.unsigned(2)?,
            0x8a => self.long(1)?,
            0x8b => self.long(4)?,
            b'F' => {
                self.line()?;
                self.push(Value::Other);
            }
            b'G' => {
                self.skip(8)?;
                self.push(Value::Other);
            }
            // Strings of Python 2; those of protocol 0 are in quotes and have escapes.
            b'S' => {
                let (start, length) = (self.at, self.line()?.len());
                let quoted = start + 1..(start + length).saturating_sub(1).max(start + 1);
                if length < 2 || self.bytes[quoted.clone()].contains(&b'\\') {
                    self.push(Value::Other);
                } else {
                    self.push(Value::Bytes(quoted));
                }
            }
            b'V' => {
                let (start, length) = (self.at, self.line()?.len());
                self.push(Value::Text(start..start + length));
            }
            b'U' | b'C' => self.counted(1, Value::Bytes)?,
            b'T' | b'B' => self.counted(4, Value::Bytes)?,
            0x8e | 0x96 => self.counted(8, Value::Bytes)?,
            0x8c => self.counted(1, Value::Text)?,
            b'X' => self.counted(4, Value::Text)?,
            0x8d => self.counted(8, Value::Text)?,
            b')' => self.push(Value::Tuple(Vec::new())),
            b']' => self.push(Value::List(Vec::new())),
            b'}' => self.push(Value::Dict(Vec::new())),
            0x8f => self.push(Value::Other),
            b't' => {
                let parts = self.above_mark()?;
                self.push(Value::Tuple(parts));
            }
            count @ 0x85..=0x87 => {
                let start = self.height_below(usize::from(count - 0x84))?;
                let parts = self.stack.split_off(start);
                self.push(Value::Tuple(parts));
            }
            b'l' => {
                let parts = self.above_mark()?;
                self.push(Value::List(parts));
            }
            b'd' => {
                let items = pairs(&self.above_mark()?)?;
                self.push(Value::Dict(items));
            }
            // A frozen set.
            0x91 => {
                self.above_mark()?;
                self.push(Value::Other);
            }
            b'a' => {
                let part = self.pop()?;
                self.append(&[part])?;
            }
            b'e' => {
                let parts = self.above_mark()?;
                self.append(&parts)?;
            }
            // Into a set.
            0x90 => drop(self.above_mark()?),
            b's' => {
                let start = self.height_below(2)?;
                let pair = self.stack.split_off(start);
                self.set_items(&pair)?;
            }
            b'u' => {
                let items = self.above_mark()?;
                self.set_items(&items)?;
            }
            b'c' => {
                let module = self.line()?.to_owned();
                let name = self.line()?.to_owned();
                self.push(Value::Global(module, name));
            }
            // STACK_GLOBAL
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let global = Value::Global(self.text(module)?, self.text(name)?);
                self.push(global);
            }
            // REDUCE, NEWOBJ
            b'R' | 0x81 => {
                let (args, callable) = (self.pop()?, self.pop()?);
                self.call(callable, args);
            }
            // NEWOBJ_EX; the named arguments of no tensor matter.
            0x92 => {
                let (_, args, callable) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(callable, args);
            }
            // OBJ and INST, calls of protocol 0 and 1.
            b'o' => {
                let mut parts = self.above_mark()?.into_iter();
                let callable = parts.next().ok_or(UNDERFLOW)?;
                let args = self.add(Value::Tuple(parts.collect()));
                self.call(callable, args);
            }
            b'i' => {
                let module = self.line()?.to_owned();
                let name = self.line()?.to_owned();
                let parts = self.above_mark()?;
                let callable = self.add(Value::Global(module, name));
                let args = self.add(Value::Tuple(parts));
                self.call(callable, args);
            }
            b'b' => {
                let new = self.pop()?;
                if let Value::Call { state, .. } = self.top()? {
                    *state = Some(new);
                }
            }
            b'P' => {
                let (start, length) = (self.at, self.line()?.len());
                let id = self.add(Value::Text(start..start + length));
                self.push(Value::Persistent(id));
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Value::Persistent(id));
            }
            b'p' => {
                let index = self.line()?.parse().map_err(|_| "no number")?;
                self.memorize(index)?;
            }
            b'q' => self.put(1)?,
            b'r' => self.put(4)?,
            0x94 => self.memorize(self.memo.len())?,
            b'g' => {
                let index = self.line()?.parse().map_err(|_| "no number")?;
                self.recall(index)?;
            }
            b'h' => self.get(1)?,
            b'j' => self.get(4)?,
            _ => return Err("an opcode that no file of weights has"),
        }
        Ok(None)
    }

    fn add(&mut self, value: Value) -> Id {
        self.values.push(value);
        self.values.len() - 1
    }

    fn push(&mut self, value: Value) {
        let id = self.add(value);
        self.stack.push(id);
    }

    /// The lowest height of the stack from here on: what is below a mark stays.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Step<Id> {
        match self.stack.len() > self.floor() {
            true => self.stack.pop().ok_or(UNDERFLOW),
            false => Err(UNDERFLOW),
        }
    }

    /// The value at the top of the stack.
    fn top(&mut self) -> Step<&mut Value> {
        let id = *self.stack.last().ok_or(UNDERFLOW)?;
        Ok(&mut self.values[id])
    }

    /// The height of the stack without its last `count` values.
    fn height_below(&self, count: usize) -> Step<usize> {
        let height = self.stack.len().checked_sub(count).ok_or(UNDERFLOW)?;
        if height < self.floor() { Err(UNDERFLOW) } else { Ok(height) }
    }

    /// Pops all values down to the last mark.
    fn above_mark(&mut self) -> Step<Vec<Id>> {
        let height = self.marks.pop().ok_or("a mark is missing")?;
        Ok(self.stack.split_off(height))
    }

    fn append(&mut self, new: &[Id]) -> Step<()> {
        // To another object than a list: a set, an array.
        if let Value::List(parts) = self.top()? {
            parts.extend_from_slice(new);
        }
        Ok(())
    }

    fn set_items(&mut self, new: &[Id]) -> Step<()> {
        let new = pairs(new)?;
        match self.top()? {
            Value::Dict(items) | Value::Call { items, .. } => items.extend(new),
            _ => return Err("items for what is no dictionary"),
        }
        Ok(())
    }

    fn call(&mut self, callable: Id, args: Id) {
        let items = self.items_of_python_2(callable, args).unwrap_or_default();
        self.push(Value::Call { callable, args, state: None, items });
    }

    /// Python 2 writes an `OrderedDict` as a call with a list of lists of key and value.
    fn items_of_python_2(&self, callable: Id, args: Id) -> Option<Vec<(Id, Id)>> {
        let (Value::Global(_, name), Value::Tuple(args)) =
            (&self.values[callable], &self.values[args])
        else {
            return None;
        };
        let Value::List(items) = &self.values[*args.first().filter(|_| name == "OrderedDict")?]
        else {
            return None;
        };
        let pair = |item: &Id| match &self.values[*item] {
            Value::List(pair) | Value::Tuple(pair) if pair.len() == 2 => Some((pair[0], pair[1])),
            _ => None,
        };
        items.iter().map(pair).collect()
    }

    fn memorize(&mut self, index: usize) -> Step<()> {
        let top = *self.stack.last().ok_or(UNDERFLOW)?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn recall(&mut self, index: usize) -> Step<()> {
        let id = *self.memo.get(&index).ok_or("a value that was not memorized")?;
        self.stack.push(id);
        Ok(())
    }

    fn put(&mut self, width: usize) -> Step<()> {
        let index = self.number(width)? as usize;
        self.memorize(index)
    }

    fn get(&mut self, width: usize) -> Step<()> {
        let index = self.number(width)? as usize;
        self.recall(index)
    }

    /// The next `length` bytes.
    fn range(&mut self, length: usize) -> Step<Range<usize>> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let range = self.at..end.ok_or(CUT_OFF)?;
        self.at = range.end;
        Ok(range)
    }

    fn skip(&mut self, length: usize) -> Step<()> {
        self.range(length).map(|_| ())
    }

    /// A little-endian number of up to eight bytes.
    fn number(&mut self, width: usize) -> Step<u64> {
        let range = self.range(width)?;
        Ok(self.bytes[range].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn unsigned(&mut self, width: usize) -> Step<()> {
        let value = self.number(width)? as i64;
        self.push(Value::Int(value));
        Ok(())
    }

    /// An integer of any length, whose length is a number of `width` bytes.
    fn long(&mut self, width: usize) -> Step<()> {
        let length = self.number(width)? as usize;
        let range = self.range(length)?;
        let negative = self.bytes[range.clone()].last().is_some_and(|byte| byte & 0x80 != 0);
        let start = if negative { -1 } else { 0 };
        let bytes = self.bytes[range].iter().rev();
        // PyTorch's magic number is longer.
        let value = match length <= 8 {
            true => Value::Int(bytes.fold(start, |value, byte| value << 8 | i64::from(*byte))),
            false => Value::Other,
        };
        self.push(value);
        Ok(())
    }

    /// Bytes or a string behind their length of `width` bytes.
    fn counted(&mut self, width: usize, kind: fn(Range<usize>) -> Value) -> Step<()> {
        let length = self.number(width)?.try_into().map_err(|_| CUT_OFF)?;
        let range = self.range(length)?;
        self.push(kind(range));
        Ok(())
    }

    /// The text up to the next line feed.
    fn line(&mut self) -> Step<&str> {
        let start = self.at;
        let length = self.bytes[start..].iter().position(|byte| *byte == b'\n').ok_or(CUT_OFF)?;
        self.at += length + 1;
        str::from_utf8(&self.bytes[start..start + length]).map_err(|_| "no text")
    }

    fn text(&self, id: Id) -> Step<String> {
        match &self.values[id] {
            Value::Text(range) | Value::Bytes(range) => {
                let text = str::from_utf8(&self.bytes[range.clone()]).map_err(|_| "no text")?;
                Ok(text.to_owned())
            }
            _ => Err("no text"),
        }
    }
}

/// An integer in decimal digits; a very large one is of no use.
fn integer(digits: &str) -> Step<Value> {
    Ok(digits.parse().map_or(Value::Other, Value::Int))
}

fn pairs(items: &[Id]) -> Step<Vec<(Id, Id)>> {
    match items.as_chunks::<2>() {
        (pairs, []) => Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect()),
        _ => Err("a key without a value"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(program: &[u8]) -> Result<Pickled, String> {
        Pickled::read(Rc::new(program.to_vec()), 0).map(|(pickled, end)| {
            assert_eq!(end, program.len());
            pickled
        })
    }

    #[test]
    fn numbers_are_those_that_python_wrote() {
        for (program, expected) in [
            (&b"I-7\n."[..], Value::Int(-7)),
            (b"I01\n.", Value::Bool(true)),
            (b"L123L\n.", Value::Int(123)),
            (b"K\xff.", Value::Int(255)),
            (b"M\x01\x02.", Value::Int(513)),
            (b"J\xfe\xff\xff\xff.", Value::Int(-2)),
            (b"\x8a\x00.", Value::Int(0)),
            (b"\x8a\x02\x00\x80.", Value::Int(-32768)),
            (b"\x8a\x05\x00\x00\x00\x00\x01.", Value::Int(1 << 32)),
            (b"\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01.", Value::Other),
            (b"G\x00\x00\x00\x00\x00\x00\x00\x00.", Value::Other),
        ] {
            let pickled = read(program).unwrap();
            assert_eq!(*pickled.get(pickled.root()), expected, "{program:?}");
        }
    }

    #[test]
    fn texts_and_bytes_of_all_protocols_are_read() {
        for program in [
            &b"S'ab'\n."[..],
            b"Vab\n.",
            b"U\x02ab.",
            b"T\x02\0\0\0ab.",
            b"X\x02\0\0\0ab.",
            b"\x80\x04\x95\x05\0\0\0\0\0\0\0\x8c\x02ab.",
            b"\x8d\x02\0\0\0\0\0\0\0ab.",
            b"C\x02ab.",
            b"B\x02\0\0\0ab.",
            b"\x8e\x02\0\0\0\0\0\0\0ab.",
            b"\x96\x02\0\0\0\0\0\0\0ab.",
        ] {
            let pickled = read(program).unwrap();
            assert_eq!(pickled.text(pickled.root()), Some("ab"), "{program:?}");
            assert_eq!(pickled.bytes(pickled.root()).as_deref(), Some(&b"ab"[..]), "{program:?}");
        }
        // Bytes of protocol 2: _codecs.encode("ÿ", "latin1").
        let pickled =
            read(b"\x80\x02c_codecs\nencode\nX\x02\0\0\0\xc3\xbfX\x06\0\0\0latin1\x86R.").unwrap();
        assert_eq!(pickled.bytes(pickled.root()).as_deref(), Some(&b"\xff"[..]));
    }

    #[test]
    fn a_value_that_is_used_again_is_not_copied() {
        // A list of two lists of two lists …, 200 times, and a list that contains itself.
        let mut program = b"]q\0".to_vec();
        for _ in 0..200 {
            program.extend_from_slice(b"](h\0h\0eq\0");
        }
        program.push(b'.');
        assert_eq!(read(&program).unwrap().values.len(), 201);
        let pickled = read(b"]q\0h\0a.").unwrap();
        assert_eq!(*pickled.get(0), Value::List(vec![0]));
    }

    #[test]
    fn damaged_programs_are_refused() {
        for program in [
            &b""[..],
            b".",
            b"N",
            b"0.",
            b"t.",
            b"(0.",
            b"R.",
            b"h\x01.",
            b"(Nd.",
            b"N(NNu.",
            b"\x82\x01.",
            b"X\xff\xff\xff\xffab.",
            b"\x8e\xff\xff\xff\xff\xff\xff\xff\xffab.",
            b"\x8b\xff\xff\xff\x7f.",
            b"c\xff\n\xff\n.",
            b"N(\x85.",
            b"s.",
            b"(Ns.",
            b"S'\n.",
        ] {
            if let Ok(pickled) = read(program) {
                assert_eq!(*pickled.get(pickled.root()), Value::Other, "{program:?}");
            }
        }
        assert!(read(b"X\xff\xff\xff\xffab.").is_err_and(|error| error == "cut off at byte 0"));
    }
}
