//! The labels that a linear layer gets, and how long it learns from them.

use crate::evaluate::box_features::choose;
use crate::evaluate::linear_layer::LinearLayerConfig;

/// The training boxes whose labels are used, ascending: of each class `percent` of its boxes, and at
/// least one, drawn by the seed. All arms get the same boxes of a seed, and those of a smaller
/// fraction are among those of a larger one.
pub(super) fn labeled(classes: &[usize], percent: f64, seed: u64) -> Vec<usize> {
    let most = |boxes: usize| ((boxes as f64 * percent / 100.0).round() as usize).max(1);
    choose(classes, most, seed)
}

/// The training on `boxes` of `all` boxes: with fewer boxes in an epoch there are more epochs, so
/// that the layer takes at least as many steps as on all of them.
pub(super) fn training(
    of_all: &LinearLayerConfig,
    [boxes, all]: [usize; 2],
    seed: u64,
) -> LinearLayerConfig {
    let steps = |boxes: usize| boxes.div_ceil(of_all.batch_size).max(1) as u64;
    let scaled = |epochs: u32| {
        u32::try_from((u64::from(epochs) * steps(all)).div_ceil(steps(boxes))).unwrap_or(u32::MAX)
    };
    LinearLayerConfig {
        epochs: scaled(of_all.epochs),
        warmup_epochs: scaled(of_all.warmup_epochs),
        seed,
        ..of_all.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_keeps_a_box_and_smaller_fractions_are_nested() {
        let classes: Vec<usize> = (0..520).map(|index| usize::from(index >= 500) * 2).collect();
        let few = labeled(&classes, 1.0, 3);
        let of = |chosen: &[usize], class| {
            chosen.iter().filter(|&&index| classes[index] == class).count()
        };
        assert_eq!((of(&few, 0), of(&few, 2), few.len()), (5, 1, 6));
        let more = labeled(&classes, 10.0, 3);
        assert_eq!((of(&more, 0), of(&more, 2)), (50, 2));
        assert!(few.iter().all(|index| more.contains(index)) && more.is_sorted());
        assert_ne!(few, labeled(&classes, 1.0, 4));
        assert_eq!(labeled(&classes, 100.0, 3), (0..520).collect::<Vec<_>>());
    }

    #[test]
    fn fewer_boxes_are_seen_in_more_epochs() {
        let of_all =
            LinearLayerConfig { epochs: 80, warmup_epochs: 5, lr: 0.1, batch_size: 512, seed: 0 };
        let epochs = |boxes| {
            let LinearLayerConfig { epochs, warmup_epochs, seed, .. } =
                training(&of_all, [boxes, 8791], 2);
            (epochs, warmup_epochs, seed)
        };
        // 18 steps an epoch, 2, and 1.
        assert_eq!([8791, 879, 100].map(epochs), [(80, 5, 2), (720, 45, 2), (1440, 90, 2)]);
    }
}
