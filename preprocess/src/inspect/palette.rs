//! The colors of matched boxes.

/// Ten colors that differ in lightness where hue does not help: chosen so that the two most similar
/// ones are as different as possible (0.14 in Oklab) with and without each kind of color blindness.
pub(super) const COLORS: [[u8; 3]; 10] = [
    [0xEE, 0x88, 0x44],
    [0x44, 0x88, 0xAA],
    [0x44, 0xFF, 0x00],
    [0x88, 0x22, 0x44],
    [0xFF, 0xFF, 0xFF],
    [0xAA, 0x00, 0xFF],
    [0x88, 0xAA, 0xFF],
    [0xCC, 0x44, 0x00],
    [0x66, 0x22, 0xAA],
    [0xCC, 0xCC, 0xCC],
];

/// The color of a row's box, by the box's number from 0.
pub(super) fn color(number: usize) -> [u8; 3] {
    COLORS[number % COLORS.len()]
}

/// Black or white, whichever is easier to read on a color.
pub(super) fn text_color([red, green, blue]: [u8; 3]) -> [u8; 3] {
    let light = 299 * u32::from(red) + 587 * u32::from(green) + 114 * u32::from(blue);
    if light > 128_000 { [0; 3] } else { [255; 3] }
}

/// A color in CSS, `#rrggbb`.
pub(super) fn css([red, green, blue]: [u8; 3]) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}
