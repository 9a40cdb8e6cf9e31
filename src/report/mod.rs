//! What was done, and why not more: the answer of an invocation.
//!
//! Pure data, built once at the end of an invocation. Its field names are the contract with dashboards,
//! log queries and tests.

pub mod digest;
pub mod metrics;
pub mod result_event;

use std::collections::BTreeMap;
use std::fmt;

use chrono::NaiveDate;
use serde::Serialize;

use crate::cause::Cause;
use crate::config::Mode;
use crate::event::EventSummary;
use crate::instance::MetadataOptions;
use crate::policy::exemption::{Exemption, NoExemption};

/// The report of one invocation.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether the function may write.
    pub mode: Mode,
    /// The event, or the SQS batch as a whole.
    pub event: EventSummary,
    /// Why the event asked for nothing, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignored: Option<String>,
    /// The instances by outcome.
    pub counts: Counts,
    /// The instances that were looked at: at most [`LISTED`] that failed, and as many others.
    pub instances: Vec<InstanceReport>,
    /// How many more there were, which stand in the log in place of an entry here.
    #[serde(skip_serializing_if = "is_zero")]
    pub unlisted: usize,
    /// What failed that was not one instance's: the look-up by filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// Every message of an SQS batch.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<MessageReport>,
    /// What became of the results, where they are sent to a bus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub results: Option<Published>,
    /// What the sweep's watch on refused calls found, where it is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watch: Option<Watched>,
    /// Whether everything that was asked for was done, but for what the next sweep tries by itself.
    #[serde(skip)]
    pub is_complete: bool,
}

/// What a sweep's watch on refused calls found. Nothing that the sweep does depends on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Watched {
    /// How many instances refused ten calls without a token or more; none if CloudWatch did not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusing: Option<usize>,
    /// In how many hours before the sweep.
    pub in_hours: u16,
    /// What kept the watch from seeing everything: of CloudWatch, or of EC2's description of what
    /// CloudWatch named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// What became of the results that were sent to a bus. No instance's outcome depends on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Published {
    /// How many the bus took.
    pub published: usize,
    /// How many it did not take, or were not sent in time.
    pub unpublished: usize,
    /// Why the first was not taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Most failed instances that a report lists, and most others. A sweep finds any number, and neither
/// memory nor the answer is to grow with it: Lambda takes an answer of 6 MB.
pub const LISTED: usize = 500;

/// Instances that were looked at: all are counted, and listed while there is room.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Instances {
    counts: Counts,
    failed: Vec<InstanceReport>,
    others: Vec<InstanceReport>,
}

impl Instances {
    /// How many there were, by outcome.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Counts an instance, and lists it while there is room.
    pub fn add(&mut self, instance: InstanceReport) {
        self.counts.add(&instance.outcome);
        let list = if instance.failure().is_some() { &mut self.failed } else { &mut self.others };
        if list.len() < LISTED {
            list.push(instance);
        }
    }

    /// Adds to the entry of an instance, if it is listed, that it refused calls. Answers the entry.
    pub fn add_refused_calls(&mut self, instance_id: &str, refused_calls: RefusedCalls) -> Option<&InstanceReport> {
        let instance =
            self.failed.iter_mut().chain(&mut self.others).find(|instance| instance.instance_id == instance_id)?;
        instance.details.refused_calls = Some(refused_calls);
        Some(instance)
    }
}

/// One instance of a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InstanceReport {
    /// Its id, or the text that stood in an id's place.
    pub instance_id: String,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// What else there is to report of it.
    #[serde(flatten)]
    pub details: Details,
}

/// What there is to report of an instance beside its outcome, mostly of violators.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Details {
    /// The exemption in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exemption: Option<Exemption>,
    /// Why the exemption tag does not exempt it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_exemption: Option<NoExemption>,
    /// Why its tokens are not required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Box<Cause>>,
    /// From the time of the event that named it to EC2's answer, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_to_enforce_ms: Option<u64>,
    /// The command of the AWS CLI that gives it back what was changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undo: Option<String>,
    /// What its owner should know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<&'static str>,
    /// The calls that its metadata service refused, where a sweep's watch found ten or more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused_calls: Option<RefusedCalls>,
}

/// Calls of a metadata service that came without a token and were refused, as CloudWatch counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RefusedCalls {
    /// How many.
    pub count: u64,
    /// In how many hours before the sweep.
    pub in_hours: u16,
}

