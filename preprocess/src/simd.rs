//! One way to vector instructions: code is compiled for each set of them, and the widest set that
//! the processor has is chosen at run time.

use pulp::{Arch, Simd, WithSimd};

/// Evaluates an expression as compiled for the widest vectors of the processor. That holds for the
/// code that is inlined into it, so what it calls in its loops is `inline(always)`.
///
/// Products and sums are never fused, so every processor computes the same.
#[macro_export]
macro_rules! vectorized {
    ($work:expr) => {
        $crate::simd::dispatch(
            #[inline(always)]
            || $work,
        )
    };
}

/// The name of the set of vector instructions that this processor's code was compiled for.
pub fn level() -> &'static str {
    struct Name;

    impl WithSimd for Name {
        type Output = &'static str;

        fn with_simd<S: Simd>(self, _: S) -> Self::Output {
            let name = std::any::type_name::<S>();
            name.rsplit("::").next().unwrap_or(name)
        }
    }

    Arch::new().dispatch(Name)
}

/// What [`vectorized!`](crate::vectorized) expands to.
#[doc(hidden)]
#[inline(always)]
pub fn dispatch<R>(work: impl FnMut() -> R) -> R {
    Arch::new().dispatch(Work(work))
}

/// `FnMut` and not `FnOnce`, which is called through a function that is not inlined when large.
struct Work<F>(F);

impl<R, F: FnMut() -> R> WithSimd for Work<F> {
    type Output = R;

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) -> R {
        (self.0)()
    }
}
