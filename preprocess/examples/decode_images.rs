//! Decodes the images whose paths are read from stdin, for `scripts/compare_decoders.py`.
//!
//! usage: decode_images [--lenient] [--levels MIN..MAX] < PATHS
//!
//! Each image is answered on stdout with the line `WIDTH HEIGHT` and its RGB bytes, or with a line
//! `refused REASON`.

use std::io::{self, BufRead, Write};

use scrl_preprocess::images::{Decoding, decode};
use scrl_schemas::Levels;

fn main() -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let arguments: Vec<String> = std::env::args().collect();
    let lenient = arguments.iter().any(|argument| argument == "--lenient");
    let place = arguments.iter().position(|argument| argument == "--levels");
    let levels = place.and_then(|place| arguments.get(place + 1)?.parse().ok());
    let how = Decoding { lenient, ..Decoding::new(levels.unwrap_or(Levels::Full), None, None) };
    for path in io::stdin().lock().lines() {
        match decode(&std::fs::read(path?)?, how) {
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
