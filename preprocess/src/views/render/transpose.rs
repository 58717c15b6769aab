//! Transposing 16-bit values in tiles of 8 × 8.

/// Side of a tile.
const TILE: usize = 8;
/// Rows that are transposed together.
pub(super) const ROWS: usize = 16;

/// Transposes [`ROWS`] rows of `stride` values, a multiple of eight, to as many columns.
#[inline(always)]
pub(super) fn to_columns(rows: &[i16], stride: usize, columns: &mut [i16]) {
    let tiles = stride / TILE;
    let rows: [&[[i16; TILE]]; ROWS] =
        std::array::from_fn(|row| &rows[row * stride..].as_chunks().0[..tiles]);
    let (columns, _) = columns.as_chunks_mut::<ROWS>();
    let (columns, _) = columns.as_chunks_mut::<TILE>();
    let columns = &mut columns[..tiles];
    for tile in 0..tiles {
        for half in 0..ROWS / TILE {
            let mut from = [[0; TILE]; TILE];
            for i in 0..TILE {
                from[i] = rows[half * TILE + i][tile];
            }
            let into = transpose_tile(from);
            for i in 0..TILE {
                columns[tile][i].as_chunks_mut().0[half] = into[i];
            }
        }
    }
}

/// Transposes columns of [`ROWS`] values, a multiple of eight of them, to rows that are `stride`
/// values apart.
#[inline(always)]
pub(super) fn to_rows(columns: &[i16], rows: &mut [i16], stride: usize) {
    let (columns, _) = columns.as_chunks::<ROWS>();
    let (columns, _) = columns.as_chunks::<TILE>();
    let tiles = columns.len();
    let mut rows = rows.chunks_exact_mut(stride);
    let rows: [&mut [[i16; TILE]]; ROWS] = std::array::from_fn(|_| {
        let row = rows.next().expect("planes have complete blocks of rows");
        &mut row.as_chunks_mut().0[..tiles]
    });
    for tile in 0..tiles {
        for half in 0..ROWS / TILE {
            let mut from = [[0; TILE]; TILE];
            for i in 0..TILE {
                from[i] = columns[tile][i].as_chunks().0[half];
            }
            let into = transpose_tile(from);
            for i in 0..TILE {
                rows[half * TILE + i][tile] = into[i];
            }
        }
    }
}

/// Transposes the first `side` rows and columns of rows that are `stride` values apart, in place. What
/// is beyond them up to the next tile is exchanged as well.
#[inline(always)]
pub(super) fn transpose_square(values: &mut [i16], stride: usize, side: usize) {
    let (values, _) = values.as_chunks_mut::<TILE>();
    let (tiles, stride) = (side.div_ceil(TILE), stride / TILE);
    let place = |row: usize, column: usize, i: usize| (row * TILE + i) * stride + column;
    for row in 0..tiles {
        for column in row..tiles {
            let mut from = [[[0; TILE]; TILE]; 2];
            for i in 0..TILE {
                from[0][i] = values[place(row, column, i)];
                from[1][i] = values[place(column, row, i)];
            }
            let [upper, lower] = from.map(transpose_tile);
            for i in 0..TILE {
                values[place(column, row, i)] = upper[i];
                values[place(row, column, i)] = lower[i];
            }
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn transpose_tile(rows: [[i16; TILE]; TILE]) -> [[i16; TILE]; TILE] {
    std::array::from_fn(|column| std::array::from_fn(|row| rows[row][column]))
}

/// By instructions that every x86-64 processor has.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn transpose_tile(rows: [[i16; TILE]; TILE]) -> [[i16; TILE]; TILE] {
    use pulp::bytemuck::cast;
    use std::arch::x86_64::__m128i;

    let simd = pulp::core_arch::x86::Sse2::try_new().expect("every x86-64 processor has SSE2");
    let interleave = |[a, b, c, d, e, f, g, h]: [__m128i; TILE]| {
        [
            simd._mm_unpacklo_epi16(a, e),
            simd._mm_unpackhi_epi16(a, e),
            simd._mm_unpacklo_epi16(b, f),
            simd._mm_unpackhi_epi16(b, f),
            simd._mm_unpacklo_epi16(c, g),
            simd._mm_unpackhi_epi16(c, g),
            simd._mm_unpacklo_epi16(d, h),
            simd._mm_unpackhi_epi16(d, h),
        ]
    };
    // Interleaving rows four apart three times is a transposition.
    cast(interleave(interleave(interleave(cast(rows)))))
}
