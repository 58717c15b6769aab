//! One self-contained HTML page: what can be said, tables, drawings, and how it was measured.
//!
//! It loads nothing and has no script; its colors are those of the reader's system, light or dark.

use std::fmt::Write;

use scrl_preprocess::inspect::page::{BASE_STYLE, escape};

use super::plot;
use super::results::{ArmDifference, Comparison, accuracy, percent, short};
use super::summary::{ClassSummary, Difference, pairs};

const STYLE: &str = include_str!("page.css");

/// The page's HTML.
pub(super) fn html(found: &Comparison) -> String {
    let arms: Vec<String> = found.arms.iter().map(|arm| escape(&arm.name)).collect();
    let paragraphs = |lines: &[String]| {
        lines.iter().map(|line| format!("<p>{}</p>\n", escape(line))).collect::<String>()
    };
    let warnings = match found.warnings.is_empty() {
        true => String::new(),
        false => format!(
            "<section class=\"warnings\" aria-label=\"Warnings\">\n{}</section>\n",
            paragraphs(&found.warnings)
        ),
    };
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <title>Does it help? {title}</title>\n<style>\n{BASE_STYLE}{STYLE}</style>\n</head>\n<body>\n\
         <header>\n<p class=\"kind\">scrl-eval compare</p>\n<h1>Does it help?</h1>\n\
         <div class=\"verdict\">\n{verdict}</div>\n{facts}</header>\n<main>\n{warnings}\
         {accuracies}{differences}{classes}{method}</main>\n\
         <footer>Written by scrl-eval {version}; this page loads nothing from elsewhere.</footer>\n\
         </body>\n</html>\n",
        title = arms.join(", "),
        verdict = paragraphs(found.headline()),
        facts = facts(found),
        accuracies = accuracies(found),
        differences = differences(found),
        classes = classes(found),
        method = method(found),
        version = env!("CARGO_PKG_VERSION"),
    )
}

/// What was measured on, in a few numbers.
fn facts(found: &Comparison) -> String {
    let setup = &found.setup;
    let facts = [
        ("training boxes", setup.train_boxes, format!("of {} images", setup.train_images)),
        ("validation boxes", setup.val_boxes, format!("of {} images", setup.val_images)),
        ("classes", found.classes.len(), String::new()),
        ("seeds", setup.seeds.len(), String::new()),
    ];
    let fact = |(name, value, detail): (&str, usize, String)| {
        format!("<div><dt>{name}</dt><dd>{value}<small>{detail}</small></dd></div>\n")
    };
    format!("<dl class=\"facts\">\n{}</dl>\n", facts.map(fact).concat())
}

/// Top-1 of each arm by each measure, and the AP of detectors.
fn accuracies(found: &Comparison) -> String {
    let mut head = String::new();
    for measure in &found.measures {
        let _ = write!(
            head,
            "<th scope=\"col\">{}<small>{} boxes</small></th>",
            escape(&measure.name),
            measure.boxes
        );
    }
    for (title, _) in &found.arms[0].detection {
        let _ = write!(head, "<th scope=\"col\">{}<small>detection</small></th>", escape(title));
    }
    let mut rows = String::new();
    for (number, arm) in found.arms.iter().enumerate() {
        let _ = write!(
            rows,
            "<tr><th scope=\"row\">{}{}<small>{}, {}</small></th>",
            key(number),
            escape(&arm.name),
            escape(&arm.checkpoints.join(", ")),
            arm.arch
        );
        for it in &arm.results {
            let interval = it.interval.map(|ends| {
                let [low, high] = ends.map(|end| percent(Some(end)));
                format!("<small>{low} to {high}</small>")
            });
            let _ = write!(rows, "<td>{}{}</td>", accuracy(it), interval.unwrap_or_default());
        }
        for (_, value) in &arm.detection {
            let _ = write!(rows, "<td>{}</td>", percent(*value));
        }
        rows += "</tr>\n";
    }
    let legend: String = found
        .arms
        .iter()
        .enumerate()
        .map(|(number, arm)| format!("<li>{}{}</li>", key(number), escape(&arm.name)))
        .collect();
    format!(
        "<section aria-labelledby=\"h-top1\">\n<h2 id=\"h-top1\">Top-1 of boxes</h2>\n\
         <p class=\"lead\">In percent of the validation boxes: the mean over the seeds ± their \
         standard deviation, and below it the 95 % interval by bootstrap over the validation \
         images.</p>\n<div class=\"wide\"><table><thead><tr><th scope=\"col\">arm</th>{head}</tr>\
         </thead>\n<tbody>\n{rows}</tbody></table></div>\n\
         <ul class=\"legend\">{legend}</ul>\n<figure>{}</figure>\n</section>\n",
        plot::accuracies(found)
    )
}

/// The mark of an arm as in the drawings.
fn key(arm: usize) -> String {
    format!(
        "<svg class=\"key a{arm}\" viewBox=\"-8 -8 16 16\" aria-hidden=\"true\">{}</svg>",
        plot::mark(arm, 0.0, 0.0)
    )
}

