//! Exemptions: what a tag must say for an instance to be left as it is, and until when.
//!
//! Pure: today is handed in. A tag that says anything else than a day that is near enough is no
//! exemption, and the error says why, so that its owner can mend it.

use std::collections::BTreeMap;

use chrono::{Days, NaiveDate};
use serde::{Serialize, Serializer};

use super::exact_day;

/// Which tag exempts, and for how long at the most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exemptions {
    /// The tag's key, which case matters for.
    pub tag: String,
    /// How many days after today the last day may be, at the most.
    pub max_days: u16,
}

/// An exemption in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exemption {
    /// The last day, which counts, in UTC.
    pub until: NaiveDate,
    /// Why, if the tag says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Exemption {
    /// The reason, or that there is none.
    #[must_use]
    pub fn reason(&self) -> &str {
        self.reason.as_deref().unwrap_or("no reason given")
    }
}

/// Why a tag does not exempt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoExemption {
    /// The value does not begin with a day.
    #[error("tag {tag} is {value:?}: the exemption's last day belongs there, as YYYY-MM-DD, then a blank and a reason")]
    Malformed {
        /// The tag's key.
        tag: String,
        /// Its value.
        value: String,
    },
    /// The last day is over.
    #[error("tag {tag}: the exemption ended with {until}, in UTC")]
    Expired {
        /// The tag's key.
        tag: String,
        /// The last day.
        until: NaiveDate,
    },
    /// The last day is further away than allowed.
    #[error("tag {tag}: {until} is too far away; today an exemption may end on {latest} at the latest")]
    TooFar {
        /// The tag's key.
        tag: String,
        /// The last day.
        until: NaiveDate,
        /// The latest that would be taken.
        latest: NaiveDate,
    },
}

/// As its text: the report is read by people.
impl Serialize for NoExemption {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How long an exemption is for that undoes an enforcement, unless exemptions may only be shorter.
const UNDONE_FOR_DAYS: u16 = 14;

impl Exemptions {
    /// The last day of an exemption that is granted on `today`, in UTC, to undo an enforcement.
    #[must_use]
    pub fn last_day(&self, today: NaiveDate) -> NaiveDate {
        today.checked_add_days(Days::new(self.max_days.min(UNDONE_FOR_DAYS).into())).unwrap_or(today)
    }

    /// The exemption that these tags grant on `today`, in UTC; none without the tag.
    ///
    /// # Errors
    ///
    /// [`NoExemption`], if there is the tag and it does not exempt.
    pub fn granted_by(
        &self,
        tags: &BTreeMap<String, String>,
        today: NaiveDate,
    ) -> Result<Option<Exemption>, NoExemption> {
        let Some(value) = tags.get(&self.tag) else { return Ok(None) };
        let tag = self.tag.clone();
        let (day, reason) = value.split_once(' ').unwrap_or((value, ""));
        let Some(until) = exact_day(day) else { return Err(NoExemption::Malformed { tag, value: value.clone() }) };
        let latest = today.checked_add_days(Days::new(self.max_days.into())).unwrap_or(today);
        if until < today {
            Err(NoExemption::Expired { tag, until })
        } else if until > latest {
            Err(NoExemption::TooFar { tag, until, latest })
        } else {
            let reason = Some(reason.trim()).filter(|reason| !reason.is_empty()).map(str::to_owned);
            Ok(Some(Exemption { until, reason }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: &str = "imds-exemption";

    fn granted(value: &str, today: &str) -> Result<Option<Exemption>, NoExemption> {
        let exemptions = Exemptions { tag: TAG.to_owned(), max_days: 90 };
        exemptions.granted_by(&[(TAG.to_owned(), value.to_owned())].into(), today.parse().unwrap())
    }

    fn refusal(value: &str, today: &str) -> String {
        granted(value, today).unwrap_err().to_string()
    }

    #[test]
    fn an_instance_without_the_tag_has_no_exemption_and_nothing_to_explain() {
        let exemptions = Exemptions { tag: TAG.to_owned(), max_days: 90 };
        let tags = [("Imds-Exemption".to_owned(), "2026-11-02".to_owned())].into();
        assert_eq!(exemptions.granted_by(&tags, "2026-11-02".parse().unwrap()), Ok(None));
    }

    #[test]
    fn the_last_day_counts_and_the_next_does_not() {
        for today in ["2026-11-01", "2026-11-30"] {
            assert_eq!(granted("2026-11-30", today).unwrap().unwrap().until, "2026-11-30".parse().unwrap());
        }
        assert!(refusal("2026-11-30", "2026-12-01").contains("ended with 2026-11-30"));
    }

    #[test]
    fn the_horizon_counts_and_the_day_after_does_not() {
        assert!(granted("2027-01-31", "2026-11-02").unwrap().is_some());
        let refusal = refusal("2027-02-01", "2026-11-02");
        assert!(refusal.contains("2027-02-01 is too far away") && refusal.contains("2027-01-31 at the latest"));
    }

    #[test]
    fn what_is_undone_is_exempt_for_two_weeks_or_as_long_as_is_allowed() {
        for (max_days, until) in [(90, "2026-11-16"), (3, "2026-11-05")] {
            let exemptions = Exemptions { tag: TAG.to_owned(), max_days };
            let last_day = exemptions.last_day("2026-11-02".parse().unwrap());
            assert_eq!(last_day, until.parse().unwrap());
            assert!(granted(&format!("{last_day} undone"), "2026-11-02").unwrap().is_some());
        }
    }

    #[test]
    fn a_reason_is_what_follows_the_first_blank() {
        for (value, reason) in [
            ("2026-11-30", None),
            ("2026-11-30 ", None),
            ("2026-11-30 agent of 2019, see OPS-481", Some("agent of 2019, see OPS-481")),
            ("2026-11-30   ünïcode ", Some("ünïcode")),
        ] {
            assert_eq!(granted(value, "2026-11-02").unwrap().unwrap().reason.as_deref(), reason, "{value:?}");
        }
    }

    #[test]
    fn what_is_no_plain_day_exempts_nothing() {
        for value in [
            "",
            " ",
            "true",
            "2026-11-30T00:00:00Z",
            "2026-11-31",
            "2026-02-29",
            "2026-1-30",
            "26-11-30",
            "+2026-11-30",
            " 2026-11-30",
            "2026/11/30",
            "30-11-2026",
            "2026-11-30,forever",
            "2026-11-30\t",
            "２０２６-11-30",
            "-026-11-30",
        ] {
            assert!(refusal(value, "2026-11-02").contains("YYYY-MM-DD"), "{value:?}");
        }
    }

    #[test]
    fn the_end_of_time_is_no_panic() {
        let exemptions = Exemptions { tag: TAG.to_owned(), max_days: 365 };
        let tags = [(TAG.to_owned(), "9999-12-31".to_owned())].into();
        assert!(exemptions.granted_by(&tags, NaiveDate::MAX).is_err());
    }
}
