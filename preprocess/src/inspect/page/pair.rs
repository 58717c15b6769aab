//! A pair on the page: its source image with both crops, its views, and its boxes in all three.

use std::fmt::Write;

use scrl_schemas::{Box2, Crop, PrepOptions, ViewParams};

use super::data_url::data_url;
use super::escape::escape;
use crate::Result;
use crate::inspect::pairs::Pair;
use crate::inspect::palette;

/// The pair as an `article`; `index` is its number on the page.
pub(super) fn article(index: usize, pair: &Pair, options: &PrepOptions) -> Result<String> {
    let row = &pair.row;
    let params = pair.params();
    let solarized = params.iter().any(|view| view.solarize);
    let class = pair.class.as_deref().unwrap_or_default();
    let few = row.boxes.len() < options.boxes as usize;
    let mut out = format!(
        "<article class=\"pair\" data-epoch=\"{}\" data-class=\"{}\" \
         data-solarized=\"{solarized}\" data-few=\"{few}\" \
         aria-labelledby=\"p{index}\">\n<h3 id=\"p{index}\">{}</h3>\n<p class=\"meta\">",
        pair.epoch,
        escape(class),
        escape(&row.path)
    );
    // A class is nearly always the path's first folder; only another one is shown.
    if !class.is_empty() && !row.path.starts_with(&format!("{class}/")) {
        let _ = write!(out, "{} · ", escape(class));
    }
    let _ = writeln!(out, "{} · row {}</p>", escape(&pair.shard), pair.number);
    out += "<div class=\"images\">\n";
    out += &source(pair)?;
    for (view, params) in params.into_iter().enumerate() {
        let boxes =
            row.boxes.iter().map(|matched| if view == 0 { matched.view1 } else { matched.view2 });
        let image = BoxedImage { image: &pair.views[view], size: [options.size as f32; 2] };
        let caption = format!("<b>View {}</b> {}", view + 1, describe(params));
        out += &image.figure(
            &format!("View {} of {}", view + 1, row.path),
            "view",
            "",
            boxes,
            &caption,
        )?;
    }
    out += "</div>\n";
    out += &keys(pair);
    Ok(out + "</article>\n")
}

/// The source image with the outlines of both crops.
fn source(pair: &Pair) -> Result<String> {
    let Some(image) = &pair.source else { return Ok(String::new()) };
    let row = &pair.row;
    let size = [row.source_width as f32, row.source_height as f32];
    let mut crops = String::new();
    for (view, params) in pair.params().into_iter().enumerate() {
        crops += &outline(params.crop, view + 1, size);
    }
    let boxes = row.boxes.iter().map(|matched| matched.source);
    let caption =
        format!("<b>Photo</b> {}×{}, crop 1 solid, 2 dashed", row.source_width, row.source_height);
    BoxedImage { image, size }.figure(
        &format!("Source {} with both crops", row.path),
        "photo",
        &crops,
        boxes,
        &caption,
    )
}

/// A crop's outline, light on dark so that it is visible on any image; solid for view 1, dashed for
/// view 2.
fn outline(crop: Crop, number: usize, [width, height]: [f32; 2]) -> String {
    let Crop { x, y, width: w, height: h } = crop;
    let rect = |class: &str| {
        format!("<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\"/>")
    };
    // The number is inside an upper corner, left for view 1 and right for view 2, as the crops may
    // share corners.
    let size = width.max(height) / 16.0;
    let at = if number == 1 { x as f32 + size * 0.35 } else { (x + w) as f32 - size * 0.95 };
    let text = format!(
        "<text x=\"{at:.1}\" y=\"{:.1}\" font-size=\"{size:.1}\" \
         stroke-width=\"{:.1}\">{number}</text>",
        y as f32 + size,
        size / 4.0
    );
    format!("<g class=\"crop crop{number}\">{}{}{text}</g>", rect("under"), rect("over"))
}

/// An image, and the size in whose pixels its boxes are given.
struct BoxedImage<'a> {
    image: &'a image::RgbImage,
    size: [f32; 2],
}

