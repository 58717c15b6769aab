//! Problems that a run watches for beside its loss: collapsed networks and full disks.

use std::io::ErrorKind;
use std::path::Path;

use super::checkpoint::Checkpoint;
use super::pipeline::EmbeddingStd;
use crate::Error;

/// Embeddings whose std is below this fraction of the healthy one have collapsed.
const COLLAPSED_FRACTION: f64 = 0.1;

/// The smallest number of embeddings to judge: fewer may well be alike without a collapse.
const LEAST_EMBEDDINGS: usize = 16;

/// Features whose effective rank is below this have collapsed.
const LEAST_RANK: f64 = 2.0;

/// The embedding std of directions that are drawn at random, 1/√dimensions.
pub(super) fn healthy_embedding_std(dimensions: usize) -> f64 {
    1.0 / (dimensions as f64).sqrt()
}

/// Whether the embeddings of a step have become nearly the same.
pub(super) fn is_collapsed(std: &EmbeddingStd, dimensions: usize) -> bool {
    let least = COLLAPSED_FRACTION * healthy_embedding_std(dimensions);
    std.embeddings >= LEAST_EMBEDDINGS && std.projections.min(std.targets) < least
}

/// Whether box features have collapsed: they lie nearly on a line. The values of
/// `docs/small-data.md`: 1.1 to 1.8 in runs that collapsed, 2.7 or more in those that learned well,
/// 37 for random weights.
pub(super) fn is_collapsed_rank(effective_rank: f64, boxes: usize) -> bool {
    boxes >= LEAST_EMBEDDINGS && effective_rank < LEAST_RANK
}

/// Adds to the error of a full disk which checkpoint is intact, and what to do.
pub(super) fn explain_full_disk(error: Error, checkpoints: &Path) -> Error {
    let Error::Shards(scrl_schemas::Error::Io { path, source }) = error else { return error };
    if !matches!(
        source.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    ) {
        return Error::io(&path)(source);
    }
    let newest = Checkpoint::list(checkpoints).ok().and_then(|mut all| all.pop());
    let kept = match newest {
        Some(Checkpoint { path, .. }) => format!("{} is intact", path.display()),
        None => "there is no checkpoint yet".to_owned(),
    };
    let advice = "make room, and the same command resumes from there";
    Error::checkpoint(&path, format!("{source}; {kept}; {advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collapse_is_distinguished_from_health_and_from_few_embeddings() {
        let healthy = EmbeddingStd { projections: 0.05, targets: 0.06, embeddings: 100 };
        assert!(!is_collapsed(&healthy, 256));
        assert!(is_collapsed(&EmbeddingStd { projections: 0.006, ..healthy }, 256));
        assert!(is_collapsed(&EmbeddingStd { targets: 0.0, ..healthy }, 256));
        assert!(!is_collapsed(&EmbeddingStd { targets: 0.0, embeddings: 4, ..healthy }, 256));
    }

    #[test]
    fn features_on_a_line_are_a_collapse_unless_there_are_few() {
        assert!(is_collapsed_rank(1.4, 100) && !is_collapsed_rank(2.7, 100));
        assert!(!is_collapsed_rank(1.0, 4));
    }

    #[test]
    fn only_a_full_disk_is_explained() {
        let folder = tempfile::tempdir().unwrap();
        let explain = |kind: ErrorKind| {
            let error = Error::io(Path::new("out/metrics.jsonl"))(kind.into());
            explain_full_disk(error, folder.path()).to_string()
        };
        assert_eq!(explain(ErrorKind::PermissionDenied), "out/metrics.jsonl: permission denied");
        assert!(explain(ErrorKind::StorageFull).contains("there is no checkpoint yet; make room"));
        let newest = folder.path().join("step-00000007.safetensors");
        std::fs::write(&newest, "intact").unwrap();
        assert!(explain(ErrorKind::StorageFull).contains("step-00000007.safetensors is intact"));
    }
}
