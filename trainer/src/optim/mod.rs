//! How parameters change: LARS for the online network, the EMA for the target, and the schedules of
//! both; plain SGD for linear layers that evaluate a backbone.

mod ema;
mod lars;
mod multi_tensor;
mod schedule;
mod sgd;

pub use ema::update_ema;
pub use lars::{Lars, LarsConfig};
pub use schedule::{Schedule, ScheduleConfig};
pub use sgd::Sgd;