impl BoxedImage<'_> {
    fn figure(
        &self,
        alt: &str,
        class: &str,
        below: &str,
        boxes: impl Iterator<Item = Box2>,
        caption: &str,
    ) -> Result<String> {
        let [width, height] = self.size;
        let mut drawn = String::new();
        let area = |of: &Box2| (of.x1 - of.x0) * (of.y1 - of.y0);
        let mut boxes: Vec<(usize, Box2)> = boxes.enumerate().collect();
        // The smallest are on top, so that a larger one around them does not take the pointer.
        boxes.sort_by(|(_, a), (_, b)| area(b).total_cmp(&area(a)));
        for (number, of) in boxes {
            let palette = number % palette::COLORS.len();
            let rect = |class: &str| {
                let (x, y, w, h) = (of.x0, of.y0, of.x1 - of.x0, of.y1 - of.y0);
                match of.is_point() {
                    // A line of no length, whose round ends are a dot.
                    true => format!("<path class=\"{class}\" d=\"M{x} {y}h0\"/>"),
                    false => format!(
                        "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{w}\" \
                         height=\"{h}\"/>"
                    ),
                }
            };
            let _ = write!(
                drawn,
                "<g class=\"box k{palette}\" data-box=\"{number}\">{}{}</g>",
                rect("under"),
                rect("over")
            );
        }
        Ok(format!(
            "<figure class=\"{class}\"><div class=\"stack\">\
             <img alt=\"{}\" width=\"{}\" height=\"{}\" loading=\"lazy\" src=\"{}\">\
             <svg viewBox=\"0 0 {width} {height}\" preserveAspectRatio=\"none\" \
             aria-hidden=\"true\">\
             {below}{drawn}</svg></div><figcaption>{caption}</figcaption></figure>\n",
            escape(alt),
            self.image.width(),
            self.image.height(),
            data_url(self.image)?
        ))
    }
}

/// The numbers of the boxes, as buttons for pointer and keyboard.
fn keys(pair: &Pair) -> String {
    if pair.row.boxes.is_empty() {
        return "<p class=\"none\">No boxes: the two crops overlap too little.</p>\n".to_owned();
    }
    let mut out = String::from("<div class=\"keys\" role=\"group\" aria-label=\"Matched boxes\">");
    for (number, matched) in pair.row.boxes.iter().enumerate() {
        let sides = [matched.view1, matched.view2].map(|of| match of.is_point() {
            true => format!("({:.0}, {:.0})", of.x0, of.y0),
            false => format!("{:.0}\u{202F}×\u{202F}{:.0}", of.x1 - of.x0, of.y1 - of.y0),
        });
        let _ = write!(
            out,
            "<button type=\"button\" class=\"k{}\" data-box=\"{number}\" aria-pressed=\"false\" \
             title=\"{} px in view 1, {} px in view 2\">\
             <span class=\"unseen\">Box </span>{}</button>",
            number % palette::COLORS.len(),
            sides[0],
            sides[1],
            number + 1
        );
    }
    out + "</div>\n"
}

/// The steps applied to a view, with their strengths.
fn describe(params: &ViewParams) -> String {
    let mut words: Vec<String> = Vec::new();
    if params.flip {
        words.push("flipped".to_owned());
    }
    if params.vertical_flip {
        words.push("flipped vertically".to_owned());
    }
    if params.turns > 0 {
        words.push(format!("turned\u{202F}{}°", 90 * i32::from(params.turns)));
    }
    if let Some(jitter) = &params.jitter {
        words.push(format!(
            "<span title=\"brightness {:.2}, contrast {:.2}, saturation {:.2}, hue {:+.3}, \
             in the order {}\">jitter</span>",
            jitter.brightness,
            jitter.contrast,
            jitter.saturation,
            jitter.hue,
            jitter.order_string()
        ));
    }
    if params.grayscale {
        words.push("gray".to_owned());
    }
    if let Some(strength) = params.blur {
        words.push(format!("blur\u{202F}{strength:.1}"));
    }
    if params.solarize {
        words.push("solarized".to_owned());
    }
    words.join(", ")
}
