//! The metrics for TensorBoard: an event file, which is a sequence of TFRecords (length, its
//! checksum, a protocol buffer, its checksum). Scalars need only a few fields, so the encoding is
//! written out here.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use scrl_schemas::store;

use super::metrics::Metrics;
use crate::{Error, Result};

/// The start of an event file's name.
const PREFIX: &str = "events.out.tfevents.";

/// The end of the names of the files written here.
const SUFFIX: &str = ".scrl-train";

/// The field of an event that holds its step.
const STEP: u64 = 2;

/// Writes scalars to an event file.
pub(super) struct EventFile {
    file: File,
    path: PathBuf,
}

impl EventFile {
    /// Creates an event file in `folder`, named after the present time as TensorBoard expects, for
    /// a run that starts after `step`: later steps, which it takes again, are dropped from the
    /// event files of its earlier starts.
    pub fn open(folder: &Path, step: u64) -> Result<Self> {
        for name in store::names(folder)? {
            if name.starts_with(PREFIX) && name.ends_with(SUFFIX) {
                drop_later_steps(&folder.join(name), step)?;
            }
        }
        let (seconds, process) = (now() as u64, std::process::id());
        let path = folder.join(format!("{PREFIX}{seconds:010}.{process}{SUFFIX}"));
        let file =
            OpenOptions::new().create(true).append(true).open(&path).map_err(Error::io(&path))?;
        let is_new = file.metadata().map_err(Error::io(&path))?.len() == 0;
        let mut events = Self { file, path };
        if is_new {
            let mut version = double(1, now());
            version.extend(bytes(3, b"brain.Event:2"));
            events.record(&version)?;
        }
        Ok(events)
    }

    /// Writes a step's metrics.
    pub fn write(&mut self, metrics: &Metrics) -> Result<()> {
        let mut scalars = match metrics.step {
            // Of the initial weights, only their health is known.
            0 => Vec::new(),
            _ => vec![
                ("train/loss", f64::from(metrics.loss)),
                ("train/lr", metrics.lr),
                ("train/ema", metrics.ema),
                ("train/boxes", metrics.boxes as f64),
                ("speed/pairs_per_s", metrics.pairs_per_s),
                ("speed/data_wait", metrics.data_wait),
            ],
        };
        let optional = [
            ("eval/online_acc", metrics.online_acc),
            ("train/projection_std", metrics.projection_std),
            ("train/target_std", metrics.target_std),
            ("health/effective_rank", metrics.effective_rank),
            ("health/box_retrieval", metrics.box_retrieval),
        ];
        scalars.extend(optional.into_iter().filter_map(|(tag, value)| Some((tag, value?))));
        let mut event = double(1, now());
        event.extend(integer(STEP, metrics.step));
        // Event.summary = 5, Summary.value = 1, Value.tag = 1, Value.simple_value = 2.
        let values: Vec<u8> = scalars
            .into_iter()
            .flat_map(|(tag, value)| {
                let mut scalar = bytes(1, tag.as_bytes());
                scalar.extend(float(2, value as f32));
                bytes(1, &scalar)
            })
            .collect();
        event.extend(bytes(5, &values));
        self.record(&event)
    }

    fn record(&mut self, data: &[u8]) -> Result<()> {
        let length = (data.len() as u64).to_le_bytes();
        let mut record = length.to_vec();
        record.extend(masked_crc(&length).to_le_bytes());
        record.extend(data);
        record.extend(masked_crc(data).to_le_bytes());
        self.file.write_all(&record).map_err(Error::io(&self.path))
    }
}

/// Rewrites an event file without steps after `step` and without a record that was cut off.
fn drop_later_steps(path: &Path, step: u64) -> Result<()> {
    let old = fs::read(path).map_err(Error::io(path))?;
    let mut kept = Vec::with_capacity(old.len());
    let mut rest = old.as_slice();
    while let Some((record, data)) = first_record(rest) {
        if step_of(data).is_none_or(|found| found <= step) {
            kept.extend(record);
        }
        rest = &rest[record.len()..];
    }
    if kept.len() < old.len() {
        scrl_schemas::store::write(path, &kept)?;
    }
    Ok(())
}

