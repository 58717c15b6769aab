//! `_SUCCESS`: the list of an epoch's shards, written when all of them exist.

use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, FORMAT, Result, store};

/// The content of `_SUCCESS`, JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Success {
    /// [`FORMAT`] at the time of writing.
    pub format: u32,
    /// The shards in reading order.
    pub parts: Vec<ShardRecord>,
}

/// One shard of an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRecord {
    /// The file's name within the epoch's folder.
    pub name: String,
    /// The number of rows.
    pub rows: u64,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// CRC-32C of the file, as a number.
    pub crc32c: u32,
}

impl Success {
    /// Rows of the epoch.
    pub fn rows(&self) -> u64 {
        self.parts.iter().map(|shard| shard.rows).sum()
    }

    /// Reads a `_SUCCESS` file.
    ///
    /// # Errors
    /// [`Error::Format`] for another format number, [`Error::Invalid`] for anything that is not
    /// such a file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = store::read(path).map_err(Error::io(path))?;
        let value: serde_json::Value = serde_json::from_slice(&text)
            .map_err(|error| Error::invalid(path, error.to_string()))?;
        let found = value["format"].to_string();
        if found != FORMAT.to_string() {
            return Err(Error::Format { path: path.to_owned(), found, expected: FORMAT });
        }
        serde_json::from_value(value).map_err(|error| Error::invalid(path, error.to_string()))
    }

    /// Reads a `_SUCCESS` file, which may appear and disappear at any time; `None` if it is missing.
    ///
    /// # Errors
    /// As [`Success::read`].
    pub fn find(path: &Path) -> Result<Option<Self>> {
        match Self::read(path) {
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
            found => found.map(Some),
        }
    }

    /// Writes a `_SUCCESS` file atomically.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).expect("plain values");
        store::write(path, (text + "\n").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn round_trip_and_foreign_format() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("_SUCCESS");
        let shard =
            ShardRecord { name: "part-00000.parquet".into(), rows: 3, bytes: 9, crc32c: u32::MAX };
        let success = Success { format: FORMAT, parts: vec![shard.clone(), shard] };
        assert_eq!(Success::find(&path).unwrap(), None);
        success.write(&path).unwrap();
        assert_eq!(Success::read(&path).unwrap(), success);
        assert_eq!(Success::find(&path).unwrap().as_ref(), Some(&success));
        assert_eq!(success.rows(), 6);

        fs::write(&path, "{\"format\": 9}").unwrap();
        assert!(matches!(Success::read(&path), Err(Error::Format { .. })));
        fs::write(&path, "").unwrap();
        assert!(matches!(Success::find(&path), Err(Error::Invalid { .. })));
    }
}
