//! How parameters change: SGD and LARS for the online network and for linear layers, the EMA for
//! the target, and the schedules of both.

mod ema;
mod multi_tensor;
mod schedule;
mod sgd;

pub use ema::update_ema;
pub use schedule::{Schedule, ScheduleConfig};
pub use sgd::{Sgd, SgdConfig};
