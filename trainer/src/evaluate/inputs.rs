//! Images as inputs of a backbone: decoded, resized, cropped, flipped, batched, ahead of the
//! backbone.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::{fs, thread};

use crossbeam_channel::bounded;
use rayon::prelude::*;
use scrl_cli::Reporter;
use scrl_preprocess::images::{Decoding, ImageSize, PixelOptions, RgbImage, Unreadable, decode};
use scrl_preprocess::sources::Sources;
use scrl_preprocess::views::render::Renderer;

use crate::{Error, Result};

/// Bytes of resized images that are kept, so that each is decoded once.
const KEPT_BYTES: usize = 1 << 30;

/// Batches that are decoded side by side, so that no thread waits for the last image of one.
const BATCHES_AT_ONCE: usize = 2;

/// Decoded batches of each of these that may wait.
const BATCHES_AHEAD: usize = 1;

/// A batch of inputs.
pub(super) struct Inputs {
    /// `[N, size, size, 3]`.
    pub pixels: Vec<u8>,
    /// Their side.
    pub size: usize,
}

/// How images are decoded before a window is chosen. None is turned upright: COCO's boxes are in the
/// coordinates of the stored image.
pub(super) fn decoding(pixels: PixelOptions) -> Decoding {
    Decoding::new(pixels.levels(), None, pixels.max_pixels())
}

/// How images are decoded, with the window that `--levels auto` takes from the training images.
pub(super) fn with_window(
    training: &Sources,
    pixels: PixelOptions,
    seed: u64,
    reporter: &Reporter,
) -> Result<Decoding> {
    let (window, notice) = training.choose_window(pixels.levels(), seed, decoding(pixels))?;
    if let Some(notice) = notice {
        reporter.say(notice);
    }
    Ok(Decoding::new(pixels.levels(), window, pixels.max_pixels()))
}

/// What features depend on besides the images' bytes, as a part of a cache's key.
pub(super) fn key_of(decoding: Decoding) -> String {
    decoding.window.map_or(String::new(), |[low, high]| format!(" levels {low}..{high}"))
}

/// Images of files, resized to `size` × `size` pixels whatever their aspect ratio. The first ones
/// are kept in memory.
pub(super) struct ResizedImages {
    size: u32,
    decoding: Decoding,
    kept: Mutex<HashMap<PathBuf, RgbImage>>,
}

impl ResizedImages {
    /// None yet.
    pub fn new(size: u32, decoding: Decoding) -> Self {
        Self { size, decoding, kept: Mutex::default() }
    }

    /// How the images are decoded.
    pub fn decoding(&self) -> Decoding {
        self.decoding
    }

    /// Decodes an image.
    ///
    /// # Errors
    /// Those of [`decode`].
    pub fn decode(&self, bytes: &[u8]) -> std::result::Result<RgbImage, Unreadable> {
        decode(bytes, self.decoding)
    }

    /// Keeps an image that was just decoded, if there is room.
    pub fn keep(&self, path: &Path, decoded: &RgbImage) {
        let has_room = |kept: &HashMap<_, _>| {
            (kept.len() + 1) * self.size as usize * self.size as usize * 3 <= KEPT_BYTES
        };
        if has_room(&self.kept.lock().unwrap_or_else(PoisonError::into_inner)) {
            let resized = self.resize(decoded);
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.insert(path.to_owned(), resized);
        }
    }

    /// The image in a file.
    ///
    /// # Errors
    /// If the file cannot be read or decoded.
    pub fn get(&self, path: &Path) -> Result<RgbImage> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
        if let Some(kept) = kept {
            return Ok(kept);
        }
        let bytes = fs::read(path).map_err(Error::io(path))?;
        let decoded =
            self.decode(&bytes).map_err(|reason| Error::dataset(path, reason.to_string()))?;
        Ok(self.resize(&decoded))
    }

    fn resize(&self, image: &RgbImage) -> RgbImage {
        let side = self.size as i32;
        Renderer::default().resize(image, ImageSize { width: side, height: side })
    }
}

/// The center `size` × `size` pixels of the image, resized so that its shorter side is `shorter`:
/// torchvision's `Resize` and `CenterCrop`.
pub(super) fn center_crop(image: &RgbImage, shorter: u32, size: u32) -> RgbImage {
    let ImageSize { width, height } = image.size;
    let longer = |a: i32, b: i32| (i64::from(shorter) * i64::from(a) / i64::from(b)) as i32;
    let resized = match width <= height {
        true => ImageSize { width: shorter as i32, height: longer(height, width) },
        false => ImageSize { width: longer(width, height), height: shorter as i32 },
    };
    let resized = Renderer::default().resize(image, resized);
    let side = size as usize;
    // torchvision uses Python's round, which rounds halves to even.
    let margin = |length: i32| (f64::from(length - size as i32) / 2.0).round_ties_even() as usize;
    let (left, top) = (margin(resized.size.width), margin(resized.size.height));
    let row = resized.size.width as usize * 3;
    let pixels = (top..top + side)
        .flat_map(|y| &resized.pixels[y * row + left * 3..][..side * 3])
        .copied()
        .collect();
    RgbImage { size: ImageSize { width: size as i32, height: size as i32 }, pixels }
}

/// Flips an image horizontally.
pub(super) fn flip(image: &mut RgbImage) {
    for row in image.pixels.chunks_exact_mut(image.size.width as usize * 3) {
        row.as_chunks_mut::<3>().0.reverse();
    }
}

