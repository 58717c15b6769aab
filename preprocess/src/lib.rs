//! Every augmentation of self-supervised pretraining, computed ahead of time.
//!
//! The data's way through this crate, one module a station:
//!
//! ```text
//! sources → order → decode → draw → render → encode → rows → group → parts of Parquet (scrl_schemas)
//!                              └──→ boxes ──────────────┘
//! ```
//!
//! [`rng`] gives each row numbers that depend on the seed, the epoch and the image alone; [`config`] holds what a run
//! is asked to do; [`method`] the numbers of the method; [`prepare`] goes group by group through the epochs. A program calls [`prepare::Job::plan`] and then
//! [`prepare::Job::run`].

#![deny(missing_docs)]

pub mod boxes;
pub mod config;
pub mod decode;
pub mod draw;
pub mod encode;
mod error;
pub mod estimate;
pub mod folder;
mod group;
mod huffman;
pub mod inspect;
mod journal;
mod lanes;
pub mod method;
pub mod order;
pub mod prepare;
pub mod render;
pub mod rng;
pub mod rows;
pub mod sources;
mod webp;
mod writers;

pub use error::{Error, Result};