/// What became of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Tokens were not required, and EC2 answered that they are now.
    Enforced {
        /// As described.
        before: MetadataOptions,
        /// As EC2 answered.
        after: MetadataOptions,
    },
    /// Observe mode: tokens are not required.
    WouldEnforce {
        /// As described.
        before: MetadataOptions,
    },
    /// Tokens are required already.
    Compliant {
        /// As described.
        before: MetadataOptions,
    },
    /// The metadata service is closed.
    EndpointDisabled {
        /// As described.
        before: MetadataOptions,
    },
    /// Tokens are not required, and a service manages the instance, which alone may change it.
    Managed {
        /// As described.
        before: MetadataOptions,
    },
    /// Tokens are not required, and an exemption allows that.
    Exempt {
        /// As described.
        before: MetadataOptions,
    },
    /// Its tokens are not required, and it was created before the day since when that is enforced.
    CreatedBefore {
        /// As described.
        before: MetadataOptions,
        /// The day, in UTC.
        enforce_since: NaiveDate,
    },
    /// Its tokens are not required, it is old, and it was lately used without them.
    InUse {
        /// As described.
        before: MetadataOptions,
        /// How many calls of its metadata service came without a token, as CloudWatch counted.
        calls_without_token: u64,
        /// In how many days before.
        in_days: u16,
    },
    /// Terminated or about to be.
    Gone {
        /// As described.
        before: MetadataOptions,
    },
    /// EC2 does not know it, and nothing says that it must.
    NotFound,
    /// Not looked at, or not enforced.
    Failed {
        /// As described, if it was.
        #[serde(skip_serializing_if = "Option::is_none")]
        before: Option<MetadataOptions>,
        /// Why.
        error: Failure,
    },
}

impl Outcome {
    /// The word that the report and the log have for it.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Enforced { .. } => "enforced",
            Self::WouldEnforce { .. } => "would_enforce",
            Self::Compliant { .. } => "compliant",
            Self::EndpointDisabled { .. } => "endpoint_disabled",
            Self::Managed { .. } => "managed",
            Self::Exempt { .. } => "exempt",
            Self::CreatedBefore { .. } => "created_before",
            Self::InUse { .. } => "in_use",
            Self::Gone { .. } => "gone",
            Self::NotFound => "not_found",
            Self::Failed { .. } => "failed",
        }
    }
}

/// Why something failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Failure {
    /// EC2's error code, or the SDK's name for what kept an answer from coming.
    pub code: String,
    /// What happened, and for a refusal what to grant or whom to ask.
    pub message: String,
    /// Whether trying again can help without anybody changing anything.
    pub retryable: bool,
}

/// One message of an SQS batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MessageReport {
    /// What `batchItemFailures` calls it.
    pub message_id: String,
    /// Its event, if it could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<EventSummary>,
    /// Why its event asked for nothing, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignored: Option<String>,
    /// Why its event was refused, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Whether it goes back to the queue.
    pub failed: bool,
}

/// How many instances came to which outcome, and how many were left to the next sweep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// All that came to an outcome.
    pub examined: usize,
    /// [`Outcome::Enforced`].
    pub enforced: usize,
    /// [`Outcome::WouldEnforce`].
    pub would_enforce: usize,
    /// [`Outcome::CreatedBefore`].
    pub created_before: usize,
    /// [`Outcome::Compliant`].
    pub compliant: usize,
    /// [`Outcome::EndpointDisabled`].
    pub endpoint_disabled: usize,
    /// [`Outcome::Managed`].
    pub managed: usize,
    /// [`Outcome::Exempt`].
    pub exempt: usize,
    /// [`Outcome::InUse`].
    pub in_use: usize,
    /// [`Outcome::Gone`].
    pub gone: usize,
    /// [`Outcome::NotFound`].
    pub not_found: usize,
    /// [`Outcome::Failed`].
    pub failed: usize,
    /// Violators beside these that a sweep found and did not come to, or that were beyond its limit.
    pub left_over: usize,
}

impl Counts {
    fn add(&mut self, outcome: &Outcome) {
        self.examined += 1;
        *match outcome {
            Outcome::Enforced { .. } => &mut self.enforced,
            Outcome::WouldEnforce { .. } => &mut self.would_enforce,
            Outcome::Compliant { .. } => &mut self.compliant,
            Outcome::EndpointDisabled { .. } => &mut self.endpoint_disabled,
            Outcome::Managed { .. } => &mut self.managed,
            Outcome::Exempt { .. } => &mut self.exempt,
            Outcome::CreatedBefore { .. } => &mut self.created_before,
            Outcome::InUse { .. } => &mut self.in_use,
            Outcome::Gone { .. } => &mut self.gone,
            Outcome::NotFound => &mut self.not_found,
            Outcome::Failed { .. } => &mut self.failed,
        } += 1;
    }
}

