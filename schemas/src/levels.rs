//! How samples of more than 8 bits become the 256 levels of a view.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Which samples become the levels 0 to 255. Samples of 8 bits and fewer stay as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Levels {
    /// The whole range of the samples' type, of at most 16 bits and without a sign.
    #[default]
    Full,
    /// What lies between two values, the first of which becomes 0 and the second 255.
    Window([f64; 2]),
    /// A window that is computed from some of the images and recorded.
    Auto,
}

impl Levels {
    /// Whether they are the default, which is not recorded.
    pub fn is_full(&self) -> bool {
        *self == Self::Full
    }
}

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("full"),
            Self::Auto => f.write_str("auto"),
            Self::Window([low, high]) => write!(f, "{low}..{high}"),
        }
    }
}

impl FromStr for Levels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "full" => return Ok(Self::Full),
            "auto" => return Ok(Self::Auto),
            _ => {}
        }
        let number = |text: &str| text.trim().parse::<f64>().ok();
        text.split_once("..")
            .and_then(|(low, high)| Some([number(low)?, number(high)?]))
            // Neither NaN nor infinite, and not so far apart that their difference is.
            .filter(|[low, high]| low < high && (high - low).is_finite())
            .map(Self::Window)
            .ok_or_else(|| "give full, auto, or two ascending values such as 0..4095".to_owned())
    }
}

impl Serialize for Levels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Levels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_read_as_it_is_written() {
        for (text, levels) in [
            ("full", Levels::Full),
            ("auto", Levels::Auto),
            ("51241..52181", Levels::Window([51_241.0, 52_181.0])),
            ("-1..1", Levels::Window([-1.0, 1.0])),
            ("-0.25..0.5", Levels::Window([-0.25, 0.5])),
        ] {
            assert_eq!(text.parse(), Ok(levels));
            assert_eq!(levels.to_string(), text);
        }
        assert_eq!("1e3 .. 2.5e3".parse(), Ok(Levels::Window([1000.0, 2500.0])));
    }

    #[test]
    fn what_is_no_window_is_refused() {
        for text in
            ["", "all", "5", "5..", "..5", "5..5", "6..5", "NaN..1", "0..inf", "-1e308..1e308"]
        {
            assert!(text.parse::<Levels>().unwrap_err().contains("0..4095"), "{text}");
        }
    }
}