/// Every pair of arms by every measure, pair after pair.
fn differences(found: &Comparison) -> String {
    let count = pairs(found.arms.len()).len();
    let mut figures = String::new();
    for pair in 0..count {
        let of_pair = found.differences.iter().skip(pair).step_by(count);
        let rows: Vec<(&str, &Difference)> =
            of_pair.map(|it| (&*it.measure, &it.difference)).collect();
        let ArmDifference { arm, against, .. } = &found.differences[pair];
        let _ = writeln!(
            figures,
            "<figure><h3>{} − {}</h3>{}</figure>",
            escape(arm),
            escape(against),
            plot::differences(&rows, &found.differences)
        );
    }
    let others = &found.sentences[found.headline().len()..];
    let sentences: String =
        others.iter().map(|line| format!("<li>{}</li>\n", escape(line))).collect();
    let sentences = if others.is_empty() { sentences } else { format!("<ul>\n{sentences}</ul>\n") };
    format!(
        "<section aria-labelledby=\"h-differences\">\n<h2 id=\"h-differences\">Differences</h2>\n\
         <p class=\"lead\">In points, on the same boxes, with 95 % intervals by bootstrap over the \
         validation images. A filled mark is hardly chance: 0 lies outside the interval, and every \
         seed has the same sign. An open one could be chance.</p>\n{figures}{sentences}</section>\n"
    )
}

/// Each class by the first measure.
fn classes(found: &Comparison) -> String {
    let (last, others) = found.arms.split_last().expect("arms");
    let mut head = String::new();
    for (number, arm) in found.arms.iter().enumerate() {
        let _ = write!(head, "<th scope=\"col\">{}{}</th>", key(number), escape(&arm.name));
    }
    for other in others {
        let _ =
            write!(head, "<th scope=\"col\">{} − {}</th>", escape(&last.name), escape(&other.name));
    }
    let with_boxes = found.classes.iter().filter(|class| class.val > 0);
    let mut sorted: Vec<&ClassSummary> = with_boxes.collect();
    let by_first = |class: &ClassSummary| class.differences[0].difference;
    sorted.sort_by(|a, b| by_first(b).total_cmp(&by_first(a)));
    let mut rows = String::new();
    for class in &sorted {
        let _ = write!(
            rows,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td>",
            escape(&class.name),
            class.train,
            class.val
        );
        for top1 in &class.top1 {
            let _ = write!(rows, "<td>{}</td>", percent(Some(*top1)));
        }
        for it in &class.differences {
            let text = short(it);
            let text = if it.decided { format!("<b>{text}</b>") } else { text };
            let _ = write!(rows, "<td>{text}</td>");
        }
        rows += "</tr>\n";
    }
    let chance = sorted.len() as f64 * 0.05;
    format!(
        "<section aria-labelledby=\"h-classes\">\n<h2 id=\"h-classes\">Classes</h2>\n\
         <p class=\"lead\">{}: top-1 of each class in percent, and differences in points with 95 % \
         intervals, sorted by the first of them. In bold what is hardly chance for a class by \
         itself; of {} classes about {chance:.0} would be so by chance alone.</p>\n\
         <div class=\"wide\"><table class=\"classes\"><thead><tr><th scope=\"col\">class</th>\
         <th scope=\"col\">training boxes</th><th scope=\"col\">validation boxes</th>{head}</tr>\
         </thead>\n<tbody>\n{rows}</tbody></table></div>\n</section>\n",
        escape(&found.measures[0].name),
        sorted.len(),
    )
}

/// How it was measured, and what the intervals do not hold.
fn method(found: &Comparison) -> String {
    let setup = &found.setup;
    let layer = &setup.linear_layer;
    let seeds: Vec<String> = setup.seeds.iter().map(ToString::to_string).collect();
    let one_run = found.arms.iter().any(|arm| arm.checkpoints.len() == 1);
    let runs = if one_run {
        "Arms with a single run were pretrained once: how much another seed of the pretraining \
         would change is not in these numbers. Give the same name to several runs to see it."
    } else {
        "Each seed takes one of an arm's runs, so that their spread is that of the pretraining as \
         well; the intervals are those of the mean over these runs."
    };
    let lines = [
        format!(
            "RoI linear: a linear layer on frozen features of the boxes, images resized to {0} × \
             {0} pixels, {1} epochs on all labels, {2} boxes a step, learning rate {3}, on {4} in \
             {5}.",
            setup.size, layer.epochs, layer.batch_size, layer.lr, setup.device, setup.precision
        ),
        "A fraction of the labels: of each class that part of the boxes, at least one, drawn by the \
         seed; the same boxes for all arms. More epochs, so that there are as many steps as with \
         all labels."
            .to_owned(),
        format!(
            "k-NN: the {} nearest training boxes by the cosine of their features; nothing is \
             learned.",
            setup.k
        ),
        format!(
            "Seeds {} of the linear layer and of the labels it gets. {runs}",
            seeds.join(", ")
        ),
        format!(
            "Intervals: {} draws of as many validation images as there are, with replacement; the \
             seeds are averaged. They hold the chance of these validation images, and not that of \
             the training images.",
            setup.resamples
        ),
    ];
    let lines = lines.map(|line| format!("<li>{}</li>\n", escape(&line))).concat();
    format!(
        "<section aria-labelledby=\"h-method\">\n<h2 id=\"h-method\">How it was measured</h2>\n\
         <ul>\n{lines}</ul>\n</section>\n"
    )
}
