//! The pixels of a view between two steps.

/// Red, green and blue as separate planes, `[size, size]` each, values in [0, 1].
#[derive(Debug, Default)]
pub(super) struct Planes {
    pub red: Vec<f32>,
    pub green: Vec<f32>,
    pub blue: Vec<f32>,
}

impl Planes {
    /// Makes room for this number of pixels.
    pub fn resize(&mut self, pixels: usize) {
        for plane in [&mut self.red, &mut self.green, &mut self.blue] {
            plane.resize(pixels, 0.0);
        }
    }
}
