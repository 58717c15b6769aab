//! stub
use super::{Shards,distributions::Distributions,pairs::Pair};
/// stub
pub fn html(_: &Shards, _: &Distributions, _: &Distributions, _: &[Pair]) -> crate::Result<String> { Ok(String::new()) }
