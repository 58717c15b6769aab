//! stub
use crate::Result;
use scrl_cli::Reporter;
use scrl_preprocess::images::RgbImage;
pub(super) struct PageInput<'a> {
    pub title: String,
    pub rows: &'a [PageRow],
    pub arms: &'a [PageArm],
    pub thumbnails: &'a (dyn Fn(usize) -> Result<RgbImage> + Sync),
    pub maps: &'a [FeatureMap],
    pub seed: u64,
}
pub(super) struct PageRow {
    pub path: String,
    pub class: Option<String>,
    pub image: u32,
    pub bbox: Option<[f32; 4]>,
}
pub(super) struct PageArm {
    pub name: String,
    pub embeddings: Vec<f32>,
    pub channels: usize,
}
pub(super) struct FeatureMap {
    pub image: RgbImage,
    pub arms: Vec<(Vec<f32>, [usize; 3])>,
}
pub(super) fn write_page(_: &PageInput, _: &Reporter) -> Result<String> {
    Ok(String::new())
}
