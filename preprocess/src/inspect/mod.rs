//! Inspecting a shards folder: statistics, verification, and images of its pairs.
//!
//! ```text
//! Shards ─┬─ distributions → summary (text, JSON), page
//!         ├─ verify                → faults
//!         └─ pairs (a sample)      → contact sheet (PNG), page (HTML)
//! ```
//!
//! [`Shards`] is the folder; nothing here writes into it.

mod compare;
pub mod contact_sheet;
pub mod distributions;
mod histogram;
mod options;
pub mod page;
pub mod pairs;
mod palette;
mod requested;
mod shards;
pub mod summary;
pub mod verify;

pub use options::Options;
pub use shards::Shards;
