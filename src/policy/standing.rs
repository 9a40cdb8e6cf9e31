//! The standing of a violator: whether it is new, loosened, or was there before enforcement is meant
//! to reach it.
//!
//! Pure: the time is handed in. Where the time of creation is not known, the violator counts as new.

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};

/// Which violators are left as they are, by when they were created. Nothing is left by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leaves {
    /// What was created before this day, in UTC, is left.
    pub created_before: Option<NaiveDate>,
    /// What was created more than so many days ago is left if it was used without tokens in them.
    pub in_use_days: Option<u16>,
}

/// The standing of a violator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is new or was loosened: it is never left.
    New,
    /// It was created before the day: it is left.
    CreatedBefore {
        /// The day.
        day: NaiveDate,
    },
    /// It is old: it is left if it was used without tokens.
    Old {
        /// In how many days before.
        in_days: u16,
    },
}

impl Leaves {
    /// The standing at `now` of a violator that was created at `created`. It is `loosened` if an event
    /// records a call that may have left its tokens not required.
    #[must_use]
    pub fn standing(&self, created: Option<DateTime<Utc>>, loosened: bool, now: DateTime<Utc>) -> Standing {
        let Some(created) = created.filter(|_| !loosened) else { return Standing::New };
        let is_before = |day: &NaiveDate| created < day.and_time(NaiveTime::MIN).and_utc();
        let is_older_than = |days: &u16| now.signed_duration_since(created) > TimeDelta::days((*days).into());
        let created_before = self.created_before.filter(is_before).map(|day| Standing::CreatedBefore { day });
        let old = || self.in_use_days.filter(is_older_than).map(|in_days| Standing::Old { in_days });
        created_before.or_else(old).unwrap_or(Standing::New)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn standing(leaves: Leaves, created: &str) -> Standing {
        leaves.standing(Some(time(created)), false, time("2026-11-24T12:00:00Z"))
    }

    fn day(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    #[test]
    fn by_default_every_violator_is_new() {
        assert_eq!(standing(Leaves::default(), "2019-07-01T00:00:00Z"), Standing::New);
    }

    #[test]
    fn what_was_created_on_the_day_is_new_and_what_was_created_a_second_before_is_left() {
        let leaves = Leaves { created_before: Some(day("2026-11-20")), ..Leaves::default() };
        assert_eq!(standing(leaves, "2026-11-20T00:00:00Z"), Standing::New);
        assert_eq!(standing(leaves, "2026-11-19T23:59:59Z"), Standing::CreatedBefore { day: day("2026-11-20") });
    }

    #[test]
    fn what_is_as_old_as_the_grace_is_new_and_what_is_older_is_old() {
        let leaves = Leaves { in_use_days: Some(14), ..Leaves::default() };
        assert_eq!(standing(leaves, "2026-11-10T12:00:00Z"), Standing::New);
        assert_eq!(standing(leaves, "2026-11-10T11:59:59Z"), Standing::Old { in_days: 14 });
    }

    #[test]
    fn the_day_counts_before_the_grace() {
        let leaves = Leaves { created_before: Some(day("2026-11-01")), in_use_days: Some(7) };
        assert_eq!(standing(leaves, "2026-10-31T12:00:00Z"), Standing::CreatedBefore { day: day("2026-11-01") });
        assert_eq!(standing(leaves, "2026-11-02T12:00:00Z"), Standing::Old { in_days: 7 });
    }

    #[test]
    fn what_was_loosened_or_has_no_time_of_creation_is_new() {
        let leaves = Leaves { created_before: Some(day("2026-11-20")), in_use_days: Some(1) };
        let now = time("2026-11-24T12:00:00Z");
        assert_eq!(leaves.standing(Some(time("2019-07-01T00:00:00Z")), true, now), Standing::New);
        assert_eq!(leaves.standing(None, false, now), Standing::New);
    }

    #[test]
    fn the_ends_of_time_are_no_panic() {
        let leaves = Leaves { created_before: Some(NaiveDate::MIN), in_use_days: Some(u16::MAX) };
        for created in [DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC] {
            for now in [DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC] {
                assert_ne!(leaves.standing(Some(created), true, now), Standing::Old { in_days: 0 });
            }
        }
    }
}
