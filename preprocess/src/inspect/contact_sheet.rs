//! The contact sheet: pairs side by side with numbered matched boxes in matching colors, and
//! captions.

use std::convert::Infallible;
use std::io::Cursor;

use embedded_graphics::Pixel;
use embedded_graphics::mono_font::iso_8859_1::{FONT_6X10, FONT_6X13};
use embedded_graphics::mono_font::{MonoFont, MonoTextStyle};
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::{
    PrimitiveStyle, PrimitiveStyleBuilder, Rectangle, StrokeAlignment,
};
use embedded_graphics::text::{Baseline, Text};
use image::imageops::{FilterType, replace, resize};
use image::{ImageFormat, Rgb, RgbImage};
use scrl_schemas::{Box2, ViewParams};

use super::pairs::Pair;
use super::palette::{color, text_color};
use crate::{Error, Result};

const BACKGROUND: [u8; 3] = [0xFA, 0xF9, 0xF6];
const TEXT: [u8; 3] = [0x22, 0x24, 0x26];
const FAINT_TEXT: [u8; 3] = [0x6B, 0x6E, 0x70];
/// Smaller views are enlarged to this many pixels, so that numbers fit.
const LEAST_SIDE: u32 = 192;
const MARGIN: i32 = 20;
/// Between the views of a pair, and between pairs.
const GAP: i32 = 4;
const GUTTER: i32 = 24;
/// Two lines of text below a pair.
const CAPTION: i32 = 40;
/// Pixels of an arm of the cross that shows a point.
const CROSS: i32 = 6;
/// Where a point's number is.
const NUMBER_BESIDE: Point = Point::new(6, 4);
/// Largest number of columns, so that the sheet fits on a screen.
const MOST_COLUMNS: usize = 3;

/// Draws the pairs and encodes the sheet as PNG. `size` is the side of a view in pixels.
///
/// # Errors
/// [`Error::Encode`] if the encoder fails, as for a sheet too large for one image.
pub fn png(pairs: &[Pair], size: u32) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    draw(pairs, size)
        .write_to(&mut bytes, ImageFormat::Png)
        .map_err(|error| Error::Encode(error.to_string()))?;
    Ok(bytes.into_inner())
}

/// The pixels of the contact sheet.
fn draw(pairs: &[Pair], size: u32) -> RgbImage {
    let zoom = LEAST_SIDE.div_ceil(size).max(1);
    let side = (size * zoom) as i32;
    let columns = (pairs.len() as f64).sqrt().ceil().clamp(1.0, MOST_COLUMNS as f64) as usize;
    let lines = pairs.len().div_ceil(columns).max(1) as i32;
    let (cell_width, cell_height) = (2 * side + GAP, side + CAPTION);
    let width = 2 * MARGIN + columns as i32 * (cell_width + GUTTER) - GUTTER;
    let height = 2 * MARGIN + lines * (cell_height + GUTTER) - GUTTER;
    let mut canvas = Canvas(RgbImage::from_pixel(width as u32, height as u32, Rgb(BACKGROUND)));
    for (index, pair) in pairs.iter().enumerate() {
        let x = MARGIN + (index % columns) as i32 * (cell_width + GUTTER);
        let y = MARGIN + (index / columns) as i32 * (cell_height + GUTTER);
        canvas.pair(pair, Point::new(x, y), side, zoom);
    }
    canvas.0
}

/// An image to draw on; nothing is drawn beyond its border.
struct Canvas(RgbImage);

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        Size::new(self.0.width(), self.0.height())
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(
        &mut self,
        pixels: I,
    ) -> std::result::Result<(), Infallible> {
        for Pixel(at, color) in pixels {
            let (Ok(x), Ok(y)) = (u32::try_from(at.x), u32::try_from(at.y)) else { continue };
            if let Some(pixel) = self.0.get_pixel_mut_checked(x, y) {
                *pixel = Rgb([color.r(), color.g(), color.b()]);
            }
        }
        Ok(())
    }
}

