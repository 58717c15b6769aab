//! Ranks that are threads of one process, for tests.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::{Collective, Ranks};

/// One of several threads that act as the ranks of a run.
#[derive(Debug)]
pub struct Threads {
    rank: usize,
    meeting: Arc<Meeting>,
}

/// Where the threads exchange bytes.
#[derive(Debug)]
struct Meeting {
    size: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What each rank brought to the exchange that is gathering.
    brought: Vec<Option<Vec<u8>>>,
    /// What all brought to the last complete one.
    complete: Arc<Vec<Vec<u8>>>,
    /// Number of complete exchanges.
    exchanges: u64,
    /// Whether a rank has aborted.
    aborted: bool,
}

impl Threads {
    /// Runs `work` on each of `size` ranks, and returns the results in their order.
    ///
    /// # Panics
    /// If `work` panics on any rank or a rank aborts; the other ranks then end, too.
    pub fn run<R: Send>(size: usize, work: impl Fn(Ranks) -> R + Sync) -> Vec<R> {
        let state = State { brought: vec![None; size], ..State::default() };
        let meeting = Arc::new(Meeting { size, state: Mutex::new(state), changed: Condvar::new() });
        thread::scope(|scope| {
            let spawn = |rank| {
                let (meeting, work) = (Arc::clone(&meeting), &work);
                scope.spawn(move || {
                    let _leaving = Leaving(Arc::clone(&meeting));
                    work(Ranks::new(Threads { rank, meeting }))
                })
            };
            let threads: Vec<_> = (0..size).map(spawn).collect();
            let results: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
            results.into_iter().map(|result| result.expect("a rank that ends well")).collect()
        })
    }

    /// What all ranks bring.
    fn exchange(&self, bytes: &[u8]) -> Arc<Vec<Vec<u8>>> {
        let meeting = &self.meeting;
        let mut state = meeting.lock();
        let before = state.exchanges;
        state.brought[self.rank] = Some(bytes.to_vec());
        if state.brought.iter().all(Option::is_some) {
            state.complete = Arc::new(state.brought.iter_mut().filter_map(Option::take).collect());
            state.exchanges += 1;
            meeting.changed.notify_all();
        }
        while state.exchanges == before {
            assert!(!state.aborted, "rank {}: another rank ended", self.rank);
            state = meeting.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let complete = Arc::clone(&state.complete);
        assert!(complete.iter().all(|other| other.len() == bytes.len()), "unequal lengths");
        complete
    }
}

impl Meeting {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn abort(&self) {
        self.lock().aborted = true;
        self.changed.notify_all();
    }
}

/// Ends the exchanges of the others when a rank panics.
struct Leaving(Arc<Meeting>);

impl Drop for Leaving {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.abort();
        }
    }
}

impl Collective for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.meeting.size
    }

    fn all_gather(&self, bytes: &[u8], all: &mut [u8]) {
        all.copy_from_slice(&self.exchange(bytes).concat());
    }

    fn all_to_all(&self, bytes: &[u8], parts: &mut [u8]) {
        let length = bytes.len() / self.size();
        for (part, bytes) in parts.chunks_exact_mut(length).zip(&*self.exchange(bytes)) {
            part.copy_from_slice(&bytes[self.rank * length..][..length]);
        }
    }

    fn abort(&self, code: u8) -> ! {
        self.meeting.abort();
        panic!("rank {} aborted with exit code {code}", self.rank)
    }
}
