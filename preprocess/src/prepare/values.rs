//! Parsing and checking the values of options.

use crate::{Error, Result};

/// Parses so many numbers, separated by commas.
pub(super) fn numbers<const N: usize>(text: &str) -> std::result::Result<[f32; N], String> {
    let numbers = text.split(',').map(|number| number.trim().parse().ok());
    let numbers: Option<Vec<f32>> = numbers.collect();
    numbers
        .and_then(|numbers| numbers.try_into().ok())
        .ok_or_else(|| format!("give {N} numbers, separated by commas"))
}

/// An error that names the option, unless its value is valid.
pub(super) fn require(holds: bool, option: &'static str, reason: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::Option { option, reason: reason.to_owned() }) }
}
