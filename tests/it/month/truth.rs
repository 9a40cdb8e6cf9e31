//! What is true of every instance, whatever the function believes: against it, each write is judged.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use tokio::time::Instant;

use super::account::ATTACKER;
use super::clock;

/// For how long a description may be relied on: what changed later could not be known.
const FRESH: Duration = Duration::from_secs(5);

/// What is true of one instance.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "facts that do not depend on each other")]
pub(crate) struct Fact {
    /// Which launch of the month it came with, if it was not there before.
    pub(crate) launch: Option<usize>,
    pub(crate) created: DateTime<Utc>,
    /// When it came up in the month, first or again.
    pub(crate) started: Option<Instant>,
    /// The last day of its exemption.
    pub(crate) exempt_until: Option<NaiveDate>,
    pub(crate) managed: bool,
    /// Whether a policy refuses to have it changed.
    pub(crate) refused: bool,
    /// Whether its software asks for credentials without a token.
    pub(crate) uses_no_token: bool,
    pub(crate) closed_since: Option<Instant>,
    pub(crate) required_since: Option<Instant>,
    /// When somebody loosened it last.
    pub(crate) loosened: Option<Instant>,
    /// Whether that was an attacker, who goes on asking without a token for a while.
    pub(crate) attacked: bool,
    pub(crate) gone: Option<Instant>,
    /// When the function first required tokens.
    pub(crate) enforced: Option<Instant>,
    /// Whether a line of the log names its actor.
    pub(crate) actor_known: bool,
    /// Whether the first line of the log about it says whose it is.
    pub(crate) owner_at_once: Option<bool>,
}

impl Fact {
    /// An instance created at a time, open to requests without a token.
    pub(crate) fn new(created: DateTime<Utc>) -> Self {
        Self {
            launch: None,
            created,
            started: None,
            exempt_until: None,
            managed: false,
            refused: false,
            uses_no_token: false,
            closed_since: None,
            required_since: None,
            loosened: None,
            attacked: false,
            gone: None,
            enforced: None,
            actor_known: false,
            owner_at_once: None,
        }
    }

    /// Whether it is to be enforced: open, nobody's exemption, and not a service's.
    pub(crate) fn is_violator(&self, today: NaiveDate) -> bool {
        let is_exempt = self.exempt_until.is_some_and(|until| today <= until);
        let is_open = self.closed_since.is_none() && self.required_since.is_none();
        is_open && !is_exempt && !self.managed && !self.refused
    }
}

/// What may be written to, beside what is open.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limits {
    /// What was created before this day is left.
    pub(crate) since: Option<NaiveDate>,
    /// What is older and in use is left.
    pub(crate) grace_days: Option<u16>,
    /// Most instances that one sweep enforces.
    pub(crate) pace: Option<usize>,
    /// Whether nothing finds instances but events that name them or their launch.
    pub(crate) no_sweep: bool,
}

/// Why a write should not have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wrong {
    Closed,
    Exempt,
    Compliant,
    Managed,
    CreatedBefore,
    InUse,
    NotAskedFor,
}

impl Wrong {
    pub(crate) const ALL: [Self; 7] = [
        Self::Closed,
        Self::Exempt,
        Self::Compliant,
        Self::Managed,
        Self::CreatedBefore,
        Self::InUse,
        Self::NotAskedFor,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed endpoint",
            Self::Exempt => "exempt",
            Self::Compliant => "compliant",
            Self::Managed => "managed",
            Self::CreatedBefore => "created before the day",
            Self::InUse => "in use under the grace",
            Self::NotAskedFor => "named by no event, without a sweep",
        }
    }
}

/// What is true of the account, and what was done to it.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    pub(crate) facts: BTreeMap<String, Fact>,
    pub(crate) limits: Limits,
    pub(crate) wrong: Vec<(Wrong, String)>,
    /// Calls by action, and how many of them EC2 refused for their rate.
    pub(crate) calls: BTreeMap<String, (usize, usize)>,
    /// Calls by action in each span of five minutes since the beginning.
    pub(crate) spans: BTreeMap<(String, i64), usize>,
    /// Writes that took effect and are not yet events of CloudTrail's.
    pub(crate) written: Vec<(String, Instant)>,
    pub(crate) writes: usize,
    /// How long each instance was open that somebody loosened.
    pub(crate) mended: Vec<Duration>,
}

impl Truth {
    /// Counts a call.
    pub(crate) fn called(&mut self, action: &str, throttled: bool) {
        let (all, refused) = self.calls.entry(action.to_owned()).or_default();
        *all += 1;
        *refused += usize::from(throttled);
        *self.spans.entry((action.to_owned(), clock::now().timestamp() / 300)).or_default() += 1;
    }

    /// Judges a write that is about to take effect.
    pub(crate) fn judge(&mut self, id: &str) {
        let Some(fact) = self.facts.get(id) else { return };
        if let Some(wrong) = why_wrong(fact, self.limits) {
            self.wrong.push((wrong, id.to_owned()));
        }
    }

    /// Somebody else changed an instance's options, which are these now.
    pub(crate) fn changed(&mut self, id: &str, tokens: &str, endpoint: &str, by: &str, now: Instant) {
        let Some(fact) = self.facts.get_mut(id) else { return };
        fact.attacked |= by == ATTACKER;
        let since = |was: Option<Instant>, is: bool| is.then(|| was.unwrap_or(now));
        fact.required_since = since(fact.required_since, tokens == "required");
        fact.closed_since = since(fact.closed_since, endpoint == "disabled");
        if fact.required_since.is_none() && fact.closed_since.is_none() {
            fact.loosened = Some(now);
        }
    }

    /// A write took effect.
    pub(crate) fn wrote(&mut self, id: &str) {
        let now = Instant::now();
        self.writes += 1;
        self.written.push((id.to_owned(), now));
        if let Some(fact) = self.facts.get_mut(id) {
            let was_open = fact.required_since.is_none();
            self.mended.extend(fact.loosened.filter(|_| was_open).map(|loosened| now - loosened));
            fact.required_since.get_or_insert(now);
            fact.enforced.get_or_insert(now);
            fact.closed_since = None;
        }
    }
}

/// Why a write to an instance is wrong now, by what could be known five seconds ago.
fn why_wrong(fact: &Fact, limits: Limits) -> Option<Wrong> {
    let is_known = |since: Option<Instant>| since.is_some_and(|since| since.elapsed() > FRESH);
    let today = clock::now().date_naive();
    let is_old = |days: u16| fact.created + TimeDelta::days(days.into()) < clock::now();
    let is_new = |started: Option<Instant>| fact.launch.is_some() || started.is_some();
    if fact.managed {
        Some(Wrong::Managed)
    } else if is_known(fact.closed_since) {
        Some(Wrong::Closed)
    } else if is_known(fact.required_since) {
        Some(Wrong::Compliant)
    } else if fact.exempt_until.is_some_and(|until| today <= until) {
        Some(Wrong::Exempt)
    } else if fact.loosened.is_some() {
        None
    } else if limits.since.is_some_and(|since| fact.created.date_naive() < since) {
        Some(Wrong::CreatedBefore)
    } else if limits.grace_days.is_some_and(is_old) && fact.uses_no_token {
        Some(Wrong::InUse)
    } else if limits.no_sweep && !is_new(fact.started) {
        Some(Wrong::NotAskedFor)
    } else {
        None
    }
}
