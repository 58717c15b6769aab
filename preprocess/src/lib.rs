//! Every augmentation of self-supervised pretraining, computed ahead of time.
//!
//! The data's way through this crate, one module a station:
//!
//! ```text
//! sources → order → draw → decode → render → encode → rows ─→ parts of Parquet (scrl_schemas)
//!                     └──→ boxes ────────────────────────┘
//! ```
//!
//! [`rng`] gives each row numbers that depend on the seed, the epoch and the image alone.

#![deny(missing_docs)]

pub mod rng;