fn rgb([red, green, blue]: [u8; 3]) -> Rgb888 {
    Rgb888::new(red, green, blue)
}

impl Canvas {
    fn pair(&mut self, pair: &Pair, at: Point, side: i32, zoom: u32) {
        for (view, image) in pair.views.iter().enumerate() {
            let corner = at + Point::new(view as i32 * (side + GAP), 0);
            let side = side as u32;
            let enlarged = (zoom > 1).then(|| resize(image, side, side, FilterType::Nearest));
            replace(
                &mut self.0,
                enlarged.as_ref().unwrap_or(image),
                corner.x.into(),
                corner.y.into(),
            );
            let boxes: Vec<Box2> = pair
                .row
                .boxes
                .iter()
                .map(|matched| if view == 0 { matched.view1 } else { matched.view2 })
                .collect();
            // The numbers after all outlines, so that no later box crosses them out.
            for (number, of) in boxes.iter().enumerate() {
                let rectangle = to_rectangle(*of, corner, zoom);
                if of.is_point() {
                    self.cross(rectangle.top_left, number);
                } else {
                    self.outline(&rectangle, number);
                }
            }
            for (number, of) in boxes.iter().enumerate() {
                let rectangle = to_rectangle(*of, corner, zoom);
                // Beside a point, so that it stays visible.
                let beside = if of.is_point() { NUMBER_BESIDE } else { Point::zero() };
                self.number(rectangle.top_left + beside, number);
            }
        }
        let letters = (2 * side + GAP) as usize / 6;
        let below = at + Point::new(0, side + 4);
        self.text(&shorten(&pair.row.path, letters), below, &FONT_6X13, TEXT);
        let views = pair.params().map(describe);
        let line = format!("epoch {} | 1: {} | 2: {}", pair.epoch, views[0], views[1]);
        self.text(&shorten(&line, letters), below + Point::new(0, 16), &FONT_6X10, FAINT_TEXT);
    }

    /// Draws a box's outline in its color, between two thin dark ones, so that it is visible on any
    /// image.
    fn outline(&mut self, rectangle: &Rectangle, number: usize) {
        let stroke = |color: [u8; 3], width: u32| {
            PrimitiveStyleBuilder::new()
                .stroke_color(rgb(color))
                .stroke_width(width)
                .stroke_alignment(StrokeAlignment::Inside)
                .build()
        };
        let Ok(()) = rectangle.into_styled(stroke([0; 3], 4)).draw(self);
        let inner = Rectangle::new(
            rectangle.top_left + Point::new(1, 1),
            Size::new(
                rectangle.size.width.saturating_sub(2),
                rectangle.size.height.saturating_sub(2),
            ),
        );
        let Ok(()) = inner.into_styled(stroke(color(number), 2)).draw(self);
    }

    /// Draws a point as a cross in its color on a larger dark one.
    fn cross(&mut self, at: Point, number: usize) {
        for (half, thick, fill) in [(CROSS + 1, 2, [0; 3]), (CROSS, 1, color(number))] {
            for arm in [Point::new(half, thick), Point::new(thick, half)] {
                let size = Size::new(2 * arm.x as u32 + 1, 2 * arm.y as u32 + 1);
                let style = PrimitiveStyle::with_fill(rgb(fill));
                let Ok(()) = Rectangle::new(at - arm, size).into_styled(style).draw(self);
            }
        }
    }

    /// Draws a box's number, from 1, with its corner at `at`.
    fn number(&mut self, at: Point, number: usize) {
        let text = (number + 1).to_string();
        let size = Size::new(6 * text.len() as u32 + 5, 12);
        let Ok(()) = Rectangle::new(at, size + Size::new(1, 1))
            .into_styled(PrimitiveStyle::with_fill(rgb([0; 3])))
            .draw(self);
        let Ok(()) = Rectangle::new(at, size)
            .into_styled(PrimitiveStyle::with_fill(rgb(color(number))))
            .draw(self);
        self.text(&text, at + Point::new(3, 1), &FONT_6X10, text_color(color(number)));
    }

