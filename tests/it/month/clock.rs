//! The time of day in a simulation: tokio's paused clock, from the Monday on which the month begins.

use std::cell::Cell;
use std::time::{Duration, SystemTime};

use aws_smithy_async::time::TimeSource;
use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

thread_local! {
    /// When the simulation of this thread began.
    static BEGIN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// When every simulation begins.
pub(crate) fn first_day() -> DateTime<Utc> {
    "2026-11-02T00:00:00Z".parse().unwrap()
}

/// Begins the simulation of this thread now.
pub(crate) fn begin() -> Instant {
    let now = Instant::now();
    BEGIN.set(Some(now));
    now
}

/// The time of day.
pub(crate) fn now() -> DateTime<Utc> {
    time_of(Instant::now())
}

/// The time of day at an instant.
pub(crate) fn time_of(instant: Instant) -> DateTime<Utc> {
    let since = instant.saturating_duration_since(BEGIN.get().expect("a simulation has begun"));
    first_day() + TimeDelta::from_std(since).unwrap()
}

/// How long after the beginning something happens.
pub(crate) const fn at(day: u64, hour: u64, minute: u64, second: u64) -> Duration {
    Duration::from_secs(((day * 24 + hour) * 60 + minute) * 60 + second)
}

/// The time of day, for the SDK's signatures.
#[derive(Debug)]
pub(crate) struct SimulatedTime;

impl TimeSource for SimulatedTime {
    fn now(&self) -> SystemTime {
        now().into()
    }
}