impl InstanceReport {
    /// An instance with nothing to report but its outcome.
    #[must_use]
    pub fn new(instance_id: &str, outcome: Outcome) -> Self {
        Self { instance_id: instance_id.to_owned(), outcome, details: Details::default() }
    }

    /// Whether it tells who left tokens not required on an instance that is compliant or gone by now.
    #[must_use]
    pub fn is_attribution(&self) -> bool {
        matches!(self.outcome, Outcome::Compliant { .. } | Outcome::Gone { .. }) && self.details.cause.is_some()
    }

    /// Whether EC2 described it.
    #[must_use]
    pub fn was_described(&self) -> bool {
        !matches!(self.outcome, Outcome::NotFound | Outcome::Failed { before: None, .. })
    }

    /// Why it failed, if it did.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match &self.outcome {
            Outcome::Failed { error, .. } => Some(error),
            Outcome::Enforced { .. }
            | Outcome::WouldEnforce { .. }
            | Outcome::Compliant { .. }
            | Outcome::EndpointDisabled { .. }
            | Outcome::Managed { .. }
            | Outcome::Exempt { .. }
            | Outcome::CreatedBefore { .. }
            | Outcome::InUse { .. }
            | Outcome::Gone { .. }
            | Outcome::NotFound => None,
        }
    }
}

impl Report {
    /// The report on `event`, which asked for `instances` to be looked at.
    pub fn new(mode: Mode, event: EventSummary, instances: Instances, error: Option<Failure>) -> Self {
        let Instances { counts, failed: mut instances, others } = instances;
        instances.extend(others);
        instances.sort_by(|a, b| a.instance_id.cmp(&b.instance_id));
        let unlisted = counts.examined - instances.len();
        let is_complete = counts.failed == 0 && error.is_none();
        let (ignored, messages, results, watch) = (None, Vec::new(), None, None);
        Self { mode, event, ignored, counts, instances, unlisted, error, messages, results, watch, is_complete }
    }

    /// The report on an event that asked for nothing.
    pub fn of_ignored(mode: Mode, event: EventSummary, reason: String) -> Self {
        Self { ignored: Some(reason), ..Self::new(mode, event, Instances::default(), None) }
    }
}

/// Counts and names what failed: the message of a failed invocation.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mode, event, ignored, counts, instances, unlisted, error, messages, results, watch, is_complete: _ } =
            self;
        write!(f, "{}: ", event.name)?;
        if let Some(reason) = ignored {
            return write!(f, "ignored: {reason}");
        }
        write!(f, "{counts} ({mode} mode)")?;
        if !messages.is_empty() {
            let failed = messages.iter().filter(|message| message.failed).count();
            write!(f, ", {failed} of {} messages failed", messages.len())?;
        }
        for (failure, ids) in by_code(instances) {
            write!(f, "; {failure} [{}]", ids.join(", "))?;
        }
        if *unlisted > 0 {
            write!(f, "; {unlisted} more instances are not listed")?;
        }
        if let Some(error) = error {
            write!(f, "; looking up the instances whose tokens are not required failed: {error}")?;
        }
        if let Some(Published { unpublished: unpublished @ 1.., .. }) = results {
            write!(f, "; {unpublished} results were not published")?;
        }
        if let Some(Watched { error: Some(error), .. }) = watch {
            write!(f, "; refused calls are not known: {error}")?;
        }
        Ok(())
    }
}

