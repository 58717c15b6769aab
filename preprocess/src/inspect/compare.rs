//! Describing how two rows differ.

use scrl_schemas::{Row, View};

/// Describes the first column in which a row differs from the expected one, pixels excepted.
pub(super) fn difference(found: &Row, expected: &Row) -> Option<String> {
    if found.image_id != expected.image_id {
        let (found, expected) = (found.image_id, expected.image_id);
        return Some(format!(
            "holds image {found}, the seed's permutation has image {expected} here"
        ));
    }
    let named = |column: &str, found: String, wanted: String| {
        Some(format!("{}: {column} is {found}, should be {wanted}", expected.path))
    };
    if found.path != expected.path {
        return named("path", format!("{:?}", found.path), format!("{:?}", expected.path));
    }
    if found.label != expected.label {
        return named("label", format!("{:?}", found.label), format!("{:?}", expected.label));
    }
    let sizes = [found, expected].map(|row| format!("{}×{}", row.source_width, row.source_height));
    if sizes[0] != sizes[1] {
        let [found, wanted] = sizes;
        return named("source_width×source_height", found, wanted);
    }
    for (name, found, wanted) in
        [("view1", &found.view1, &expected.view1), ("view2", &found.view2, &expected.view2)]
    {
        if let Some((column, found, wanted)) = view_difference(found, wanted) {
            return named(&format!("{name}.{column}"), found, wanted);
        }
    }
    if found.boxes.len() != expected.boxes.len() {
        return named(
            "len(boxes)",
            found.boxes.len().to_string(),
            expected.boxes.len().to_string(),
        );
    }
    let mut pairs = found.boxes.iter().zip(&expected.boxes).enumerate();
    let (index, (found, wanted)) = pairs.find(|(_, (found, wanted))| found != wanted)?;
    named(&format!("boxes[{}]", index + 1), format!("{found:?}"), format!("{wanted:?}"))
}

/// The first field in which a view differs from the expected one: its name, its value, the expected
/// value.
fn view_difference(found: &View, wanted: &View) -> Option<(&'static str, String, String)> {
    let (found, wanted) = (&found.params, &wanted.params);
    // Formatting takes longer than comparing, and nearly every view is right.
    if found == wanted {
        return None;
    }
    let fields = [
        ("crop", format!("{:?}", found.crop), format!("{:?}", wanted.crop)),
        ("flip", found.flip.to_string(), wanted.flip.to_string()),
        ("vertical_flip", found.vertical_flip.to_string(), wanted.vertical_flip.to_string()),
        ("turns", found.turns.to_string(), wanted.turns.to_string()),
        ("jitter", format!("{:?}", found.jitter), format!("{:?}", wanted.jitter)),
        ("grayscale", found.grayscale.to_string(), wanted.grayscale.to_string()),
        ("blur", format!("{:?}", found.blur), format!("{:?}", wanted.blur)),
        ("solarize", found.solarize.to_string(), wanted.solarize.to_string()),
    ];
    fields.into_iter().find(|(_, found, wanted)| found != wanted)
}
