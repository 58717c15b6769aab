//! The same numbers for TensorBoard: an event file, which is a sequence of TFRecords (length, its checksum, a protocol
//! buffer, its checksum). Only the few fields that scalars need are written, so the encoding is spelt out here.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::Metrics;
use crate::{Error, Result};

/// Writes scalars to an event file.
pub(super) struct EventFile {
    file: File,
    path: PathBuf,
}

impl EventFile {
    /// Starts an event file in `folder`, named after the present time as TensorBoard expects.
    pub fn create(folder: &Path) -> Result<Self> {
        let seconds = now() as u64;
        let path =
            folder.join(format!("events.out.tfevents.{seconds:010}.{}.scrl-train", std::process::id()));
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(Error::io(&path))?;
        let mut events = Self { file, path };
        let mut version = double(1, now());
        version.extend(bytes(3, b"brain.Event:2"));
        events.record(&version)?;
        Ok(events)
    }

    /// Writes a step's metrics.
    pub fn write(&mut self, metrics: &Metrics) -> Result<()> {
        let mut scalars = vec![
            ("train/loss", f64::from(metrics.loss)),
            ("train/lr", metrics.lr),
            ("train/ema", metrics.ema),
            ("train/boxes", metrics.boxes as f64),
            ("speed/pairs_per_s", metrics.pairs_per_s),
            ("speed/data_wait", metrics.data_wait),
        ];
        scalars.extend(metrics.online_acc.map(|accuracy| ("eval/online_acc", accuracy)));
        let mut event = double(1, now());
        event.extend(integer(2, metrics.step));
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

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// TFRecord's checksum: a CRC-32C, turned and shifted so that a checksum of checksums differs.
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
    }
}
