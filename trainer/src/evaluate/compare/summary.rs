//! What the outcomes say: accuracies, differences with intervals, and sentences.

use serde::Serialize;

use super::bootstrap::intervals;

/// One way to measure backbones.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measure {
    /// Such as `RoI linear, 10 %`, or `k-NN`.
    pub name: String,
    /// The same within a sentence.
    #[serde(skip)]
    pub words: String,
    /// Boxes that the linear layer or the neighbors are of.
    pub boxes: usize,
    /// Epochs of the linear layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u32>,
}

/// Which validation boxes were classified correctly.
pub(super) struct Outcome {
    /// `[seed][box]`.
    pub right: Vec<Vec<bool>>,
    /// Whether anything depends on the seed: the linear layer, or several runs of the arm.
    pub varies: bool,
}

/// The validation boxes.
pub(super) struct Boxes<'a> {
    /// The index of each box's image, ascending.
    pub images: Vec<usize>,
    /// The class of each.
    pub classes: &'a [usize],
}

/// Top-1 of an arm by one measure, from 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Accuracy {
    /// The mean over the seeds.
    pub top1: f64,
    /// Its 95 % interval by bootstrap over images.
    pub interval: Option<[f64; 2]>,
    /// The standard deviation over the seeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<f64>,
    /// That of each seed.
    pub seeds: Vec<f64>,
}

/// The paired difference of two arms in top-1.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The mean over the seeds: above 0 where the first arm is better.
    pub difference: f64,
    /// Its 95 % interval by bootstrap over images.
    pub interval: Option<[f64; 2]>,
    /// That of each seed.
    pub seeds: Vec<f64>,
    /// Whether it is hardly chance: 0 lies outside the interval, and all seeds agree in the sign.
    pub decided: bool,
}

/// A class, by the first measure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassSummary {
    /// Its name.
    pub name: String,
    /// Training boxes.
    pub train: usize,
    /// Validation boxes.
    pub val: usize,
    /// Top-1 of each arm; empty without validation boxes.
    pub top1: Vec<f64>,
    /// The differences of the last arm from each of the others; empty without validation boxes.
    pub differences: Vec<Difference>,
}

/// All numbers of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Summary {
    /// `[measure][arm]`.
    pub accuracies: Vec<Vec<Accuracy>>,
    /// `[measure][pair]`, the pairs in the order of [`pairs`].
    pub differences: Vec<Vec<Difference>>,
    /// By the first measure.
    pub classes: Vec<ClassSummary>,
}

/// Each arm with each earlier one.
pub(super) fn pairs(arms: usize) -> Vec<[usize; 2]> {
    (1..arms).flat_map(|arm| (0..arm).map(move |against| [arm, against])).collect()
}

/// Counts of each image, a column for each quantity; see [`intervals`].
struct Columns {
    images: Vec<Vec<i64>>,
    ratios: Vec<[usize; 2]>,
}

impl Columns {
    /// Adds the column of what `count` says of each box.
    fn add(&mut self, boxes: &Boxes, count: impl Fn(usize) -> i64) -> usize {
        self.images.iter_mut().for_each(|image| image.push(0));
        for (number, &image) in boxes.images.iter().enumerate() {
            *self.images[image].last_mut().expect("a column") += count(number);
        }
        self.images[0].len() - 1
    }
}

/// Compares the outcomes `[measure][arm]` on the same boxes.
pub(super) fn summarize(
    outcomes: &[Vec<Outcome>],
    boxes: &Boxes,
    (names, train_counts): (&[String], &[usize]),
    seed: u64,
) -> Summary {
    let arms = outcomes[0].len();
    let seeds = outcomes[0][0].right.len();
    let count = boxes.images.last().map_or(0, |last| last + 1);
    let mut columns = Columns { images: vec![Vec::new(); count], ratios: Vec::new() };
    let all = columns.add(boxes, |_| seeds as i64);
    let right = |of: &Outcome, number: usize| {
        of.right.iter().filter(|of_seed| of_seed[number]).count() as i64
    };
    for of_arms in outcomes {
        for outcome in of_arms {
            let column = columns.add(boxes, |number| right(outcome, number));
            columns.ratios.push([column, all]);
        }
        for [arm, against] in pairs(arms) {
            let [arm, against] = [&of_arms[arm], &of_arms[against]];
            let column = columns.add(boxes, |number| right(arm, number) - right(against, number));
            columns.ratios.push([column, all]);
        }
    }
    let first = &outcomes[0];
    let (last, others) = first.split_last().expect("arms");
    for class in 0..names.len() {
        let is = |number: usize| i64::from(boxes.classes[number] == class);
        let of_class = columns.add(boxes, |number| seeds as i64 * is(number));
        for other in others {
            let difference = |number| is(number) * (right(last, number) - right(other, number));
            let column = columns.add(boxes, difference);
            columns.ratios.push([column, of_class]);
        }
    }
    let mut intervals = intervals(&columns.images, &columns.ratios, seed).into_iter();
    let mut interval = || intervals.next().expect("one for each ratio");

    let everything = |_: usize| true;
    let mut summary =
        Summary { accuracies: Vec::new(), differences: Vec::new(), classes: Vec::new() };
    for of_arms in outcomes {
        let accuracy = |outcome| Accuracy::new(outcome, interval());
        summary.accuracies.push(of_arms.iter().map(accuracy).collect());
        let difference = |[arm, against]: [usize; 2]| {
            Difference::new([&of_arms[arm], &of_arms[against]], everything, interval())
        };
        summary.differences.push(pairs(arms).into_iter().map(difference).collect());
    }
    for (class, name) in names.iter().enumerate() {
        let of_class = |number: usize| boxes.classes[number] == class;
        let val = boxes.classes.iter().filter(|&&other| other == class).count();
        let found = others.iter().map(|other| (other, interval())).collect::<Vec<_>>();
        let difference = |(other, interval)| Difference::new([last, other], of_class, interval);
        let has_boxes = val > 0;
        summary.classes.push(ClassSummary {
            name: name.clone(),
            train: train_counts[class],
            val,
            top1: first
                .iter()
                .filter(|_| has_boxes)
                .map(|outcome| mean(&outcome.by_seed(of_class)))
                .collect(),
            differences: found.into_iter().filter(|_| has_boxes).map(difference).collect(),
        });
    }
    summary
}

