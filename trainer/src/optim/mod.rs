//! How parameters move: LARS for the online network, the moving average for the target, and the schedules of both.

mod lars;
mod moving_average;
mod schedule;

pub use lars::{Lars, LarsConfig};
pub use moving_average::follow;
pub use schedule::{Schedule, ScheduleConfig};
