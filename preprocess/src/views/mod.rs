//! The two views of an image: their parameters, the boxes that both show, their pixels.

pub mod boxes;
pub mod method;
pub mod params;
pub mod render;
pub mod rng;
