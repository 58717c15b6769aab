//! Milliseconds of each stage for one view of 224 × 224: `cargo bench -p scrl-preprocess`.

use std::hint::black_box;
use std::io::Cursor;

use criterion::{Criterion, criterion_group, criterion_main};
use scrl_preprocess::config::{Overrides, resolve};
use scrl_preprocess::decode::{RgbImage, decode};
use scrl_preprocess::draw::{ImageSize, ViewIndex, draw_view};
use scrl_preprocess::encode::ViewEncoder;
use scrl_preprocess::render::{RenderOptions, Renderer};
use scrl_preprocess::rows::draw_recipe;
use scrl_schemas::{BlurKind, ColorJitter, ColorStep, Crop, Encoding, Epoch, Exif, Preset, ViewParams};

/// Sides of a common photo, in pixels.
const SOURCE: (u32, u32) = (500, 375);
const OPTIONS: RenderOptions = RenderOptions { size: 224, blur: BlurKind::Gaussian };

/// Soft shapes with some noise, which compress about as photos do.
fn photo() -> image::RgbImage {
    let mut noise = 1u32;
    image::RgbImage::from_fn(SOURCE.0, SOURCE.1, |x, y| {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (x, y) = (x as f32, y as f32);
        let wave = |a: f32, b: f32| 110.0 + 90.0 * (x / a).sin() * (y / b).cos() + (noise >> 28) as f32;
        image::Rgb([wave(31.0, 47.0) as u8, wave(53.0, 23.0) as u8, wave(71.0, 19.0) as u8])
    })
}

fn stages(criterion: &mut Criterion) {
    let photo = photo();
    let mut jpeg = Cursor::new(Vec::new());
    photo.write_to(&mut jpeg, image::ImageFormat::Jpeg).expect("memory takes any picture");
    criterion.bench_function("decode", |b| b.iter(|| decode(black_box(jpeg.get_ref()), Exif::Ignore)));

    let size = ImageSize { width: SOURCE.0 as i32, height: SOURCE.1 as i32 };
    let source = RgbImage { size, pixels: photo.into_raw() };
    let plain = ViewParams {
        crop: Crop { x: 40, y: 30, width: 340, height: 300 },
        flip: false,
        jitter: None,
        grayscale: false,
        blur: None,
        solarize: false,
    };
    let jitter =
        ColorJitter { brightness: 1.2, contrast: 0.8, saturation: 1.1, hue: 0.05, order: ColorStep::ALL };
    let color = ViewParams { jitter: Some(jitter), ..plain };
    let mut renderer = Renderer::default();
    let mut view = Vec::new();
    for (name, params) in [
        ("resize", plain),
        ("resize, color", color),
        ("resize, color, mirror", ViewParams { flip: true, ..color }),
        ("resize, color, blur σ 1", ViewParams { blur: Some(1.0), ..color }),
        ("resize, color, blur σ 2", ViewParams { blur: Some(2.0), ..color }),
    ] {
        criterion.bench_function(name, |b| {
            b.iter(|| renderer.render(&source, black_box(&params), OPTIONS, &mut view));
        });
    }
    let mut encoder = ViewEncoder::default();
    for encoding in [Encoding::Webp, Encoding::Jpeg] {
        criterion.bench_function(&format!("encode {encoding}"), |b| {
            b.iter(|| encoder.encode(black_box(&view), 224, encoding, 95, "view"));
        });
    }
    let options = resolve(Preset::Paper, &Overrides::default()).expect("the defaults are sound");
    criterion.bench_function("draw a view", |b| {
        b.iter(|| draw_view(1, 2, black_box(3), ViewIndex::First, size, &options));
    });
    criterion.bench_function("draw a pair with its boxes", |b| {
        b.iter(|| draw_recipe(1, Epoch(2), black_box(3), size, &options));
    });
}

criterion_group!(benches, stages);
criterion_main!(benches);
