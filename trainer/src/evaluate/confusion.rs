//! Which classes are taken for which.

use std::path::Path;

use image::{ImageFormat, Rgb, RgbImage};

use crate::{Error, Result};

/// How many examples of each class were taken for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    /// `[class, answer]`.
    counts: Vec<u64>,
}

impl Confusion {
    /// Of so many classes, with no example.
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: vec![0; classes * classes] }
    }

    /// Counts an example.
    pub fn count(&mut self, class: usize, answer: usize) {
        self.counts[class * self.classes + answer] += 1;
    }

    /// The counts of one class, an answer each.
    pub fn row(&self, class: usize) -> &[u64] {
        &self.counts[class * self.classes..][..self.classes]
    }

    /// How many classes there are.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// How many examples there are.
    pub fn examples(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The share of examples whose class was told; 0 without examples.
    pub fn accuracy(&self) -> f64 {
        let right: u64 = (0..self.classes).map(|class| self.row(class)[class]).sum();
        right as f64 / self.examples().max(1) as f64
    }

    /// Draws the matrix to a PNG file: a row a class, a column an answer, the darker the larger the answer's share in the
    /// class. Where there is room, rows and columns have their numbers, from 1.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write_png(&self, path: &Path) -> Result<()> {
        let mut png = std::io::Cursor::new(Vec::new());
        let drawn = self.draw().write_to(&mut png, ImageFormat::Png);
        drawn.map_err(|error| Error::dataset(path, format!("drawing: {error}")))?;
        Ok(scrl_schemas::atomic::write(path, png.get_ref())?)
    }

    fn draw(&self) -> RgbImage {
        let classes = self.classes as u32;
        let cell = (SIDE / classes.max(1)).clamp(2, 40);
        let margin = if cell >= LEAST_NUMBERED { NUMBER_ROOM } else { 8 };
        let side = margin + classes * cell + 8;
        let mut picture = RgbImage::from_pixel(side, side, PAPER);
        for class in 0..classes {
            let total = self.row(class as usize).iter().sum::<u64>().max(1);
            for answer in 0..classes {
                let share = self.row(class as usize)[answer as usize] as f64 / total as f64;
                let color = shade(share);
                for (dx, dy) in (0..cell - 1).flat_map(|dx| (0..cell - 1).map(move |dy| (dx, dy))) {
                    picture.put_pixel(
                        margin + answer * cell + dx,
                        margin + class * cell + dy,
                        color,
                    );
                }
            }
            if cell >= LEAST_NUMBERED {
                let middle = margin + class * cell + cell / 2 - DIGIT_HEIGHT / 2;
                let width = number_width(class + 1);
                write_number(&mut picture, margin - width - 5, middle, class + 1);
                let left = margin + class * cell + cell / 2 - (width / 2).min(cell / 2);
                write_number(&mut picture, left, margin - DIGIT_HEIGHT - 5, class + 1);
            }
        }
        picture
    }
}

/// About the side of a drawing, in pixels.
const SIDE: u32 = 960;
/// The smallest cells beside which numbers have room.
const LEAST_NUMBERED: u32 = 12;
/// Room for them.
const NUMBER_ROOM: u32 = 32;
const PAPER: Rgb<u8> = Rgb([255; 3]);
const INK: Rgb<u8> = Rgb([90; 3]);

/// White for nothing to dark blue for all.
fn shade(share: f64) -> Rgb<u8> {
    let between = |none: f64, all: f64| (none + (all - none) * share.sqrt()).round() as u8;
    Rgb([between(244.0, 8.0), between(246.0, 48.0), between(249.0, 107.0)])
}

/// Three columns by five rows a digit, the first pixel the highest bit.
const DIGITS: [u16; 10] = [
    0b111_101_101_101_111,
    0b010_110_010_010_111,
    0b111_001_111_100_111,
    0b111_001_111_001_111,
    0b101_101_111_001_001,
    0b111_100_111_001_111,
    0b111_100_111_101_111,
    0b111_001_001_001_001,
    0b111_101_111_101_111,
    0b111_101_111_001_111,
];
/// Pixels of a digit's dot.
const DOT: u32 = 1;
const DIGIT_WIDTH: u32 = 4 * DOT;
const DIGIT_HEIGHT: u32 = 5 * DOT;

fn number_width(number: u32) -> u32 {
    (number.ilog10() + 1) * DIGIT_WIDTH
}

fn write_number(picture: &mut RgbImage, left: u32, top: u32, number: u32) {
    for (place, digit) in number.to_string().bytes().enumerate() {
        let dots = DIGITS[usize::from(digit - b'0')];
        for dot in (0..15).filter(|dot| dots >> (14 - dot) & 1 == 1) {
            let x = left + place as u32 * DIGIT_WIDTH + dot % 3 * DOT;
            picture.put_pixel(x, top + dot / 3 * DOT, INK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_classes_and_columns_answers() {
        let mut confusion = Confusion::new(3);
        for (class, answer) in [(0, 0), (0, 2), (1, 1), (1, 1)] {
            confusion.count(class, answer);
        }
        assert_eq!((confusion.row(0), confusion.row(1)), (&[1, 0, 1][..], &[0, 2, 0][..]));
        assert_eq!((confusion.examples(), confusion.accuracy()), (4, 0.75));
        let picture = confusion.draw();
        let pixel = |class: u32, answer: u32| {
            *picture.get_pixel(NUMBER_ROOM + answer * 40 + 20, NUMBER_ROOM + class * 40 + 20)
        };
        assert_eq!((pixel(1, 1), pixel(0, 2), pixel(0, 1)), (shade(1.0), shade(0.5), shade(0.0)));
        assert_eq!(pixel(0, 2), pixel(0, 0));
    }

    #[test]
    fn any_number_of_classes_can_be_drawn() {
        for classes in [1, 2, 80, 1000] {
            let picture = Confusion::new(classes).draw();
            assert!(picture.width() == picture.height() && picture.width() <= 2100);
        }
    }
}
