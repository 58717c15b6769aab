//! Every augmentation of self-supervised pretraining, computed ahead of time.
//!
//! Data pass through this crate from left to right, one folder for each stage; imports point to the
//! left:
//!
//! ```text
//! sources → images (decode) → views (parameters, boxes, pixels) → codec (encode) → prepare
//!                                                                               → inspect
//! ```
//!
//! A program calls [`prepare::Job::plan`] and then [`prepare::Job::run`].

#![deny(missing_docs)]

pub mod codec;
mod error;
pub mod images;
pub mod inspect;
pub mod prepare;
pub mod simd;
pub mod sources;
pub mod views;

pub use error::{Error, Result};
