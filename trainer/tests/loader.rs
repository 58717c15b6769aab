//! The loader returns the rows of the shards, complete and in order.

mod prepared;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prepared::{Prepared, rows};
use scrl_cli::Reporter;
use scrl_schemas::{Row, SourceOptions, ViewEncoding};
use scrl_trainer::data::{Batch, Dataset, Loader, LoaderConfig, SourceImages, read_last_pairs};

const SIZE: usize = 64;

fn source_images(images: PathBuf) -> SourceImages {
    SourceImages::new(images, SourceOptions::default())
}

fn load(
    shards: &Path,
    change: impl FnOnce(&mut LoaderConfig),
) -> Result<Vec<Batch>, scrl_trainer::Error> {
    let dataset = Dataset::open(shards).unwrap();
    let mut config = LoaderConfig {
        batch_size: 4,
        own: 0..4,
        batches_per_epoch: dataset.rows_per_epoch() / 4,
        epochs: dataset.manifest().epochs,
        held_out: 0,
        skip: 0,
        sources: Arc::new(source_images(dataset.manifest().images.clone().into())),
        threads: 2,
        follow: false,
    };
    change(&mut config);
    let loader = Loader::start(&dataset, config)?;
    std::iter::from_fn(|| loader.next_batch(&Reporter::silent()).transpose()).collect()
}

/// Expects a batch to hold exactly these rows.
fn check(batch: &Batch, rows: &[Row]) {
    assert_eq!(batch.image_ids, rows.iter().map(|row| row.image_id).collect::<Vec<_>>());
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for (index, row) in rows.iter().enumerate() {
        for (views, view) in [(index, &row.view1), (rows.len() + index, &row.view2)] {
            let bytes = &view.image.as_ref().unwrap().bytes;
            let decoded = image::load_from_memory(bytes).unwrap().into_rgb8();
            let pixels = &batch.pixels[views * SIZE * SIZE * 3..][..SIZE * SIZE * 3];
            assert!(decoded.as_raw() == pixels, "view {views} of the batch");
        }
        for matched in &row.boxes {
            first.push([
                index as f32,
                matched.view1.x0,
                matched.view1.y0,
                matched.view1.x1,
                matched.view1.y1,
            ]);
            let view = (rows.len() + index) as f32;
            second.push([
                view,
                matched.view2.x0,
                matched.view2.y0,
                matched.view2.x1,
                matched.view2.y1,
            ]);
        }
    }
    assert_eq!(batch.matches, first.len());
    assert_eq!(batch.rois, [first, second].concat().concat());
}

#[test]
fn rows_come_in_order_and_the_last_short_batch_is_dropped() {
    let prepared = Prepared::images(14);
    for encoding in [ViewEncoding::Webp, ViewEncoding::Jpeg] {
        let shards = prepared.prepare(encoding.name(), 2, encoding);
        let batches = load(&shards, |_| ()).unwrap();
        assert_eq!(batches.len(), 6);
        for (index, batch) in batches.iter().enumerate() {
            let (epoch, position) = (index / 3, index % 3 * 4);
            assert_eq!(batch.epoch.0 as usize, epoch);
            check(batch, &rows(&shards, epoch as u32)[position..position + 4]);
        }
        assert!(batches.iter().map(|batch| batch.matches).sum::<usize>() > 50);
    }
}

#[test]
fn skipping_batches_changes_nothing_else() {
    let prepared = Prepared::images(14);
    let shards = prepared.prepare("shards", 2, ViewEncoding::Webp);
    let all = load(&shards, |_| ()).unwrap();
    for skip in 0..=6 {
        let rest = load(&shards, |config| config.skip = skip).unwrap();
        assert!(rest == all[skip as usize..], "skip {skip}");
    }
    assert!(load(&shards, |config| config.threads = 1).unwrap() == all);
}

#[test]
fn the_first_batches_take_the_place_of_held_out_ones_in_epoch_0_alone() {
    let prepared = Prepared::images(14);
    let shards = prepared.prepare("shards", 2, ViewEncoding::Webp);
    let all = load(&shards, |_| ()).unwrap();
    let with = |held_out, skip| {
        load(&shards, |config| (config.held_out, config.skip) = (held_out, skip)).unwrap()
    };
    let expected: Vec<Batch> = [0, 0, 1, 3, 4, 5].map(|batch| all[batch].clone()).into();
    for skip in 0..=6 {
        assert!(with(2, skip) == expected[skip as usize..], "skip {skip}");
    }
    let expected: Vec<Batch> = [0, 1, 0, 3, 4, 5].map(|batch| all[batch].clone()).into();
    assert!(with(1, 0) == expected);
}

#[test]
fn held_out_pairs_are_the_last_rows_of_epoch_0() {
    let prepared = Prepared::images(14);
    for encoding in [ViewEncoding::Webp, ViewEncoding::Recipe] {
        let shards = prepared.prepare(encoding.name(), 1, encoding);
        let dataset = Dataset::open(&shards).unwrap();
        let sources = source_images(dataset.manifest().images.clone().into());
        let batches = read_last_pairs(&dataset, &sources, 2, 3).unwrap();
        let rows = rows(&prepared.path("webp"), 0);
        for (batch, rows) in batches.iter().zip(rows[8..].chunks(3)) {
            check(batch, rows);
        }
        assert_eq!(batches.len(), 2);
        fs::remove_dir_all(shards.join("epoch=00000")).unwrap();
        let message = read_last_pairs(&dataset, &sources, 2, 3).unwrap_err().to_string();
        assert!(message.contains("epoch=00000"), "{message}");
        prepared.prepare(encoding.name(), 1, encoding);
    }
}

#[test]
fn recipe_shards_give_the_same_pixels() {
    let prepared = Prepared::images(8);
    let pixels = prepared.prepare("pixels", 2, ViewEncoding::Webp);
    let recipe = prepared.prepare("recipe", 2, ViewEncoding::Recipe);
    assert!(rows(&recipe, 0).iter().all(|row| row.view1.image.is_none()));
    assert!(load(&pixels, |_| ()).unwrap() == load(&recipe, |_| ()).unwrap());
}

#[test]
fn what_is_missing_is_named() {
    let prepared = Prepared::images(8);
    let recipe = prepared.prepare("recipe", 1, ViewEncoding::Recipe);
    let message =
        load(&recipe, |config| config.sources = Arc::new(source_images("/nowhere".into())))
            .unwrap_err()
            .to_string();
    assert!(message.starts_with("/nowhere/") && message.contains("--images"), "{message}");

    let shards = prepared.prepare("shards", 2, ViewEncoding::Webp);
    fs::remove_file(shards.join("epoch=00001/_SUCCESS")).unwrap();
    let message = load(&shards, |_| ()).unwrap_err().to_string();
    assert!(message.contains("epoch=00001: this epoch is not finished"), "{message}");

    fs::remove_file(shards.join("epoch=00000/part-00001.parquet")).unwrap();
    let message = load(&shards, |config| config.epochs = 1).unwrap_err().to_string();
    assert!(message.contains("part-00001.parquet"), "{message}");

    let message = Dataset::open(&prepared.path("images")).unwrap_err().to_string();
    assert!(message.contains("no dataset.toml"), "{message}");
}