/// What `input` makes of each item, on all threads; with `mirrored`, the flipped inputs after all
/// others.
pub(super) fn inputs<T: Sync>(
    items: &[T],
    size: u32,
    mirrored: bool,
    input: impl Fn(&T) -> Result<RgbImage> + Sync,
) -> Result<Inputs> {
    let size = size as usize;
    let (bytes, sides) = (size * size * 3, 1 + usize::from(mirrored));
    let mut pixels = vec![0; items.len() * bytes * sides];
    let (upright, flipped) = pixels.split_at_mut(items.len() * bytes);
    let upright = upright.par_chunks_exact_mut(bytes).zip(items);
    let fill = |(to, item): (&mut [u8], &T)| {
        let image = input(item)?;
        to.copy_from_slice(&image.pixels);
        Ok::<RgbImage, Error>(image)
    };
    if mirrored {
        upright.zip(flipped.par_chunks_exact_mut(bytes)).try_for_each(|(upright, flipped)| {
            let mut image = fill(upright)?;
            flip(&mut image);
            flipped.copy_from_slice(&image.pixels);
            Ok::<(), Error>(())
        })?;
    } else {
        upright.try_for_each(|upright| fill(upright).map(drop))?;
    }
    Ok(Inputs { pixels, size })
}

/// Calls `consume` with each of `batches` and what `decode` makes of it, in their order, while the
/// next ones are decoded.
pub(super) fn decode_ahead<B: Sync>(
    batches: &[B],
    decode: impl Fn(&B) -> Result<Inputs> + Sync,
    mut consume: impl FnMut(&B, Inputs) -> Result<()>,
) -> Result<()> {
    thread::scope(|scope| {
        let mut decoders = Vec::new();
        for first in 0..BATCHES_AT_ONCE {
            let (sender, decoded) = bounded(BATCHES_AHEAD);
            let decode = &decode;
            let work = move || {
                for batch in batches.iter().skip(first).step_by(BATCHES_AT_ONCE) {
                    // Nobody receives it after an error.
                    if sender.send(decode(batch)).is_err() {
                        return;
                    }
                }
            };
            thread::Builder::new()
                .name(format!("decode-{first}"))
                .spawn_scoped(scope, work)
                .map_err(|error| Error::Threads(error.to_string()))?;
            decoders.push(decoded);
        }
        for (batch, decoded) in batches.iter().zip((0..BATCHES_AT_ONCE).cycle()) {
            // A decoder sends all of its batches, or its panic is passed on by the scope.
            let Ok(inputs) = decoders[decoded].recv() else { break };
            consume(batch, inputs?)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(width: i32, height: i32) -> RgbImage {
        let pixels = (0..width * height * 3).map(|i| (i % 251) as u8).collect();
        RgbImage { size: ImageSize { width, height }, pixels }
    }

    #[test]
    fn an_image_of_the_right_size_is_only_cropped() {
        let cropped = center_crop(&image(7, 4), 4, 3);
        // Margins of 2 and of 0.5, which Python rounds to 0.
        let full = image(7, 4);
        for y in 0..3 {
            assert_eq!(cropped.pixels[y * 9..][..9], full.pixels[(y * 7 + 2) * 3..][..9]);
        }
    }

    #[test]
    fn flipped_twice_is_the_same_image() {
        let mut flipped = image(5, 2);
        flip(&mut flipped);
        assert_eq!(flipped.pixels[..3], image(5, 2).pixels[12..15]);
        flip(&mut flipped);
        assert_eq!(flipped, image(5, 2));
    }

    #[test]
    fn batches_arrive_in_order_and_mirrored_inputs_follow_the_others() {
        let batches: Vec<Vec<i32>> = (0..7).map(|first| vec![first, first + 1]).collect();
        let input = |width: &i32| {
            Ok(ResizedImages::new(4, decoding(PixelOptions::default()))
                .resize(&image(width + 2, 3)))
        };
        let mut seen = Vec::new();
        let decode = |batch: &Vec<i32>| inputs(batch, 4, true, input);
        decode_ahead(&batches, decode, |batch, Inputs { pixels, size }| {
            let mut expected: Vec<RgbImage> =
                batch.iter().map(|width| input(width).unwrap()).collect();
            let upright: Vec<u8> = expected.iter().flat_map(|image| image.pixels.clone()).collect();
            expected.iter_mut().for_each(flip);
            let flipped = expected.into_iter().flat_map(|image| image.pixels);
            assert_eq!((pixels, size), (upright.into_iter().chain(flipped).collect(), 4));
            seen.push(batch.clone());
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, batches);
    }

    #[test]
    fn kept_images_are_not_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let decoded = image(7, 4);
        let images = ResizedImages::new(5, decoding(PixelOptions::default()));
        assert!(images.get(&path).is_err());
        images.keep(&path, &decoded);
        assert_eq!(images.get(&path).unwrap(), images.resize(&decoded));
        image::save_buffer(&path, &decoded.pixels, 7, 4, image::ColorType::Rgb8).unwrap();
        assert_eq!(
            ResizedImages::new(5, decoding(PixelOptions::default())).get(&path).unwrap(),
            images.resize(&decoded)
        );
    }

    #[test]
    fn an_error_of_either_side_ends_the_work() {
        let batches: Vec<usize> = (0..20).collect();
        let fail = |number: usize| Error::Threads(number.to_string());
        let nothing = |_: &usize| Ok(Inputs { pixels: Vec::new(), size: 0 });
        let of_consumer = decode_ahead(&batches, nothing, |batch, _| match batch {
            3 => Err(fail(3)),
            _ => Ok(()),
        });
        assert!(of_consumer.unwrap_err().to_string().ends_with(": 3"));
        let mut seen = 0;
        let decode = |batch: &usize| if *batch < 5 { nothing(batch) } else { Err(fail(*batch)) };
        let of_decoder = decode_ahead(&batches, decode, |_, _| {
            seen += 1;
            Ok(())
        });
        assert!(of_decoder.unwrap_err().to_string().ends_with(": 5") && seen == 5);
    }
}
