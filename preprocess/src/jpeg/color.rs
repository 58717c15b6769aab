//! YCbCr to RGB.

/// Bits behind the point of the factors.
const SCALE: u32 = 16;
const HALF: i32 = 1 << (SCALE - 1);

/// A factor with [`SCALE`] bits behind the point.
const fn fixed(factor: f64) -> i32 {
    (factor * (1 << SCALE) as f64 + 0.5) as i32
}

/// Writes a line of pixels, red first, from the samples of its three components (JFIF 1.02, page 3).
#[inline(always)]
pub(super) fn write_rgb(y: &[u8], cb: &[u8], cr: &[u8], pixels: &mut [u8]) {
    const RED_OF_CR: i32 = fixed(1.402);
    const BLUE_OF_CB: i32 = fixed(1.772);
    const GREEN_OF_CB: i32 = fixed(0.344_14);
    const GREEN_OF_CR: i32 = fixed(0.714_14);
    let (pixels, _) = pixels.as_chunks_mut::<3>();
    for (((pixel, y), cb), cr) in pixels.iter_mut().zip(y).zip(cb).zip(cr) {
        let (y, cb, cr) = (i32::from(*y), i32::from(*cb) - 128, i32::from(*cr) - 128);
        let red = y + ((RED_OF_CR * cr + HALF) >> SCALE);
        let green = y + ((HALF - GREEN_OF_CB * cb - GREEN_OF_CR * cr) >> SCALE);
        let blue = y + ((BLUE_OF_CB * cb + HALF) >> SCALE);
        *pixel = [red, green, blue].map(|level| level.clamp(0, 255) as u8);
    }
}
