//! Pages of few, equal, hostile and many rows.

use scrl_preprocess::images::ImageSize;
use scrl_preprocess::views::rng::{Purpose, Stream};

use super::*;

/// Rows of an image each, in `groups` planted clusters, with their embeddings.
fn planted(count: usize, groups: usize, channels: usize) -> (Vec<EmbeddedRow>, Vec<f32>) {
    let mut random = Stream::new(5, 0, 0, Purpose::Evaluation);
    let mut normals = |number: usize, scale: f64| -> Vec<f32> {
        (0..number).map(|_| (random.normal() * scale) as f32).collect()
    };
    let centers = normals(groups * channels, 1.0);
    let noise = normals(count * channels, 0.2);
    let center = |i: usize| centers[i / channels % groups * channels + i % channels];
    let embeddings = noise.iter().enumerate().map(|(i, noise)| center(i) + noise).collect();
    let row = |i: usize| EmbeddedRow {
        path: format!("{i}.jpg"),
        class: Some(format!("class {:03}", i % groups)),
        image: i as u32,
        corners: None,
    };
    ((0..count).map(row).collect(), embeddings)
}

fn write(rows: &[EmbeddedRow], arms: &[PageArm], maps: &[FeatureMap]) -> String {
    // Also images of one pixel.
    let thumbnails = |row: usize| Ok(image(1 + row as i32 % 3 * 40, 1 + row as i32 % 2 * 30));
    let title = "a <title>".to_owned();
    let input = PageInput { title, rows, arms, thumbnails: &thumbnails, maps };
    write_page(&input, &Reporter::silent()).unwrap()
}

fn image(width: i32, height: i32) -> RgbImage {
    RgbImage { size: ImageSize { width, height }, pixels: vec![90; (width * height * 3) as usize] }
}

fn arm(name: &str, embeddings: Vec<f32>, channels: usize) -> PageArm {
    PageArm { name: name.into(), embeddings, channels }
}

#[test]
fn the_first_line_says_what_the_neighbors_are_for_both_arms_and_by_chance() {
    let (rows, embeddings) = planted(120, 6, 16);
    let mut random = Stream::new(6, 0, 0, Purpose::Evaluation);
    let noise = (0..120 * 4).map(|_| random.normal() as f32).collect();
    let maps = [FeatureMap {
        image: image(30, 20),
        arms: vec![(vec![0.5; 4 * 16], [2, 2, 16]), (vec![0.5; 4], [1, 1, 4])],
    }];
    let arms = [arm("planted", embeddings, 16), arm("noise & co", noise, 4)];
    let page = write(&rows, &arms, &maps);
    let start = page.find("<p class=\"verdict\">").unwrap();
    let verdict = page[start..].lines().next().unwrap();
    let expected = "Of the 10 nearest neighbors <strong>100.0\u{202F}%</strong> are of the same \
                    class (noise &amp; co ";
    assert!(verdict.contains(expected), "{verdict}");
    // 19 of the 119 other rows.
    assert!(verdict.ends_with("; by chance 16.0\u{202F}%).</p>"), "{verdict}");
    assert_eq!(page.matches("<canvas").count(), 2);
    assert_eq!(page.matches("<article").count(), 40);
    assert_eq!(page.matches("<li class=\"cell ").count(), 40 * 2 * 8);
    assert_eq!(page.matches(": 8 of 8 of the same class").count(), 40);
    assert_eq!(page.matches("<div class=\"colored\">").count(), 1);
    // Nothing is loaded, and the threads do not show.
    for outside in ["http:", "https:", "src=\"/", "@import"] {
        assert!(!page.contains(outside), "{outside}");
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    assert_eq!(pool.install(|| write(&rows, &arms, &maps)), page);
}

#[test]
fn paths_classes_and_names_never_become_markup() {
    let (mut rows, embeddings) = planted(12, 3, 4);
    let hostile = "</script><script>alert(1)</script>\"'&<!--";
    for row in &mut rows {
        row.path = format!("{hostile}{}", row.path);
        row.class = row.class.take().map(|class| format!("{hostile}{class}"));
        row.corners = Some([1.0, 2.0, 30.0, 40.0]);
    }
    let page = write(&rows, &[arm(hostile, embeddings, 4)], &[]);
    assert!(!page.contains("<script>alert"));
    assert!(!page.contains("<title>a <title>"));
    // The data and the script of the page, and nothing else.
    assert_eq!(page.matches("<script").count(), 2);
    assert_eq!(page.matches("</script").count(), 2);
    assert!(page.contains("\\u003c/script\\u003e\\u003cscript\\u003ealert(1)"));
    assert!(page.contains("&lt;/script&gt;&lt;script&gt;alert(1)"));
    // The text is JSON of what it was.
    let start = page.find("id=\"map-data\">").unwrap() + "id=\"map-data\">".len();
    let end = start + page[start..].find("</script>").unwrap();
    let data: serde_json::Value = serde_json::from_str(&page[start..end]).unwrap();
    assert_eq!(data["rows"][3]["path"], rows[3].path);
    assert_eq!(data["rows"][3]["box"][2], 30.0);
    assert!(page.contains(", box 1, 2 to 30, 40"));
}

#[test]
fn few_rows_and_rows_without_classes_have_a_page() {
    for count in 0..5 {
        let (mut rows, embeddings) = planted(count, 2, 3);
        rows.iter_mut().for_each(|row| row.class = None);
        let page = write(&rows, &[arm("x", embeddings, 3)], &[]);
        assert!(page.contains("No row has a class"));
        assert_eq!(page.matches("<article").count(), count);
        assert_eq!(page.matches(": no neighbors").count(), usize::from(count == 1));
        assert!(!page.contains("NaN"));
    }
    // Two rows of one class are neighbors of each other; boxes of one image are not.
    let (mut rows, embeddings) = planted(2, 1, 3);
    let arms = [arm("x", embeddings, 3)];
    let expected = "The nearest neighbor is of the same class for <strong>100.0\u{202F}%</strong> \
                    of the rows (by chance 100.0\u{202F}%).";
    assert!(write(&rows, &arms, &[]).contains(expected));
    rows[1].image = 0;
    assert!(
        write(&rows, &arms, &[]).contains("No row with a class has neighbors in other images.")
    );
}

#[test]
fn equal_embeddings_are_one_point_and_many_rows_are_sampled() {
    let (rows, _) = planted(2100, 300, 2);
    let page = write(&rows, &[arm("collapsed", vec![0.5; 2 * rows.len()], 2)], &[]);
    assert!(page.contains("all embeddings are equal"));
    assert!(page.contains("1000 of 2100 rows, evenly sampled"));
    assert!(page.contains("<small>and 288 more</small>"));
    assert_eq!(page.matches("[5000,5000]").count(), 1000);
    // NaN is no reason to panic.
    let mut embeddings = planted(30, 3, 2).1;
    embeddings[7] = f32::NAN;
    assert!(!write(&rows[..30], &[arm("x", embeddings, 2)], &[]).contains("NaN"));
}