/// The first record of `bytes`, and the data in it; `None` if it is cut off or damaged.
fn first_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, rest) = bytes.split_at_checked(12)?;
    let (length, head_crc) = head.split_at(8);
    let data = rest.get(..u64::from_le_bytes(length.try_into().ok()?).try_into().ok()?)?;
    let crc = rest.get(data.len()..data.len() + 4)?;
    let is_intact =
        masked_crc(length).to_le_bytes() == head_crc && masked_crc(data).to_le_bytes() == crc;
    is_intact.then(|| (&bytes[..16 + data.len()], data))
}

/// The step of an event; `None` for one without, such as the file's version.
fn step_of(mut event: &[u8]) -> Option<u64> {
    loop {
        let key = take_varint(&mut event)?;
        let length = match key & 7 {
            0 => {
                let value = take_varint(&mut event)?;
                if key >> 3 == STEP {
                    return Some(value);
                }
                0
            }
            1 => 8,
            2 => take_varint(&mut event)? as usize,
            _ => 4,
        };
        event = event.get(length..)?;
    }
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// TFRecord's checksum: a CRC-32C, rotated and shifted so that a checksum of checksums differs.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn field(number: u64, wire_type: u64, content: impl IntoIterator<Item = u8>) -> Vec<u8> {
    let mut field = varint(number << 3 | wire_type);
    field.extend(content);
    field
}

fn integer(number: u64, value: u64) -> Vec<u8> {
    field(number, 0, varint(value))
}

fn double(number: u64, value: f64) -> Vec<u8> {
    field(number, 1, value.to_le_bytes())
}

fn bytes(number: u64, content: &[u8]) -> Vec<u8> {
    field(number, 2, varint(content.len() as u64).into_iter().chain(content.iter().copied()))
}

fn float(number: u64, value: f32) -> Vec<u8> {
    field(number, 5, value.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_encoded_as_protocol_buffers() {
        // The examples of the protocol buffer documentation: field 1 = 150, field 2 = "testing".
        assert_eq!(integer(1, 150), [0x08, 0x96, 0x01]);
        assert_eq!(bytes(2, b"testing"), [0x12, 0x07, 0x74, 0x65, 0x73, 0x74, 0x69, 0x6e, 0x67]);
        let mut event = [double(1, 0.5), bytes(5, b"scalars"), float(9, 1.0)].concat();
        assert_eq!(step_of(&event), None);
        event.extend(integer(STEP, 300));
        assert_eq!(step_of(&event), Some(300));
        assert_eq!(step_of(&event[..event.len() - 1]), None);
    }

    fn steps(path: &Path) -> Vec<u64> {
        let bytes = fs::read(path).unwrap();
        let (mut rest, mut steps) = (bytes.as_slice(), Vec::new());
        while let Some((record, data)) = first_record(rest) {
            steps.extend(step_of(data));
            rest = &rest[record.len()..];
        }
        assert!(rest.is_empty());
        steps
    }

    #[test]
    fn a_resumed_run_leaves_no_step_twice() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = EventFile::open(folder.path(), 0).unwrap();
        (1..=200).for_each(|step| events.write(&Metrics::example(step)).unwrap());
        let old = folder.path().join("events.out.tfevents.0000000001.2.scrl-train");
        let mut half = fs::read(&events.path).unwrap();
        half.truncate(half.len() - 5);
        fs::remove_file(&events.path).unwrap();
        fs::write(&old, half).unwrap();
        let foreign = folder.path().join("events.out.tfevents.0000000001.2.other");
        fs::write(&foreign, "not ours").unwrap();

        let mut events = EventFile::open(folder.path(), 130).unwrap();
        (131..=140).for_each(|step| events.write(&Metrics::example(step)).unwrap());
        assert_eq!(steps(&old), (1..=130).collect::<Vec<_>>());
        assert_eq!(steps(&events.path), (131..=140).collect::<Vec<_>>());
        assert_eq!(fs::read(&foreign).unwrap(), b"not ours");

        // Nothing to drop: the file is not touched, and a start within the same second appends to
        // it.
        let before = fs::read(&old).unwrap();
        EventFile::open(folder.path(), 140).unwrap();
        assert_eq!(fs::read(&old).unwrap(), before);
        EventFile::open(folder.path(), 0).unwrap();
        assert_eq!(steps(&old), [0; 0]);
    }
}
