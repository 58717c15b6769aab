//! The progress of every program on standard error: a bar with rate and time left on a terminal,
//! plain lines otherwise, nothing with `--quiet`.

use std::fmt::Display;
use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{Stop, Stopped, print_error};

/// Time between two plain lines of progress.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// What an observer of a reporter receives.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A message to the user.
    Line(String),
    /// This many units are done.
    Done(u64),
}

/// The output of a reporter.
enum Output {
    Bar(ProgressBar),
    Lines,
    None,
    Observer(Box<dyn Fn(Event) + Send + Sync>),
}

/// Reports the progress of a program and has its stop flag; shared by all threads.
pub struct Reporter {
    output: Output,
    counter: Mutex<Counter>,
    stop: Stop,
}

/// The units counted since [`Reporter::begin`].
struct Counter {
    unit: &'static str,
    total: u64,
    done: u64,
    /// Units that were done before `start`.
    before: u64,
    start: Instant,
    last_line: Instant,
    /// Further text of a line, after the counts.
    status: String,
    /// Whether the task decides when a line is printed, by [`Reporter::log`].
    logs: bool,
}

impl Counter {
    fn new(unit: &'static str, total: u64, before: u64) -> Self {
        let now = Instant::now();
        let status = String::new();
        Self { unit, total, done: before, before, start: now, last_line: now, status, logs: false }
    }

    /// Such as `12 of 40 images, 3.1 images/s, 9 seconds left`.
    fn line(&self) -> String {
        let Self { unit, total, done, .. } = self;
        let seconds = self.start.elapsed().as_secs_f64().max(1e-3);
        let rate = (done - self.before) as f64 / seconds;
        let left = total.saturating_sub(*done) as f64 / rate.max(1e-9);
        let decimals = usize::from(rate < 100.0);
        let mut line = format!(
            "{} of {} {unit}, {rate:.decimals$} {unit}/s",
            HumanCount(*done),
            HumanCount(*total)
        );
        if left > 0.0 {
            let left = Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX);
            line += &format!(", {} left", HumanDuration(left));
        }
        line + &self.status
    }
}

impl Reporter {
    /// Reports on standard error, or not at all if `quiet`.
    pub fn new(quiet: bool, stop: Stop) -> Self {
        let output = if quiet {
            Output::None
        } else if std::io::stderr().is_terminal() {
            Output::Bar(ProgressBar::hidden())
        } else {
            Output::Lines
        };
        Self::with_output(output, stop)
    }

    /// Reports nothing and is never stopped.
    pub fn silent() -> Self {
        Self::with_output(Output::None, Stop::default())
    }

    /// Passes every event to `observer`, which may set a clone of `stop`.
    pub fn observed(stop: Stop, observer: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self::with_output(Output::Observer(Box::new(observer)), stop)
    }

    fn with_output(output: Output, stop: Stop) -> Self {
        Self { output, counter: Mutex::new(Counter::new("", 0, 0)), stop }
    }

    /// Fails once the stop flag is set; long work calls this regularly.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn check_stop(&self) -> Result<(), Stopped> {
        if self.stop.is_set() { Err(Stopped) } else { Ok(()) }
    }

    /// Shows a message to the user, above the bar.
    pub fn say(&self, line: impl Display) {
        match &self.output {
            Output::Bar(bar) => bar.suspend(|| print_error(line)),
            Output::Lines => print_error(line),
            Output::None => {}
            Output::Observer(observer) => observer(Event::Line(line.to_string())),
        }
    }

    /// Begins to count `total` units, such as `images`, of which `done` were done earlier.
    pub fn begin(&self, unit: &'static str, total: u64, done: u64) {
        *self.counter() = Counter::new(unit, total, done);
        if let Output::Bar(bar) = &self.output {
            set_style(bar, unit, "");
            bar.reset();
            bar.set_length(total);
            bar.set_position(done);
            // What was done earlier does not count for the rate.
            bar.reset_eta();
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }

    /// Counts units that are done. Plain lines come every ten seconds until the first
    /// [`Reporter::log`].
    pub fn advance(&self, count: u64) {
        if let Output::Bar(bar) = &self.output {
            bar.inc(count);
        }
        let mut counter = self.counter();
        counter.done += count;
        match &self.output {
            Output::Lines if !counter.logs && counter.last_line.elapsed() >= LINE_INTERVAL => {
                self.print(&mut counter);
            }
            Output::Observer(observer) => {
                let done = counter.done;
                // The observer may call the reporter.
                drop(counter);
                observer(Event::Done(done));
            }
            _ => {}
        }
    }

    /// Counts units that are done, and fails once the stop flag is set.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn step(&self, count: u64) -> Result<(), Stopped> {
        self.advance(count);
        self.check_stop()
    }

    /// What a line below the bar, or the end of a plain line, says besides the counts, such as
    /// `loss 3.1`.
    pub fn set_status(&self, status: impl Display) {
        let mut counter = self.counter();
        if let Output::Bar(bar) = &self.output {
            if counter.status.is_empty() {
                set_style(bar, counter.unit, "\n{msg}");
            }
            bar.set_message(status.to_string());
        }
        counter.status = format!("  {status}");
    }

    /// Prints a plain line of progress now, where there is no bar. From then on there are no other
    /// lines of this task.
    pub fn log(&self) {
        let mut counter = self.counter();
        counter.logs = true;
        match &self.output {
            Output::Lines => self.print(&mut counter),
            Output::Observer(observer) => {
                let line = counter.line();
                drop(counter);
                observer(Event::Line(line));
            }
            Output::Bar(_) | Output::None => {}
        }
    }

    /// Ends the counting and removes the bar.
    pub fn end(&self) {
        if let Output::Bar(bar) = &self.output {
            bar.finish_and_clear();
        }
    }

    fn print(&self, counter: &mut Counter) {
        counter.last_line = Instant::now();
        print_error(counter.line());
    }

    fn counter(&self) -> MutexGuard<'_, Counter> {
        self.counter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts, rate and time left at the end of the bar, with `below` in the line below it.
fn set_style(bar: &ProgressBar, unit: &str, below: &str) {
    let counts = "{wide_bar} {human_pos}/{human_len}";
    let template = format!("{counts} {unit}  {{per_sec}}  {{eta}} left{below}");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn an_observer_receives_lines_and_counts() {
        let events = Arc::new(Mutex::new(Vec::new()));
        let stop = Stop::default();
        let (seen, flag) = (events.clone(), stop.clone());
        let reporter = Reporter::observed(stop, move |event| {
            if event == Event::Done(3) {
                flag.set();
            }
            seen.lock().unwrap().push(event);
        });
        reporter.begin("images", 4, 1);
        reporter.say("a note");
        reporter.advance(1);
        assert!(reporter.check_stop().is_ok());
        reporter.advance(1);
        assert!(reporter.check_stop().is_err());
        let expected = [Event::Line("a note".into()), Event::Done(2), Event::Done(3)];
        assert_eq!(*events.lock().unwrap(), expected);
    }

    #[test]
    fn a_line_has_counts_rate_and_time_left() {
        let mut counter = Counter::new("pairs", 4000, 1000);
        counter.start -= Duration::from_secs(10);
        (counter.done, counter.status) = (2000, "  loss 3.1".into());
        let line = counter.line();
        assert!(line.starts_with("2,000 of 4,000 pairs, "), "{line}");
        assert!(line.contains(" pairs/s, ") && line.ends_with(" left  loss 3.1"), "{line}");
        counter.done = 4000;
        assert!(!counter.line().contains("left"));
    }
}
