//! Every augmentation of self-supervised pretraining, computed ahead of time.
//!
//! The data's way through this crate, one folder a station; imports run from right to left:
//!
//! ```text
//! sources → images (decode) → views (parameters, boxes, pixels) → codec (encode) → prepare (rows, shards)
//!                                                                                └→ inspect
//! ```
//!
//! A program calls [`prepare::Job::plan`] and then [`prepare::Job::run`].

#![deny(missing_docs)]

pub mod codec;
mod error;
pub mod images;
pub mod inspect;
pub mod prepare;
mod simd;
pub mod sources;
pub mod views;

pub use error::{Error, Result};
