//! How fast an action of EC2 may be called: a token bucket like EC2's own.
//!
//! EC2 gives every account and Region one bucket for each action, and the function shares it with
//! the account's own automation: a call that would only be throttled is not made. It knows no SDK.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// The bucket of one action, for all calls of it that one environment of the function makes.
///
/// It begins full, as EC2's does when nobody calls. Where somebody does, the first throttled call
/// shows it, and all calls of the action pause: a second at first, then twice as long each time, up
/// to half the bucket, until the bucket was full again. So what others leave is found and used.
#[derive(Debug)]
pub struct RequestRate {
    capacity: f64,
    refill_per_second: f64,
    level: Mutex<Level>,
    /// Held by whoever is next: those who came first go first.
    queue: tokio::sync::Mutex<()>,
    throttles: AtomicUsize,
}

#[derive(Debug)]
struct Level {
    /// Below zero while calls pause.
    tokens: f64,
    at: Instant,
    /// The tokens that the next pause costs.
    pause: f64,
}

/// Tokens of EC2's bucket that are left in it, so that two clocks that disagree a little don't
/// have a call throttled.
const MARGIN: f64 = 2.0;

impl RequestRate {
    /// For a bucket of EC2 that holds `capacity` tokens, more than two, of which
    /// `refill_per_second`, at least one, come back.
    #[must_use]
    pub fn new(capacity: u32, refill_per_second: u32) -> Self {
        let (capacity, refill_per_second) = (f64::from(capacity) - MARGIN, f64::from(refill_per_second));
        let level = Level { tokens: capacity, at: Instant::now(), pause: refill_per_second };
        Self {
            capacity,
            refill_per_second,
            level: Mutex::new(level),
            queue: tokio::sync::Mutex::new(()),
            throttles: AtomicUsize::new(0),
        }
    }

    /// Waits for a token and takes it. Whoever gives up waiting has taken none.
    pub async fn turn(&self) {
        let _next = self.queue.lock().await;
        while let Err(wait) = self.take() {
            sleep(wait).await;
        }
    }

    /// Pauses all calls, since EC2 throttled one. Others that were under way show nothing new.
    pub fn throttled(&self) {
        self.throttles.fetch_add(1, Ordering::Relaxed);
        let mut level = self.filled();
        if level.tokens >= 0.0 {
            level.tokens = -level.pause;
            level.pause = (level.pause * 2.0).min(self.capacity / 2.0);
        }
    }

    /// How many calls were throttled so far.
    #[must_use]
    pub fn throttles(&self) -> usize {
        self.throttles.load(Ordering::Relaxed)
    }

    /// Takes a token, or says how long it takes until there is one.
    fn take(&self) -> Result<(), Duration> {
        let mut level = self.filled();
        if level.tokens < 1.0 {
            let wait = Duration::from_secs_f64((1.0 - level.tokens) / self.refill_per_second);
            return Err(wait.max(Duration::from_millis(1)));
        }
        level.tokens -= 1.0;
        Ok(())
    }

    /// The level as it is now.
    fn filled(&self) -> MutexGuard<'_, Level> {
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        level.tokens += now.saturating_duration_since(level.at).as_secs_f64() * self.refill_per_second;
        level.at = now;
        if level.tokens >= self.capacity {
            level.tokens = self.capacity;
            level.pause = self.refill_per_second;
        }
        level
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long `count` turns take, in seconds.
    async fn turns(rate: &RequestRate, count: usize) -> f64 {
        let begin = Instant::now();
        for _ in 0..count {
            rate.turn().await;
        }
        begin.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_turns_take_what_a_bucket_of_a_hundred_allows() {
        let rate = RequestRate::new(100, 5);
        assert!(turns(&rate, 98).await < 0.001);
        let waited = turns(&rate, 902).await;
        assert!((180.0..182.0).contains(&waited), "{waited}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_lasts_a_second_then_twice_as_long_up_to_half_the_bucket() {
        let rate = RequestRate::new(100, 5);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            rate.throttled();
            rate.throttled();
            pauses.push(turns(&rate, 1).await.round());
        }
        assert_eq!(pauses, [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]);
        assert_eq!(rate.throttles(), 12, "each call that was throttled counts");
        sleep(Duration::from_mins(1)).await;
        rate.throttled();
        assert!((turns(&rate, 1).await - 1.2).abs() < 0.01, "a full bucket forgets");
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_is_given_up_costs_nothing_and_holds_nobody_up() {
        let rate = RequestRate::new(3, 1);
        rate.turn().await;
        let given_up = tokio::time::timeout(Duration::from_millis(500), rate.turn()).await;
        assert!(given_up.is_err());
        assert!((turns(&rate, 1).await - 0.5).abs() < 0.01);
    }
}
