//! How parameters move: LARS for the online network, the moving average for the target, and the schedules of both; plain SGD for
//! linear layers that judge a backbone.

mod lars;
mod moving_average;
mod schedule;
mod sgd;

pub use lars::{Lars, LarsConfig};
pub use moving_average::follow;
pub use schedule::{Schedule, ScheduleConfig};
pub use sgd::Sgd;
