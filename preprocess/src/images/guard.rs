//! The last line of defense against decoders that panic.
//!
//! A panic in a decoder is a fault of the decoder, but one damaged file among a million must not
//! end a run of days. Such a panic becomes an [`Unreadable`], and is not reported on stderr: the
//! reason already says what happened, and a progress bar may be on the screen. For that the
//! process's panic hook is wrapped once, at the first image; panics of other threads, and of this
//! one outside the decoders, are reported as ever.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use super::rgb_image::Unreadable;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs a decoder; its panic becomes a reason.
pub(super) fn quietly<T>(decoder: impl FnOnce() -> Result<T, Unreadable>) -> Result<T, Unreadable> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                report(info);
            }
        }));
    });
    let before = QUIET.replace(true);
    // Nothing of the decoder's state outlives the call.
    let result = panic::catch_unwind(AssertUnwindSafe(decoder));
    QUIET.set(before);
    result.unwrap_or_else(|panic| {
        Err(Unreadable::because(format!("the decoder failed: {}", message(&*panic))))
    })
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no reason given")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_reason_and_later_panics_are_panics() {
        let result = quietly::<()>(|| panic!("index {} out of range", 7));
        assert_eq!(result, Err(Unreadable("the decoder failed: index 7 out of range".to_owned())));
        assert!(!QUIET.get());
        assert_eq!(quietly(|| Ok(3)), Ok(3));
    }
}
