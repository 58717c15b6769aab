//! One row of a shard: an image, its two views, and the boxes that match between them.

use std::fmt;

/// The rectangle of the source image that becomes a view, in integer pixels.
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

impl Crop {
    /// Whether it has pixels and lies within an image of this size.
    pub fn is_within(self, width: usize, height: usize) -> bool {
        let fits = |first: i32, length: i32, side: usize| {
            first >= 0 && length > 0 && first as usize + length as usize <= side
        };
        fits(self.x, self.width, width) && fits(self.y, self.height, height)
    }
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
    /// Whether it has no size: a place of which a map is read bilinearly.
    pub fn is_point(self) -> bool {
        self.x0 == self.x1 && self.y0 == self.y1
    }

    /// The order of the `boxes` column: x0 y0 x1 y1.
    pub fn to_array(self) -> [f32; 4] {
        [self.x0, self.y0, self.x1, self.y1]
    }
}

/// One of the four steps of color jitter, with its letter in the `order` column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColorStep {
    /// `b`: blend with black.
    Brightness,
    /// `c`: blend with the mean of the gray image.
    Contrast,
    /// `s`: blend with the gray image.
    Saturation,
    /// `h`: shift the hue.
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

/// Color jitter with its four strengths.
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

    /// Parses the `order` column; `None` unless it has each of `b c s h` exactly once.
    pub fn parse_order(text: &str) -> Option<[ColorStep; 4]> {
        let steps: Vec<ColorStep> = text
            .chars()
            .map(|letter| ColorStep::ALL.into_iter().find(|step| step.letter() == letter))
            .collect::<Option<_>>()?;
        let order: [ColorStep; 4] = steps.try_into().ok()?;
        ColorStep::ALL.iter().all(|step| order.contains(step)).then_some(order)
    }
}

/// The random parameters of one view. With the source image they determine the view's pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ViewParams {
    /// The crop of the source.
    pub crop: Crop,
    /// Mirrored left to right after the crop.
    pub flip: bool,
    /// Mirrored top to bottom after the crop.
    pub vertical_flip: bool,
    /// Quarter turns after the flips, 0 to 3, counterclockwise as `numpy.rot90`.
    pub turns: i8,
    /// Color jitter; `None` if not applied.
    pub jitter: Option<ColorJitter>,
    /// Converted to grayscale.
    pub grayscale: bool,
    /// σ of the Gaussian in pixels of the view, or the factor of the resize blur; `None` if not
    /// applied.
    pub blur: Option<f32>,
    /// Values of one half and above inverted.
    pub solarize: bool,
}

/// Where the pixels of a crop come to lie in its view: mirrored first, then transposed. Each of the
/// sixteen combinations of flips and turns is one of these eight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Orientation {
    /// Left and right are exchanged.
    pub mirrors_x: bool,
    /// Top and bottom are exchanged.
    pub mirrors_y: bool,
    /// After that, rows become columns.
    pub transposes: bool,
}

impl ViewParams {
    /// A view that is its crop, resized and nothing else.
    pub fn of_crop(crop: Crop) -> Self {
        Self {
            crop,
            flip: false,
            vertical_flip: false,
            turns: 0,
            jitter: None,
            grayscale: false,
            blur: None,
            solarize: false,
        }
    }

    /// What its flips and turns come to.
    pub fn orientation(&self) -> Orientation {
        // A quarter turn mirrors left to right and transposes, two mirror both ways, three mirror
        // top to bottom and transpose.
        Orientation {
            mirrors_x: self.flip ^ matches!(self.turns, 1 | 2),
            mirrors_y: self.vertical_flip ^ matches!(self.turns, 2 | 3),
            transposes: self.turns % 2 != 0,
        }
    }
}

/// An encoded image, with the fields that Hugging Face `datasets` uses.
#[derive(Clone, PartialEq, Eq)]
pub struct EncodedImage {
    /// The file's bytes.
    pub bytes: Vec<u8>,
    /// A file name that identifies the image.
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
    /// The random parameters.
    pub params: ViewParams,
}

/// A box of the source image and the same region in each view.
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
    /// The label of the class; `None` without classes.
    pub label: Option<i32>,
    /// Width of the source in pixels.
    pub source_width: i32,
    /// Height of the source in pixels.
    pub source_height: i32,
    /// View 1.
    pub view1: View,
    /// View 2.
    pub view2: View,
    /// At most `--boxes` matched boxes; empty if the crops hardly overlap.
    pub boxes: Vec<MatchedBox>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The turns of `numpy.rot90` of [[a, b], [c, d]].
    #[test]
    fn orientations_are_those_of_flips_and_turns() {
        let crop = Crop { x: 0, y: 0, width: 2, height: 2 };
        let place = |params: &ViewParams| {
            let Orientation { mirrors_x, mirrors_y, transposes } = params.orientation();
            let mut out = [[' '; 2]; 2];
            for (y, row) in ["ab", "cd"].iter().enumerate() {
                for (x, letter) in row.chars().enumerate() {
                    let x = if mirrors_x { 1 - x } else { x };
                    let y = if mirrors_y { 1 - y } else { y };
                    let (x, y) = if transposes { (y, x) } else { (x, y) };
                    out[y][x] = letter;
                }
            }
            out.map(|row| row.iter().collect::<String>()).join("/")
        };
        for (flip, vertical_flip, expected) in [
            (false, false, ["ab/cd", "bd/ac", "dc/ba", "ca/db"]),
            (true, false, ["ba/dc", "ac/bd", "cd/ab", "db/ca"]),
            (false, true, ["cd/ab", "db/ca", "ba/dc", "ac/bd"]),
            (true, true, ["dc/ba", "ca/db", "ab/cd", "bd/ac"]),
        ] {
            for (turns, expected) in (0..).zip(expected) {
                let params = ViewParams { flip, vertical_flip, turns, ..ViewParams::of_crop(crop) };
                assert_eq!(place(&params), expected, "{params:?}");
            }
        }
    }

    #[test]
    fn order_round_trips_and_refuses_invalid_text() {
        let order = ColorJitter::parse_order("hbsc").unwrap();
        let jitter =
            ColorJitter { brightness: 1.0, contrast: 1.0, saturation: 1.0, hue: 0.0, order };
        assert_eq!(jitter.order_string(), "hbsc");
        for bad in ["", "bcs", "bbsh", "bcshh", "bcsx"] {
            assert!(ColorJitter::parse_order(bad).is_none(), "{bad:?}");
        }
    }
}
