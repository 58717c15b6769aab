//! Where results go unless told.

use std::path::PathBuf;
use std::time::SystemTime;

/// `runs/<time>`, the time in UTC.
pub fn default_out() -> PathBuf {
    // Colons are no part of a file's name everywhere.
    let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string().replace(':', "-");
    PathBuf::from("runs").join(time)
}
