//! The options of how pixels are read, which scrl-prep and scrl-eval have in common.

use clap::Args;
use scrl_schemas::Levels;

use super::rgb_image::MAX_SOURCE_PIXELS;

/// The most that `--max-pixels` allows: an image of these takes 6 GB.
const MOST_PIXELS: u64 = 2_000_000_000;

/// How pixels are read.
#[derive(Args, Clone, Copy, Debug, Default, PartialEq)]
pub struct PixelOptions {
    /// Values of 16-bit and float samples that become 0 to 255: full, MIN..MAX, or auto, the 0.5
    /// and 99.5 percentiles of some images [default: full]
    #[arg(long, value_name = "WINDOW", allow_hyphen_values = true)]
    pub levels: Option<Levels>,

    /// The most pixels of an image, such as 300M [default: 178956970]
    #[arg(long, value_name = "N", value_parser = parse_pixels)]
    pub max_pixels: Option<u64>,
}

impl PixelOptions {
    /// The levels.
    pub fn levels(&self) -> Levels {
        self.levels.unwrap_or_default()
    }

    /// The most pixels of an image, if it is another number than the default.
    pub fn max_pixels(&self) -> Option<u64> {
        self.max_pixels.filter(|&most| most != MAX_SOURCE_PIXELS)
    }
}

fn parse_pixels(text: &str) -> Result<u64, String> {
    let plain = text.replace('_', "");
    let (digits, unit) = match plain.strip_suffix('M') {
        Some(millions) => (millions, 1_000_000),
        None => (&*plain, 1),
    };
    let number = digits.parse().ok().and_then(|number: u64| number.checked_mul(unit));
    number.filter(|most| (1..=MOST_PIXELS).contains(most)).ok_or_else(|| {
        format!("give a number of pixels up to {}M, such as 300M", MOST_PIXELS / 1_000_000)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_are_a_number_or_millions() {
        assert_eq!(parse_pixels("221184000"), Ok(221_184_000));
        assert_eq!(parse_pixels("1_000_000"), Ok(1_000_000));
        assert_eq!(parse_pixels("300M"), Ok(300_000_000));
        for text in ["", "M", "0", "-1", "3G", "2001M", "99999999999999999999M"] {
            assert!(parse_pixels(text).unwrap_err().contains("2000M"), "{text}");
        }
        let default =
            PixelOptions { max_pixels: Some(MAX_SOURCE_PIXELS), ..PixelOptions::default() };
        assert_eq!(default.max_pixels(), None);
    }
}
