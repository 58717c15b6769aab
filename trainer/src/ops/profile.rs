//! Where a step's time goes, op by op. While a profile is recorded, the host waits for the device
//! around each op, so the parts add up to more than a step takes.

use std::any::type_name;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Instant;

use candle_core::{Device, Result};

/// A part of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// The op, forward or backward.
    pub name: String,
    /// Seconds that it took.
    pub seconds: f64,
    /// How often it was applied.
    pub calls: usize,
}

thread_local! {
    static PARTS: RefCell<Option<BTreeMap<String, Part>>> = const { RefCell::new(None) };
}

/// Begins to measure what this thread computes.
pub fn begin() {
    PARTS.set(Some(BTreeMap::new()));
}

/// The parts since [`begin`], the longest first.
pub fn end() -> Vec<Part> {
    let mut parts: Vec<Part> = PARTS.take().unwrap_or_default().into_values().collect();
    parts.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    parts
}

/// Runs `work` as a part named after the op type `O` and `way`.
pub(crate) fn of_op<O, R>(
    way: &str,
    device: &Device,
    work: impl FnOnce() -> Result<R>,
) -> Result<R> {
    measure(device, work, || {
        let name = type_name::<O>();
        format!("{} {way}", name.rsplit("::").next().unwrap_or(name))
    })
}

/// Runs `work` as a part called `name`.
pub(crate) fn of<R>(name: &str, device: &Device, work: impl FnOnce() -> Result<R>) -> Result<R> {
    measure(device, work, || name.to_owned())
}

fn measure<R>(
    device: &Device,
    work: impl FnOnce() -> Result<R>,
    name: impl FnOnce() -> String,
) -> Result<R> {
    if PARTS.with_borrow(Option::is_none) {
        return work();
    }
    device.synchronize()?;
    let begin = Instant::now();
    let result = work()?;
    device.synchronize()?;
    let seconds = begin.elapsed().as_secs_f64();
    PARTS.with_borrow_mut(|parts| {
        let name = name();
        let empty = || Part { name: name.clone(), seconds: 0.0, calls: 0 };
        if let Some(part) =
            parts.as_mut().map(|parts| parts.entry(name.clone()).or_insert_with(empty))
        {
            part.seconds += seconds;
            part.calls += 1;
        }
    });
    Ok(result)
}
