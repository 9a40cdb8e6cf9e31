//! Token buckets: each call takes a token, and tokens come back at a steady rate.

use std::collections::HashMap;
use std::time::Instant;

/// A bucket's size, and the tokens that come back each second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit {
    /// Tokens in a full bucket.
    pub capacity: f64,
    /// Tokens a second.
    pub refill_per_second: f64,
}

/// What EC2's documentation on request throttling gives the actions of the stand-in.
#[must_use]
pub fn documented(bucket: &str) -> Limit {
    let (capacity, refill_per_second) = match bucket {
        "DescribeInstances" => (100.0, 20.0),
        "DescribeInstances, neither filtered nor paginated" => (50.0, 10.0),
        "ModifyInstanceMetadataOptions" | "TerminateInstances" => (100.0, 5.0),
        "RunInstances" | "StartInstances" => (5.0, 2.0),
        _ => (50.0, 5.0),
    };
    Limit { capacity, refill_per_second }
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

/// The buckets of one account in one Region.
#[derive(Debug, Default)]
pub struct Buckets {
    levels: HashMap<String, Bucket>,
    overrides: HashMap<String, Limit>,
    /// No bucket is ever empty.
    pub unlimited: bool,
}

impl Buckets {
    /// Gives a bucket another limit than the documented one, and fills it.
    pub fn set(&mut self, bucket: &str, limit: Limit) {
        self.overrides.insert(bucket.to_owned(), limit);
        self.levels.remove(bucket);
    }

    /// Takes a token at `now`; `false` where there is none.
    pub fn take(&mut self, bucket: &str, now: Instant) -> bool {
        if self.unlimited {
            return true;
        }
        let limit = self.overrides.get(bucket).copied().unwrap_or_else(|| documented(bucket));
        let state = self.levels.entry(bucket.to_owned()).or_insert(Bucket { tokens: limit.capacity, at: now });
        let gained = now.saturating_duration_since(state.at).as_secs_f64() * limit.refill_per_second;
        state.tokens = (state.tokens + gained).min(limit.capacity);
        state.at = now;
        let has_one = state.tokens >= 1.0;
        if has_one {
            state.tokens -= 1.0;
        }
        has_one
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_full_bucket_gives_its_capacity_then_its_refill() {
        let mut buckets = Buckets::default();
        let start = Instant::now();
        let taken =
            |buckets: &mut Buckets, at| (0..200).filter(|_| buckets.take("ModifyInstanceMetadataOptions", at)).count();
        assert_eq!(taken(&mut buckets, start), 100);
        assert_eq!(taken(&mut buckets, start + Duration::from_secs(2)), 10);
        assert_eq!(taken(&mut buckets, start + Duration::from_secs(1000)), 100);
    }
}
