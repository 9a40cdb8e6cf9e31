//! Until when an invocation may do what: it stops starting work in time to answer.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::aws::Error;
use crate::aws::request_rate::RequestRate;

/// Until when an invocation, which began at `begin`, may do what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    pub(super) begin: Instant,
    /// From here on nothing more is started.
    start_until: Instant,
    /// From here on no answer of EC2 is waited for any more.
    wait_until: Instant,
    /// From here on no answer of the bus is waited for any more.
    pub(super) publish_until: Instant,
}

impl Deadline {
    /// Keeps two seconds, at most a quarter of the time left, in which calls in flight may end. Of
    /// these, half a second is kept for the results, and a fifth of a second for the answer.
    pub(super) fn before(end: Instant) -> Self {
        let begin = Instant::now();
        let left = end.saturating_duration_since(begin);
        let keep = |most: Duration| end.checked_sub(most).unwrap_or(end);
        Self {
            begin,
            start_until: keep(Duration::from_secs(2).min(left / 4)),
            wait_until: keep(Duration::from_millis(500).min(left / 16)),
            publish_until: keep(Duration::from_millis(200).min(left / 32)),
        }
    }

    /// The same, but for the list of what the sweep finds in enforce mode: in half of the time, so that
    /// the rest is left for writes, however long the list is.
    pub(super) fn of_list(self) -> Self {
        let half = |end: Instant| self.begin + end.saturating_duration_since(self.begin) / 2;
        Self { start_until: half(self.start_until), wait_until: half(self.wait_until), ..self }
    }

    /// Waits for the turn of a call. Whether it came while something may be started.
    pub(super) async fn turn(self, rate: &RequestRate) -> bool {
        Instant::now() < self.start_until && timeout_at(self.start_until, rate.turn()).await.is_ok()
    }

    /// Whether anything may still be started after such a wait.
    pub(super) fn allows(self, wait: Duration) -> bool {
        Instant::now() + wait < self.start_until
    }

    /// Sleeps, unless nothing could be started afterwards. Whether it did.
    pub(super) async fn sleep(self, wait: Duration) -> bool {
        let in_time = self.allows(wait);
        if in_time {
            sleep(wait).await;
        }
        in_time
    }

    /// The answer of a call to `service`, or that the time for it is over.
    pub(super) async fn wait<T>(self, service: &str, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let answer = timeout_at(self.wait_until, call).await;
        answer.unwrap_or_else(|_| Err(Error::deadline_exceeded(&format!("{service} had not answered"))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long before the end nothing more is started, and nothing more is waited for.
    fn kept(left: Duration) -> (Duration, Duration) {
        let end = Instant::now() + left;
        let deadline = Deadline::before(end);
        (end - deadline.start_until, end - deadline.wait_until)
    }

    #[tokio::test(start_paused = true)]
    async fn a_minute_keeps_two_seconds_and_of_these_half_a_second_for_the_answer() {
        assert_eq!(kept(Duration::from_mins(1)), (Duration::from_secs(2), Duration::from_millis(500)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_time_out_keeps_a_share_of_itself() {
        assert_eq!(kept(Duration::from_secs(3)), (Duration::from_millis(750), Duration::from_micros(187_500)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_has_passed_leaves_no_time() {
        let deadline = Deadline::before(Instant::now());
        assert!(deadline.start_until <= Instant::now());
        assert!(!deadline.turn(&RequestRate::new(100, 5)).await);
        assert!(!deadline.sleep(Duration::ZERO).await);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_waited_for_until_it_would_come_too_late() {
        let begin = Instant::now();
        let deadline = Deadline::before(begin + Duration::from_mins(1));
        let error = deadline.wait::<()>("EC2", std::future::pending()).await.unwrap_err();
        assert_eq!((error.code.as_str(), begin.elapsed()), ("DeadlineExceeded", Duration::from_millis(59_500)));
    }
}
