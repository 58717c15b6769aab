//! Mirroring a view top to bottom, and transposing it: with the mirroring from left to right that
//! resizing does in passing, every flip and every quarter turn.

use scrl_schemas::Orientation;

use super::fixed::{Aligned, Planes};
use super::transpose::transpose_square;

/// Does what is left of an orientation after [`Orientation::mirrors_x`]. Only of a view of as many
/// rows as columns.
#[inline(always)]
pub(super) fn apply(planes: &mut Planes, orientation: Orientation) {
    let Planes { width, height, stride, ref mut planes } = *planes;
    debug_assert_eq!(width, height);
    for plane in planes {
        if orientation.mirrors_y {
            mirror_rows(plane, stride, height);
        }
        if orientation.transposes {
            transpose_square(plane.values_mut(), stride, width);
        }
    }
}

/// Exchanges the first row and the last, the second and the last but one, and so on.
fn mirror_rows(plane: &mut Aligned, stride: usize, height: usize) {
    let values = &mut plane.values_mut()[..stride * height];
    let (upper, lower) = values.split_at_mut(height / 2 * stride);
    let rows = upper.chunks_exact_mut(stride).zip(lower.chunks_exact_mut(stride).rev());
    rows.for_each(|(upper, lower)| upper.swap_with_slice(lower));
}