impl Outcome {
    /// The accuracy of each seed on the boxes that `counts`.
    fn by_seed(&self, counts: impl Fn(usize) -> bool) -> Vec<f64> {
        let accuracy = |right: &Vec<bool>| {
            let counted = right.iter().enumerate().filter(|(number, _)| counts(*number));
            let (boxes, right) = counted
                .fold((0, 0), |(boxes, sum), (_, right)| (boxes + 1, sum + u32::from(*right)));
            f64::from(right) / f64::from(boxes)
        };
        self.right.iter().map(accuracy).collect()
    }
}

impl Accuracy {
    fn new(outcome: &Outcome, interval: Option<[f64; 2]>) -> Self {
        let seeds = outcome.by_seed(|_| true);
        let top1 = mean(&seeds);
        let squares: f64 = seeds.iter().map(|value| (value - top1).powi(2)).sum();
        let varies = outcome.varies && seeds.len() > 1;
        let std = varies.then(|| (squares / (seeds.len() - 1) as f64).sqrt());
        Self { top1, interval, std, seeds }
    }
}

impl Difference {
    fn new(
        [arm, against]: [&Outcome; 2],
        counts: impl Fn(usize) -> bool + Copy,
        interval: Option<[f64; 2]>,
    ) -> Self {
        let (arm, against) = (arm.by_seed(counts), against.by_seed(counts));
        let seeds: Vec<f64> = arm.iter().zip(&against).map(|(a, b)| a - b).collect();
        let all = |sign: f64| seeds.iter().all(|value| value * sign > 0.0);
        let outside = interval.is_some_and(|[low, high]| low > 0.0 || high < 0.0);
        let decided = outside && (all(1.0) || all(-1.0));
        Self { difference: mean(&seeds), interval, seeds, decided }
    }

    /// Such as `+9.3 points, 95 %: +8.1 to +10.5`.
    fn words(&self) -> String {
        let interval =
            |[low, high]: [f64; 2]| format!(", 95 %: {} to {}", signed(low), signed(high));
        let interval = self.interval.map(interval).unwrap_or_default();
        format!("{} points{interval}", signed(self.difference))
    }
}

pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// A fraction as points with a sign; 0.0 has none.
pub(super) fn signed(fraction: f64) -> String {
    let text = format!("{:.1}", 100.0 * fraction.abs());
    match text.as_str() {
        "0.0" => text,
        _ if fraction < 0.0 => format!("−{text}"),
        _ => format!("+{text}"),
    }
}

/// What can be said of an arm against each earlier one, such as `With all labels, mine is above
/// random by 9.3 points (95 %: 8.1 to 10.5); against moco the difference could be chance (…).`
pub(super) fn sentence(words: &str, arm: &str, against: &[(&str, &Difference)]) -> String {
    let mut parts = Vec::new();
    for (other, it) in against.iter().filter(|(_, it)| it.decided) {
        let Some([low, high]) = it.interval else { continue };
        let side = if it.difference > 0.0 { "above" } else { "below" };
        let [low, high] = if it.difference > 0.0 { [low, high] } else { [-high, -low] };
        parts.push(format!(
            "{side} {other} by {:.1} points (95 %: {:.1} to {:.1})",
            100.0 * it.difference.abs(),
            100.0 * low,
            100.0 * high
        ));
    }
    let decided = (!parts.is_empty()).then(|| format!("{arm} is {}", parts.join(" and ")));
    let mut open = String::new();
    for (other, it) in against.iter().filter(|(_, it)| !it.decided) {
        let chance = match (open.is_empty(), &decided) {
            (true, Some(_)) => format!("against {other} the difference could be chance"),
            (true, None) => format!("the difference of {arm} from {other} could be chance"),
            (false, _) => format!(", and so could that from {other}"),
        };
        open += &format!("{chance} ({})", it.words());
    }
    let open = (!open.is_empty()).then_some(open);
    let both: Vec<String> = decided.into_iter().chain(open).collect();
    format!("{words}, {}.", both.join("; "))
}
