//! Learning rate and τ over a run. Steps count from 1.

use std::f64::consts::PI;

/// What the schedules depend on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScheduleConfig {
    /// Learning rate at the end of warm-up.
    pub peak_lr: f64,
    /// τ after the first step.
    pub tau: f64,
    /// Steps of the planned run, T.
    pub total_steps: u64,
    /// Steps of warm-up, T_w.
    pub warmup_steps: u64,
}

/// lr and τ for each step.
#[derive(Clone, Copy, Debug)]
pub struct Schedule(pub ScheduleConfig);

impl Schedule {
    /// Linear warm-up to the peak at step T_w, then half a cosine to zero at step T.
    pub fn lr(&self, step: u64) -> f64 {
        let ScheduleConfig { peak_lr: peak, total_steps, warmup_steps, .. } = self.0;
        if step <= warmup_steps {
            return peak * step as f64 / warmup_steps as f64;
        }
        let progress = (step - warmup_steps) as f64 / (total_steps - warmup_steps) as f64;
        peak * 0.5 * (1.0 + (PI * progress).cos())
    }

    /// τ of the EMA after a step: from τ₀ at the first towards 1.
    pub fn tau(&self, step: u64) -> f64 {
        let progress = (step - 1) as f64 / self.0.total_steps as f64;
        1.0 - (1.0 - self.0.tau) * 0.5 * ((PI * progress).cos() + 1.0)
    }
}
