//! The time of each stage for one view of 224 × 224: `cargo bench --workspace --locked --bench
//! stages`.
//!
//! On a synthetic image that compresses about as photos do, or on the first JPEGs of the folder in
//! `SCRL_BENCH_IMAGES`.

use std::hint::black_box;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use criterion::{Criterion, criterion_group, criterion_main};
use scrl_preprocess::codec::ViewEncoder;
use scrl_preprocess::images::{RgbImage, decode, decode_view};
use scrl_preprocess::prepare::Options;
use scrl_preprocess::prepare::rows::RowMaker;
use scrl_preprocess::views::params::{ViewIndex, draw_view};
use scrl_preprocess::views::recipe::draw_recipe;
use scrl_preprocess::views::render::{RenderOptions, Renderer};
use scrl_schemas::{
    BlurKind, ColorJitter, ColorStep, Crop, Epoch, Exif, PrepOptions, Source, ViewEncoding,
    ViewParams,
};

/// Width and height of the synthetic image, in pixels.
const IMAGE: (u32, u32) = (500, 375);
/// Largest number of images taken from a folder.
const MOST_IMAGES: usize = 32;
const GAUSSIAN: RenderOptions = RenderOptions { size: 224, blur: BlurKind::Gaussian };
/// Pixels of a view.
const PIXELS: usize = 224 * 224;
const RESIZE: RenderOptions = RenderOptions { size: 224, blur: BlurKind::Resize };

/// An image, encoded and decoded.
struct BenchImage {
    jpeg: Vec<u8>,
    decoded: RgbImage,
}

/// Draws shapes of all sizes, small ones fainter, as in photos, and a little noise.
fn draw_image() -> Vec<u8> {
    let hash = |x: u32, y: u32, salt: u32| {
        let mixed = (x.wrapping_mul(0x9E37_79B1)
            ^ y.wrapping_mul(0x85EB_CA77)
            ^ salt.wrapping_mul(0xC2B2_AE3D))
        .wrapping_mul(0x27D4_EB2F);
        (mixed ^ (mixed >> 15)).wrapping_mul(0x9E37_79B1) as f32 / u32::MAX as f32 - 0.5
    };
    let octave = |x: u32, y: u32, cell: u32, salt: u32| {
        let (column, row) = (x / cell, y / cell);
        let [fx, fy] = [x, y].map(|at| (at % cell) as f32 / cell as f32);
        let line = |row| (1.0 - fx) * hash(column, row, salt) + fx * hash(column + 1, row, salt);
        (1.0 - fy) * line(row) + fy * line(row + 1)
    };
    let drawn = image::RgbImage::from_fn(IMAGE.0, IMAGE.1, |x, y| {
        let shape: f32 = (1..8)
            .map(|level| octave(x, y, 1 << level, level) * 6.0 * 1.7f32.powi(level as i32))
            .sum();
        let tint = |salt| 0.25 * octave(x, y, 64, salt) * 64.0 + 8.0 * hash(x, y, salt);
        image::Rgb([11, 12, 13].map(|salt| (120.0 + shape + tint(salt)) as u8))
    });
    let mut jpeg = Cursor::new(Vec::new());
    drawn.write_to(&mut jpeg, image::ImageFormat::Jpeg).expect("memory takes any image");
    jpeg.into_inner()
}

/// Finds JPEGs in a folder and its subfolders, sorted by name.
fn find_jpegs(folder: &Path, found: &mut Vec<PathBuf>) {
    let entries =
        std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    for path in paths {
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
        if path.is_dir() {
            find_jpegs(&path, found);
        } else if found.len() < MOST_IMAGES
            && ending.is_some_and(|ending| ending == "jpg" || ending == "jpeg")
        {
            found.push(path);
        }
    }
}

