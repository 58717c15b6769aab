//! `consumed.json`: the epochs that training has consumed, which `scrl-prep --keep` may remove.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, FORMAT, Result, store};

/// The content of `consumed.json`. `scrl-train --consume` writes it once there is a checkpoint
/// after the epoch: an epoch that a resumed run would need again is not consumed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consumed {
    /// Training has consumed every epoch below this number.
    pub epochs: u32,
}

impl Consumed {
    /// Reads `consumed.json`; without that file no epoch has been consumed.
    ///
    /// # Errors
    /// [`Error::Invalid`] for anything that is not such a file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = match store::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(Error::io(path)(error)),
        };
        let value: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| Error::invalid(path, error.to_string()))?;
        let found = value["format"].to_string();
        if found != FORMAT.to_string() {
            return Err(Error::Format { path: path.to_owned(), found, expected: FORMAT });
        }
        serde_json::from_value(value).map_err(|error| Error::invalid(path, error.to_string()))
    }

    /// Writes `consumed.json` atomically.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = format!("{{\"format\": {FORMAT}, \"epochs\": {}}}\n", self.epochs);
        store::write(path, text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn round_trip_and_nothing_at_the_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("consumed.json");
        assert_eq!(Consumed::read(&path).unwrap(), Consumed { epochs: 0 });
        Consumed { epochs: 7 }.write(&path).unwrap();
        assert_eq!(Consumed::read(&path).unwrap(), Consumed { epochs: 7 });
        fs::write(&path, "{\"epochs\": 7}").unwrap();
        assert!(matches!(Consumed::read(&path), Err(Error::Format { .. })));
        fs::write(&path, "7 of them").unwrap();
        assert!(matches!(Consumed::read(&path), Err(Error::Invalid { .. })));
    }
}
