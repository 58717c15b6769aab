//! Reading images of an object store before they are needed, many at a time: each request takes a
//! while, however little it asks for.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::format::SourceFormat;
use super::index::Location;

/// Requests on the way at a time.
pub(crate) const REQUESTS: usize = 64;
/// Bytes of images that may wait to be taken; no more requests are sent above it.
const MOST_BYTES: u64 = 256 << 20;

/// An image to read: the arguments of [`SourceFormat::read`].
pub(super) struct Request {
    pub image_id: u32,
    pub path: String,
    pub location: Location,
    pub bytes: u64,
    pub limit: u64,
}

/// Images that threads read ahead.
pub(super) struct ReadAhead {
    shared: Arc<Shared>,
}

struct Shared {
    format: Arc<dyn SourceFormat>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Request>,
    being_read: HashSet<u32>,
    read: HashMap<u32, io::Result<Vec<u8>>>,
    /// Of those read.
    bytes: u64,
    has_ended: bool,
}

impl ReadAhead {
    /// Starts the threads, which end when this is dropped.
    pub fn new(format: Arc<dyn SourceFormat>) -> Self {
        let shared =
            Arc::new(Shared { format, state: Mutex::default(), changed: Condvar::default() });
        for _ in 0..REQUESTS {
            let shared = shared.clone();
            thread::spawn(move || shared.work());
        }
        Self { shared }
    }

    /// Reads these images, in this order.
    pub fn begin(&self, requests: impl IntoIterator<Item = Request>) {
        self.shared.lock().waiting.extend(requests);
        self.shared.changed.notify_all();
    }

    /// An image that was or is being read; `None` if its turn had not come, and then never will.
    pub fn take(&self, image_id: u32) -> Option<io::Result<Vec<u8>>> {
        let mut state = self.shared.lock();
        loop {
            if let Some(content) = state.read.remove(&image_id) {
                state.bytes -= content.as_ref().map_or(0, |content| content.len() as u64);
                self.shared.changed.notify_all();
                return Some(content);
            }
            if !state.being_read.contains(&image_id) {
                state.waiting.retain(|request| request.image_id != image_id);
                return None;
            }
            let changed = self.shared.changed.wait(state);
            state = changed.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl fmt::Debug for ReadAhead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadAhead").finish_non_exhaustive()
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.shared.lock().has_ended = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads one image after another.
    fn work(&self) {
        while let Some(Request { image_id, path, location, bytes, limit }) = self.next() {
            let content = self.format.read(&path, location, bytes, limit);
            let mut state = self.lock();
            state.being_read.remove(&image_id);
            state.bytes += content.as_ref().map_or(0, |content| content.len() as u64);
            state.read.insert(image_id, content);
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Waits for a request and for room; `None` at the end.
    fn next(&self) -> Option<Request> {
        let mut state = self.lock();
        loop {
            if state.has_ended {
                return None;
            }
            if state.bytes < MOST_BYTES
                && let Some(request) = state.waiting.pop_front()
            {
                let State { being_read, read, .. } = &mut *state;
                // Of two requests for the same image the second reads it when it needs it.
                if !read.contains_key(&request.image_id) && being_read.insert(request.image_id) {
                    return Some(request);
                }
                continue;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
