//! Tests of what outcomes say.

use super::summary::{Boxes, Outcome, Summary, pairs, sentence, summarize};
use scrl_preprocess::views::rng::{Purpose, Stream};

const IMAGES: usize = 100;
const BOXES_PER_IMAGE: usize = 5;
const CLASSES: [usize; 3] = [0, 1, 1];

/// Three seeds of an arm that is right with this probability, drawn by `key`.
fn arm(probability: f64, key: u64) -> Outcome {
    let of_seed = |seed| {
        let mut random = Stream::new(key, seed, 0, Purpose::Evaluation);
        (0..IMAGES * BOXES_PER_IMAGE).map(|_| random.chance(probability)).collect()
    };
    Outcome { right: (0..3).map(of_seed).collect(), varies: true }
}

fn classes() -> Vec<usize> {
    CLASSES.into_iter().cycle().take(IMAGES * BOXES_PER_IMAGE).collect()
}

fn compared(outcomes: Vec<Outcome>) -> Summary {
    let classes = classes();
    let images = (0..classes.len()).map(|number| number / BOXES_PER_IMAGE).collect();
    let names = ["cat", "dog", "none"].map(str::to_owned);
    let boxes = Boxes { images, classes: &classes };
    summarize(&[outcomes], &boxes, (&names, &[4, 8, 2]), 0)
}

#[test]
fn a_planted_better_arm_is_above_and_an_equal_one_is_not() {
    let found = compared(vec![arm(0.4, 1), arm(0.55, 2), arm(0.55, 2), arm(0.55, 3)]);
    assert_eq!(pairs(4), [[1, 0], [2, 0], [2, 1], [3, 0], [3, 1], [3, 2]]);
    let differences = &found.differences[0];
    let decided: Vec<bool> = differences.iter().map(|it| it.decided).collect();
    assert_eq!(decided, [true, true, false, true, false, false]);
    // The standard error of a difference of 1,500 values is 1.8 points.
    assert!((differences[0].difference - 0.15).abs() < 0.06);
    let [low, high] = differences[0].interval.unwrap();
    assert!(low > 0.0 && low < differences[0].difference && differences[0].difference < high);
    // The same outcomes under two names.
    let same = &differences[2];
    assert_eq!((same.difference, same.interval), (0.0, Some([0.0, 0.0])));
    // Others of the same quality differ by what is drawn.
    let [low, high] = differences[4].interval.unwrap();
    assert!(low < 0.0 && high > 0.0 && differences[4].difference != 0.0);
}

#[test]
fn seeds_that_disagree_decide_nothing() {
    let mut better = arm(0.9, 1);
    let base = arm(0.4, 2);
    better.right[2] = arm(0.3, 3).right.swap_remove(2);
    let found = compared(vec![base, better]);
    let difference = &found.differences[0][0];
    assert!(difference.interval.unwrap()[0] > 0.0 && difference.seeds[2] < 0.0);
    assert!(!difference.decided);
}

#[test]
fn accuracies_and_classes_add_up() {
    let mut outcomes = vec![arm(0.4, 1), arm(0.6, 2)];
    outcomes[0].right.truncate(2);
    outcomes[1].right.truncate(2);
    outcomes[1].varies = false;
    let rights: Vec<Vec<Vec<bool>>> = outcomes.iter().map(|arm| arm.right.clone()).collect();
    let found = compared(outcomes);
    let classes = classes();
    let fraction = |right: &[bool], class: Option<usize>| {
        let counted: Vec<bool> = right
            .iter()
            .zip(&classes)
            .filter(|(_, of)| class.is_none_or(|it| it == **of))
            .map(|it| *it.0)
            .collect();
        counted.iter().filter(|&&right| right).count() as f64 / counted.len() as f64
    };
    let [a, b] = [0, 1].map(|seed| fraction(&rights[0][seed], None));
    let first = &found.accuracies[0][0];
    assert_eq!(first.seeds, [a, b]);
    assert!((first.top1 - (a + b) / 2.0).abs() < 1e-12);
    assert!((first.std.unwrap() - (a - b).abs() / f64::sqrt(2.0)).abs() < 1e-12);
    assert_eq!(found.accuracies[0][1].std, None);
    let dog = &found.classes[1];
    let expected = [0, 1]
        .map(|seed| fraction(&rights[1][seed], Some(1)) - fraction(&rights[0][seed], Some(1)));
    assert_eq!((dog.train, dog.val, &dog.differences[0].seeds[..]), (8, 333, &expected[..]));
    let none = &found.classes[2];
    assert_eq!((none.val, none.top1.len(), none.differences.len()), (0, 0, 0));
}

#[test]
fn sentences_say_what_is_chance() {
    let found = compared(vec![arm(0.4, 1), arm(0.55, 2), arm(0.55, 3)]);
    let [second, third, other] = &found.differences[0][..] else { panic!("three pairs") };
    let [low, high] = second.interval.unwrap().map(|value| format!("{:.1}", 100.0 * value));
    assert_eq!(
        sentence("With all labels", "moco", &[("random", second)]),
        format!(
            "With all labels, moco is above random by {:.1} points (95 %: {low} to {high}).",
            100.0 * second.difference
        )
    );
    let both = sentence("By k-NN", "mine", &[("random", third), ("moco", other)]);
    assert!(both.starts_with("By k-NN, mine is above random by "), "{both}");
    assert!(both.contains("); against moco the difference could be chance ("), "{both}");
    let open = sentence("By k-NN", "mine", &[("moco", other), ("again", other)]);
    let start = "By k-NN, the difference of mine from moco could be chance (";
    assert!(open.starts_with(start), "{open}");
    assert!(open.contains("), and so could that from again ("), "{open}");

    let found = compared(vec![arm(0.9, 1), arm(0.4, 2)]);
    let worse = sentence("With all labels", "mine", &[("random", &found.differences[0][0])]);
    assert!(worse.contains("mine is below random by ") && !worse.contains('−'), "{worse}");
}