fn load_images() -> Vec<BenchImage> {
    let files = match std::env::var_os("SCRL_BENCH_IMAGES") {
        None => vec![draw_image()],
        Some(folder) => {
            let mut paths = Vec::new();
            find_jpegs(Path::new(&folder), &mut paths);
            paths.iter().filter_map(|path| std::fs::read(path).ok()).collect()
        }
    };
    let images: Vec<BenchImage> = files
        .into_iter()
        .filter_map(|jpeg| Some(BenchImage { decoded: decode(&jpeg, Exif::Ignore).ok()?, jpeg }))
        .collect();
    assert!(!images.is_empty(), "SCRL_BENCH_IMAGES holds no JPEG that can be read");
    images
}

/// Calls `run` with each image in turn and a counter.
fn bench(
    criterion: &mut Criterion,
    name: &str,
    images: &[BenchImage],
    mut run: impl FnMut(&BenchImage, u32),
) {
    let mut turn = 0;
    criterion.bench_function(name, |bencher| {
        bencher.iter(|| {
            run(&images[turn as usize % images.len()], turn);
            turn += 1;
        });
    });
}

/// A crop of 80 % of each side, without other steps.
fn plain(image: &RgbImage) -> ViewParams {
    let (width, height) = (image.size.width, image.size.height);
    let [w, h] = [width, height].map(|side| (side * 4 / 5).max(1));
    let (x, y) = ((width - w) / 2, (height - h) / 2);
    ViewParams::of_crop(Crop { x, y, width: w, height: h })
}

fn views(criterion: &mut Criterion, images: &[BenchImage]) {
    type Change = fn(ViewParams) -> ViewParams;
    fn with_jitter(params: ViewParams) -> ViewParams {
        // Contrast in the middle: two sweeps with steps in each.
        let [brightness, contrast, saturation, hue] = ColorStep::ALL;
        let order = [brightness, hue, contrast, saturation];
        let jitter =
            ColorJitter { brightness: 1.2, contrast: 0.8, saturation: 1.1, hue: 0.05, order };
        ViewParams { jitter: Some(jitter), ..params }
    }
    let changes: [(&str, RenderOptions, Change); 11] = [
        ("crop and resize", GAUSSIAN, |params| params),
        ("crop and resize, flip", GAUSSIAN, |params| ViewParams { flip: true, ..params }),
        ("crop and resize, vertical flip", GAUSSIAN, |params| ViewParams {
            vertical_flip: true,
            ..params
        }),
        ("crop and resize, quarter turn", GAUSSIAN, |params| ViewParams { turns: 1, ..params }),
        ("crop and resize, color jitter", GAUSSIAN, with_jitter),
        ("crop and resize, grayscale", GAUSSIAN, |params| ViewParams { grayscale: true, ..params }),
        ("crop and resize, blur σ 1", GAUSSIAN, |params| ViewParams { blur: Some(1.0), ..params }),
        ("crop and resize, blur σ 2", GAUSSIAN, |params| ViewParams { blur: Some(2.0), ..params }),
        ("crop and resize, resize blur", RESIZE, |params| ViewParams { blur: Some(1.2), ..params }),
        ("crop and resize, solarize", GAUSSIAN, |params| ViewParams { solarize: true, ..params }),
        ("crop and resize, all of them", GAUSSIAN, |params| ViewParams {
            flip: true,
            grayscale: true,
            blur: Some(1.0),
            solarize: true,
            ..with_jitter(params)
        }),
    ];
    let mut renderer = Renderer::default();
    let mut view = vec![[0; 4]; PIXELS];
    for (name, options, change) in changes {
        bench(criterion, name, images, |image, _| {
            renderer.render(
                &image.decoded,
                black_box(&change(plain(&image.decoded))),
                options,
                &mut view,
            );
        });
    }
}

