//! The drawing of a confusion matrix, `confusion.png`.

use std::convert::Infallible;
use std::io::Cursor;

use embedded_graphics::Pixel;
use embedded_graphics::mono_font::ascii::{FONT_5X7, FONT_6X10};
use embedded_graphics::mono_font::{MonoFont, MonoTextStyle};
use embedded_graphics::pixelcolor::BinaryColor;
use embedded_graphics::prelude::{DrawTarget, Drawable, OriginDimensions, Point, Size};
use embedded_graphics::text::{Alignment, Baseline, Text, TextStyleBuilder};
use image::{ImageFormat, RgbImage};
use plotters::coord::Shift;
use plotters::prelude::{
    BitMapBackend, Color, DrawingArea, IntoDrawingArea, RGBColor, Rectangle, WHITE,
};

use super::confusion::Confusion;

/// The side of the matrix in pixels, about.
const SIDE: u32 = 960;
/// The smallest and the largest side of a cell, with the line between it and the next one.
const CELL: [u32; 2] = [2, 40];
/// The smallest cell beside which a number of two digits fits.
const MIN_NUMBERED: u32 = 12;
/// The smallest cell beside which it fits in the larger font.
const MIN_LARGE: u32 = 20;
/// Above and left of the matrix, with and without numbers.
const NUMBERED_MARGIN: u32 = 32;
const MARGIN: u32 = 8;
/// Between a number and the matrix.
const GAP: i32 = 5;
const TEXT: RGBColor = RGBColor(90, 90, 90);

/// Errors of the backend and of the PNG encoder.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

type Area<'a> = DrawingArea<BitMapBackend<'a>, Shift>;

/// Draws the matrix as a PNG image: a row for each class, a column for each prediction, darker for
/// a larger fraction of the class. Rows and columns are numbered from 1 where there is room.
///
/// # Errors
/// The error of the backend, as for an image that is too large.
pub(super) fn confusion_png(confusion: &Confusion) -> Result<Vec<u8>> {
    let mut png = Cursor::new(Vec::new());
    draw(confusion)?.write_to(&mut png, ImageFormat::Png)?;
    Ok(png.into_inner())
}

fn draw(confusion: &Confusion) -> Result<RgbImage> {
    let classes = confusion.classes() as u32;
    let cell = (SIDE / classes.max(1)).clamp(CELL[0], CELL[1]);
    let numbered = cell >= MIN_NUMBERED;
    let margin = if numbered { NUMBERED_MARGIN } else { MARGIN };
    let side = margin + classes * cell + MARGIN;
    let mut image = RgbImage::new(side, side);
    let area = BitMapBackend::with_buffer(image.as_mut(), (side, side)).into_drawing_area();
    area.fill(&WHITE)?;
    let corner = |index: usize| (margin + index as u32 * cell) as i32;
    for class in 0..confusion.classes() {
        let row = confusion.row(class);
        let total = row.iter().sum::<u64>().max(1) as f64;
        for (prediction, &count) in row.iter().enumerate() {
            let (x, y, inner) = (corner(prediction), corner(class), cell as i32 - 1);
            let style = shade(count as f64 / total).filled();
            let rectangle = Rectangle::new([(x, y), (x + inner, y + inner)], style);
            area.draw(&rectangle)?;
        }
        if numbered {
            let font = if cell >= MIN_LARGE { &FONT_6X10 } else { &FONT_5X7 };
            let (number, edge) = ((class + 1).to_string(), margin as i32 - GAP);
            let middle = corner(class) + cell as i32 / 2;
            let left = (Point::new(edge, middle), Alignment::Right, Baseline::Middle);
            let above = (Point::new(middle, edge), Alignment::Center, Baseline::Bottom);
            write(&area, &number, font, left)?;
            write(&area, &number, font, above)?;
        }
    }
    area.present()?;
    drop(area);
    Ok(image)
}

/// White for 0 to dark blue for 1.
fn shade(fraction: f64) -> RGBColor {
    let between = |none: f64, all: f64| (none + (all - none) * fraction.sqrt()).round() as u8;
    RGBColor(between(244.0, 8.0), between(246.0, 48.0), between(249.0, 107.0))
}

/// Writes a text. plotters would need a font file or the system's fonts; embedded-graphics has
/// bitmap fonts.
fn write(
    area: &Area,
    text: &str,
    font: &MonoFont,
    (at, alignment, baseline): (Point, Alignment, Baseline),
) -> Result<()> {
    let style = TextStyleBuilder::new().alignment(alignment).baseline(baseline).build();
    let font = MonoTextStyle::new(font, BinaryColor::On);
    let mut pixels = Pixels::default();
    let Ok(_) = Text::with_text_style(text, at, font, style).draw(&mut pixels);
    pixels.0.into_iter().try_for_each(|at| area.draw_pixel(at, &TEXT))?;
    Ok(())
}

/// Collects the pixels of a text.
#[derive(Default)]
struct Pixels(Vec<(i32, i32)>);

impl OriginDimensions for Pixels {
    fn size(&self) -> Size {
        Size::new(u32::MAX, u32::MAX)
    }
}

impl DrawTarget for Pixels {
    type Color = BinaryColor;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<BinaryColor>>>(
        &mut self,
        pixels: I,
    ) -> std::result::Result<(), Infallible> {
        self.0.extend(pixels.into_iter().filter(|p| p.1.is_on()).map(|p| (p.0.x, p.0.y)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_fraction_of_a_class_is_darker() {
        let mut confusion = Confusion::new(3);
        for (class, prediction) in [(0, 0), (0, 2), (1, 1), (1, 1)] {
            confusion.count(class, prediction);
        }
        let image = draw(&confusion).unwrap();
        let pixel = |class: u32, prediction: u32| {
            let [x, y] = [prediction, class].map(|index| NUMBERED_MARGIN + index * 40 + 20);
            let [red, green, blue] = image.get_pixel(x, y).0;
            RGBColor(red, green, blue)
        };
        assert_eq!((pixel(1, 1), pixel(0, 2), pixel(0, 1)), (shade(1.0), shade(0.5), shade(0.0)));
        assert_eq!(pixel(0, 2), pixel(0, 0));
        let line = image.get_pixel(NUMBERED_MARGIN + 39, NUMBERED_MARGIN + 20).0;
        assert_eq!(line, [255; 3]);
    }

    #[test]
    fn rows_and_columns_are_numbered_where_there_is_room() {
        let numbered = |classes: usize| {
            let image = draw(&Confusion::new(classes)).unwrap();
            let mut pixels = image.enumerate_pixels();
            pixels.any(|(x, y, pixel)| x.min(y) < NUMBERED_MARGIN && pixel.0 == [90; 3])
        };
        assert!(numbered(1) && numbered(80) && !numbered(81));
    }

    #[test]
    fn any_number_of_classes_can_be_drawn() {
        for classes in [1, 2, 80, 1000] {
            let image = draw(&Confusion::new(classes)).unwrap();
            assert!(image.width() == image.height() && image.width() <= 2100);
        }
    }
}
