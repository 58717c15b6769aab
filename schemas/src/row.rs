//! One row of a shard: an image, its two views, and the boxes that match between them.

use std::fmt;

/// A rectangle of whole pixels of the source image, cut out before resizing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crop {
    /// Left edge, in pixels of the source.
    pub x: i32,
    /// Top edge, in pixels of the source.
    pub y: i32,
    /// Width, in pixels of the source.
    pub width: i32,
    /// Height, in pixels of the source.
    pub height: i32,
}

/// An axis-parallel box, `x0 ≤ x1` and `y0 ≤ y1`, in pixels of the source or of a view.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Box2 {
    /// Left edge.
    pub x0: f32,
    /// Top edge.
    pub y0: f32,
    /// Right edge.
    pub x1: f32,
    /// Bottom edge.
    pub y1: f32,
}

impl Box2 {
    /// The order of the `boxes` column: x0 y0 x1 y1.
    pub fn to_array(self) -> [f32; 4] {
        [self.x0, self.y0, self.x1, self.y1]
    }

    /// The inverse of [`Box2::to_array`].
    pub fn from_array([x0, y0, x1, y1]: [f32; 4]) -> Self {
        Self { x0, y0, x1, y1 }
    }
}

/// One of the four steps of color jitter; its letter stands in the `order` column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColorStep {
    /// `b`: blend with black.
    Brightness,
    /// `c`: blend with the mean of the gray image.
    Contrast,
    /// `s`: blend with the gray image.
    Saturation,
    /// `h`: turn the hue.
    Hue,
}

impl ColorStep {
    /// All four, in torchvision's order of drawing.
    pub const ALL: [Self; 4] = [Self::Brightness, Self::Contrast, Self::Saturation, Self::Hue];

    /// The letter of the `order` column.
    pub fn letter(self) -> char {
        match self {
            Self::Brightness => 'b',
            Self::Contrast => 'c',
            Self::Saturation => 's',
            Self::Hue => 'h',
        }
    }
}

/// Color jitter with its four strengths already drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ColorJitter {
    /// Factor, 1 = unchanged.
    pub brightness: f32,
    /// Factor, 1 = unchanged.
    pub contrast: f32,
    /// Factor, 1 = unchanged.
    pub saturation: f32,
    /// Shift in turns, 0 = unchanged.
    pub hue: f32,
    /// The order in which the four are applied: a permutation of [`ColorStep::ALL`].
    pub order: [ColorStep; 4],
}

impl ColorJitter {
    /// The `order` column, such as `"bcsh"`.
    pub fn order_string(&self) -> String {
        self.order.iter().map(|step| step.letter()).collect()
    }

    /// Parses the `order` column; `None` unless each of `b c s h` stands in it exactly once.
    pub fn parse_order(text: &str) -> Option<[ColorStep; 4]> {
        let steps: Vec<ColorStep> = text
            .chars()
            .map(|letter| ColorStep::ALL.into_iter().find(|step| step.letter() == letter))
            .collect::<Option<_>>()?;
        let order: [ColorStep; 4] = steps.try_into().ok()?;
        ColorStep::ALL.iter().all(|step| order.contains(step)).then_some(order)
    }
}

/// Everything that was drawn at random for one view. With the source image it determines the view's pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ViewParams {
    /// What is cut out of the source.
    pub crop: Crop,
    /// Mirrored left to right after the crop.
    pub flip: bool,
    /// Color jitter, where applied.
    pub jitter: Option<ColorJitter>,
    /// Turned gray.
    pub grayscale: bool,
    /// σ of the Gaussian in pixels of the view, or the factor of the resize blur; `None` where not applied.
    pub blur: Option<f32>,
    /// Values of one half and above inverted.
    pub solarize: bool,
}

/// An encoded picture, as Hugging Face `datasets` lays it out.
#[derive(Clone, PartialEq, Eq)]
pub struct EncodedImage {
    /// The file's bytes.
    pub bytes: Vec<u8>,
    /// A file name that says which picture it is.
    pub path: String,
}

impl fmt::Debug for EncodedImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncodedImage({:?}, {} bytes)", self.path, self.bytes.len())
    }
}

/// One view: its parameters and, except in recipe shards, its pixels.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// The pixels; `None` in recipe shards.
    pub image: Option<EncodedImage>,
    /// What was drawn.
    pub params: ViewParams,
}

/// A box of the source image and where it lies in each view.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MatchedBox {
    /// In pixels of the source.
    pub source: Box2,
    /// In pixels of view 1.
    pub view1: Box2,
    /// In pixels of view 2.
    pub view2: Box2,
}

/// One row of a shard.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The image's position in `sources.parquet`.
    pub image_id: i64,
    /// The image's path below the images folder, with `/` between folders.
    pub path: String,
    /// The class, where the images lie in class folders.
    pub label: Option<i32>,
    /// Width of the source in pixels.
    pub source_width: i32,
    /// Height of the source in pixels.
    pub source_height: i32,
    /// View 1.
    pub view1: View,
    /// View 2.
    pub view2: View,
    /// At most `--boxes` of them; empty where the views hardly overlap.
    pub boxes: Vec<MatchedBox>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_round_trips_and_refuses_nonsense() {
        let order = ColorJitter::parse_order("hbsc").unwrap();
        let jitter =
            ColorJitter { brightness: 1.0, contrast: 1.0, saturation: 1.0, hue: 0.0, order };
        assert_eq!(jitter.order_string(), "hbsc");
        for bad in ["", "bcs", "bbsh", "bcshh", "bcsx"] {
            assert!(ColorJitter::parse_order(bad).is_none(), "{bad:?}");
        }
    }
}