fn encoders(criterion: &mut Criterion, images: &[BenchImage], options: &PrepOptions) {
    // Random views: sharp, blurred, gray.
    let views: Vec<Vec<[u8; 4]>> = (0..32)
        .map(|number| {
            let image = &images[number as usize % images.len()];
            let which = if number % 2 == 0 { ViewIndex::First } else { ViewIndex::Second };
            let params = draw_view(1, number, 0, which, image.decoded.size, options);
            let mut view = vec![[0; 4]; PIXELS];
            Renderer::default().render(&image.decoded, &params, GAUSSIAN, &mut view);
            view
        })
        .collect();
    let with_image_webp = |view: &[[u8; 4]]| {
        let view: Vec<u8> = view.iter().flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
        let mut file = Vec::new();
        image_webp::WebPEncoder::new(&mut file)
            .encode(&view, GAUSSIAN.size, GAUSSIAN.size, image_webp::ColorType::Rgb8)
            .expect("memory takes any image");
        file
    };
    let mut encoder = ViewEncoder::default();
    let mut encode = |view: &[[u8; 4]], encoding| {
        encoder
            .encode(view, GAUSSIAN.size, encoding, 95, "view")
            .expect("encodes")
            .expect("pixels")
            .bytes
    };
    let mean = |bytes: usize| bytes / views.len();
    println!(
        "bytes a view: webp {}, webp by image-webp {}, jpeg {}",
        mean(views.iter().map(|view| encode(view, ViewEncoding::Webp).len()).sum()),
        mean(views.iter().map(|view| with_image_webp(view).len()).sum()),
        mean(views.iter().map(|view| encode(view, ViewEncoding::Jpeg).len()).sum()),
    );
    for encoding in [ViewEncoding::Webp, ViewEncoding::Jpeg] {
        bench(criterion, &format!("encode {encoding}"), images, |_, turn| {
            black_box(encode(&views[turn as usize % views.len()], encoding));
        });
    }
    bench(criterion, "encode webp by image-webp", images, |_, turn| {
        black_box(with_image_webp(&views[turn as usize % views.len()]));
    });
    let size = GAUSSIAN.size as usize;
    let mut view = vec![0; size * size * 3];
    for encoding in [ViewEncoding::Webp, ViewEncoding::Jpeg] {
        let encoded: Vec<Vec<u8>> = views.iter().map(|view| encode(view, encoding)).collect();
        bench(criterion, &format!("decode {encoding}"), images, |_, turn| {
            decode_view(&encoded[turn as usize % views.len()], size, &mut view)
                .expect("just encoded");
            black_box(&view);
        });
    }
}

fn stages(criterion: &mut Criterion) {
    let options = Options::default().prep_options().expect("the defaults are valid");
    let images = load_images();
    bench(criterion, "decode a image", &images, |image, _| {
        black_box(decode(black_box(&image.jpeg), Exif::Ignore).expect("decoded before"));
    });
    bench(criterion, "draw a pair with its boxes", &images, |image, turn| {
        black_box(draw_recipe(1, Epoch(turn), 3, image.decoded.size, &options));
    });
    views(criterion, &images);
    encoders(criterion, &images, &options);
    let (mut renderer, mut encoder, mut view) =
        (Renderer::default(), ViewEncoder::default(), vec![[0; 4]; PIXELS]);
    bench(criterion, "whole view: draw, render, webp", &images, |image, turn| {
        let which = if turn % 2 == 0 { ViewIndex::First } else { ViewIndex::Second };
        let params = draw_view(1, turn, 0, which, image.decoded.size, &options);
        renderer.render(&image.decoded, &params, GAUSSIAN, &mut view);
        black_box(
            encoder.encode(&view, GAUSSIAN.size, ViewEncoding::Webp, 95, "view").expect("encodes"),
        );
    });
    let mut maker = RowMaker::default();
    let path = "image.jpg".to_owned();
    let source = Source { path, class: None, width: 0, height: 0, bytes: 0, error: None };
    bench(criterion, "whole row: both views and boxes", &images, |image, turn| {
        black_box(
            maker.make(0, &source, &image.decoded, 1, Epoch(turn), &options).expect("makes a row"),
        );
    });
}

criterion_group!(benches, stages);
criterion_main!(benches);