    fn text(&mut self, text: &str, at: Point, font: &MonoFont, color: [u8; 3]) {
        let style = MonoTextStyle::new(font, rgb(color));
        let Ok(_) = Text::with_baseline(text, at, style, Baseline::Top).draw(self);
    }
}

/// The rectangle of a box on the contact sheet.
fn to_rectangle(of: Box2, corner: Point, zoom: u32) -> Rectangle {
    let pixel = |value: f32| (value * zoom as f32).round() as i32;
    let first = Point::new(pixel(of.x0), pixel(of.y0));
    let last = Point::new(pixel(of.x1), pixel(of.y1));
    Rectangle::new(
        corner + first,
        Size::new((last.x - first.x).max(1) as u32, (last.y - first.y).max(1) as u32),
    )
}

/// The steps applied to a view besides the crop, in a few words.
pub(super) fn describe(params: &ViewParams) -> String {
    let blur = params.blur.map(|strength| format!("blur {strength:.1}"));
    let words = [
        params.flip.then(|| "flip".to_owned()),
        params.vertical_flip.then(|| "vflip".to_owned()),
        (params.turns > 0).then(|| format!("rot{}", 90 * i32::from(params.turns))),
        params.jitter.is_some().then(|| "jitter".to_owned()),
        params.grayscale.then(|| "gray".to_owned()),
        blur,
        params.solarize.then(|| "solarize".to_owned()),
    ];
    let words: Vec<String> = words.into_iter().flatten().collect();
    if words.is_empty() { "crop only".to_owned() } else { words.join(" ") }
}

/// Shortens a text to at most `most` letters by cutting out its middle, as the ends of a path
/// matter most.
fn shorten(text: &str, most: usize) -> String {
    let letters: Vec<char> = text.chars().collect();
    if letters.len() <= most {
        return text.to_owned();
    }
    let kept = most.saturating_sub(3);
    let (front, back) = (kept / 2, kept - kept / 2);
    let end = &letters[letters.len() - back..];
    letters[..front].iter().chain(&['.'; 3]).chain(end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_keep_both_ends() {
        assert_eq!(shorten("class/image.jpg", 20), "class/image.jpg");
        assert_eq!(shorten("a very long class/image.jpg", 15), "a very...ge.jpg");
        assert_eq!(shorten("ünïcödé", 5), "ü...é");
    }

    #[test]
    fn a_box_is_outlined_in_its_color_and_numbered() {
        let mut canvas = Canvas(RgbImage::from_pixel(100, 100, Rgb([9, 9, 9])));
        let rectangle =
            to_rectangle(Box2 { x0: 10.0, y0: 20.0, x1: 60.0, y1: 90.0 }, Point::zero(), 1);
        canvas.outline(&rectangle, 1);
        canvas.number(rectangle.top_left, 1);
        assert_eq!(canvas.0.get_pixel(40, 20).0, [0; 3]);
        assert_eq!(canvas.0.get_pixel(40, 21).0, color(1));
        assert_eq!(canvas.0.get_pixel(58, 60).0, color(1));
        assert_eq!(canvas.0.get_pixel(40, 60).0, [9; 3]);
        assert_eq!(canvas.0.get_pixel(11, 25).0, color(1));
    }

    #[test]
    fn a_point_is_a_cross() {
        let mut canvas = Canvas(RgbImage::from_pixel(100, 100, Rgb([9, 9, 9])));
        canvas.cross(Point::new(50, 40), 2);
        for (x, y) in [(50, 40), (56, 40), (44, 41), (50, 46), (49, 34)] {
            assert_eq!(canvas.0.get_pixel(x, y).0, color(2), "{x} {y}");
        }
        assert_eq!(canvas.0.get_pixel(57, 40).0, [0; 3]);
        assert_eq!(canvas.0.get_pixel(55, 45).0, [9; 3]);
        // Beyond the border of the canvas.
        canvas.cross(Point::new(0, 99), 0);
    }
}
