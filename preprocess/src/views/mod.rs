//! The two views of an image: their parameters, their matched boxes, their pixels.

mod boxes;
pub mod method;
pub mod params;
pub mod recipe;
pub mod render;
pub mod rng;
