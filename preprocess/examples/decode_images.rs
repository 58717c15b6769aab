//! Decodes the images whose paths are read from stdin, for `scripts/compare_decoders.py`.
//!
//! usage: decode_images [--lenient] < PATHS
//!
//! Each image is answered on stdout with the line `WIDTH HEIGHT` and its RGB bytes, or with a line
//! `refused REASON`.

use std::io::{self, BufRead, Write};

use scrl_preprocess::images::{Decoding, decode};
use scrl_schemas::Exif;

fn main() -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let lenient = std::env::args().any(|argument| argument == "--lenient");
    for path in io::stdin().lock().lines() {
        match decode(&std::fs::read(path?)?, Decoding { exif: Exif::Ignore, lenient }) {
            Ok(image) => {
                writeln!(stdout, "{} {}", image.size.width, image.size.height)?;
                stdout.write_all(&image.pixels)?;
            }
            Err(reason) => writeln!(stdout, "refused {reason}")?,
        }
        stdout.flush()?;
    }
    Ok(())
}