/// The failed instances by error code, each code with its first failure.
fn by_code(instances: &[InstanceReport]) -> Vec<(&Failure, Vec<&str>)> {
    let mut by_code: BTreeMap<&str, (&Failure, Vec<&str>)> = BTreeMap::new();
    for instance in instances {
        if let Some(failure) = instance.failure() {
            let (_, ids) = by_code.entry(&failure.code).or_insert((failure, Vec::new()));
            ids.push(&instance.instance_id);
        }
    }
    by_code.into_values().collect()
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            examined,
            enforced,
            would_enforce,
            created_before,
            compliant,
            endpoint_disabled,
            managed,
            exempt,
            in_use,
            gone,
            not_found,
            failed,
            left_over,
        } = self;
        write!(f, "{failed} of {examined} instances failed")?;
        for (count, outcome) in [
            (enforced, "enforced"),
            (would_enforce, "would be enforced"),
            (created_before, "created before the day"),
            (compliant, "compliant"),
            (endpoint_disabled, "with a disabled endpoint"),
            (managed, "managed by a service"),
            (exempt, "exempt"),
            (in_use, "in use without tokens"),
            (gone, "gone"),
            (not_found, "not found"),
            (left_over, "left to the next sweep"),
        ] {
            if *count > 0 {
                write!(f, ", {count} {outcome}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn failed(id: &str, code: &str) -> InstanceReport {
        let error = Failure { code: code.to_owned(), message: "no".to_owned(), retryable: false };
        InstanceReport::new(id, Outcome::Failed { before: None, error })
    }

    fn report(instances: Vec<InstanceReport>, error: Option<Failure>) -> Report {
        let event = EventSummary { name: "RunInstances".to_owned(), ..EventSummary::default() };
        let mut all = Instances::default();
        for instance in instances {
            all.add(instance);
        }
        Report::new(Mode::Enforce, event, all, error)
    }

    #[test]
    fn a_failure_is_counted_and_named_by_code() {
        let report = report(
            vec![
                failed("i-00000003", "RequestLimitExceeded"),
                failed("i-00000002", "UnauthorizedOperation"),
                failed("i-00000001", "UnauthorizedOperation"),
                InstanceReport::new("i-00000004", Outcome::NotFound),
            ],
            None,
        );
        assert!(!report.is_complete);
        assert_eq!(
            report.to_string(),
            "RunInstances: 3 of 4 instances failed, 1 not found (enforce mode); \
             RequestLimitExceeded: no [i-00000003]; UnauthorizedOperation: no [i-00000001, i-00000002]"
        );
    }

    #[test]
    fn a_failed_look_up_makes_the_report_incomplete() {
        let error = Failure { code: "InternalError".to_owned(), message: "no".to_owned(), retryable: true };
        let report = report(Vec::new(), Some(error));
        assert!(!report.is_complete);
        assert!(report.to_string().contains("InternalError: no"));
    }

    #[test]
    fn what_there_is_no_room_for_is_counted() {
        let mut instances = Instances::default();
        let not_found = |n| InstanceReport::new(&format!("i-1{n:07x}"), Outcome::NotFound);
        (0..LISTED + 2).for_each(|n| instances.add(not_found(n)));
        instances.add(failed("i-00000001", "InternalError"));
        let report = Report::new(Mode::Enforce, EventSummary::default(), instances, None);
        assert_eq!((report.counts.examined, report.instances.len(), report.unlisted), (LISTED + 3, LISTED + 1, 2));
        assert_eq!(report.instances[0].instance_id, "i-00000001", "a failure has room of its own");
        let failed = format!("1 of {} instances failed", LISTED + 3);
        assert!(report.to_string().contains(&failed), "{report}");
        assert!(report.to_string().contains("; 2 more instances are not listed"), "{report}");
    }

    /// One of every outcome, the failure with this error.
    pub(crate) fn every_outcome(error: Failure) -> Vec<Outcome> {
        let before = MetadataOptions::default();
        vec![
            Outcome::Enforced { before: before.clone(), after: before.clone() },
            Outcome::WouldEnforce { before: before.clone() },
            Outcome::Compliant { before: before.clone() },
            Outcome::EndpointDisabled { before: before.clone() },
            Outcome::Managed { before: before.clone() },
            Outcome::Exempt { before: before.clone() },
            Outcome::CreatedBefore { before: before.clone(), enforce_since: NaiveDate::MAX },
            Outcome::InUse { before: before.clone(), calls_without_token: u64::MAX, in_days: u16::MAX },
            Outcome::Gone { before },
            Outcome::NotFound,
            Outcome::Failed { before: None, error },
        ]
    }

    #[test]
    fn an_outcome_is_serialized_by_its_word() {
        let error = Failure { code: "InternalError".to_owned(), message: "no".to_owned(), retryable: false };
        for outcome in every_outcome(error) {
            assert_eq!(serde_json::to_value(&outcome).unwrap()["outcome"], outcome.as_str());
        }
    }

    #[test]
    fn an_outcome_is_one_flat_object() {
        let json = serde_json::to_value(failed("i-00000001", "UnauthorizedOperation")).unwrap();
        let expected = serde_json::json!({
            "instance_id": "i-00000001",
            "outcome": "failed",
            "error": {"code": "UnauthorizedOperation", "message": "no", "retryable": false},
        });
        assert_eq!(json, expected);
    }
}
