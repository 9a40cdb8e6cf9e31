//! What an invocation's JSON asks for.
//!
//! Reads one EventBridge event, bare, or several inside an SQS event, and answers which instances
//! to look at. An event is never believed about an instance's options: those are described later.
//!
//! The envelope is read here, strictly. `detail` is only found to be JSON here, and is read by its
//! kind: a record of CloudTrail tolerantly, a state change of EC2, or nothing. The records of an SQS
//! event have a file of their own, too.

mod cloudtrail;
mod json;
mod sqs;
mod state_change;
mod tags;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use self::cloudtrail::{AtLaunch, Call, Caller, LaunchTemplate, Origin};
use self::json::{Raw, clip, strict};
pub use self::tags::OWNER_TAGS;
use crate::instance::{InstanceId, MalformedInstanceId};

/// What one invocation asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    /// One EventBridge event.
    Event(Request),
    /// The messages of an SQS event, each an EventBridge event of its own.
    Batch(Vec<Message>),
}

/// One message of an SQS event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What `batchItemFailures` calls it.
    pub message_id: String,
    /// How often it was received so far.
    pub receives: u32,
    /// What it asks for, or why it is refused.
    pub request: Result<Request, EventError>,
}

/// What one event asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Which event it is.
    pub event: EventSummary,
    /// Which instances to look at, or why none.
    pub targets: Result<Targets, Ignored>,
    /// The call that the event records, if it is one that may have left tokens not required.
    pub origin: Option<Arc<Origin>>,
}

/// Which event this was and who caused it, for the report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct EventSummary {
    /// EventBridge's id of the event.
    pub id: Option<String>,
    /// CloudTrail's `eventName`, otherwise EventBridge's `detail-type`.
    pub name: String,
    /// The event's own time.
    pub time: Option<DateTime<Utc>>,
    /// The caller: the ARN of `userIdentity`, or the service in its place.
    pub actor: Option<String>,
    /// EventBridge's `source`.
    pub source: String,
}

/// The instances to look at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Targets {
    /// Those the event named, each once.
    pub named: BTreeSet<InstanceId>,
    /// What stood where an id belongs and is none. It is never looked up, and is always a failure.
    pub malformed: BTreeSet<MalformedInstanceId>,
    /// Also instances of the Region whose tokens are not required, found by filter.
    pub violators: Option<Violators>,
    /// Whether a named instance is sure to exist, now or soon: not finding it is a failure then.
    pub must_exist: bool,
}

/// Which instances of the Region are looked at, of those whose tokens are not required.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violators {
    /// Those that were created at this time or later.
    CreatedSince(DateTime<Utc>),
    /// All of them.
    All,
}

impl Violators {
    /// Those that either of two events asks for.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::All, _) | (_, Self::All) => Self::All,
            (Self::CreatedSince(one), Self::CreatedSince(other)) => Self::CreatedSince(one.min(other)),
        }
    }
}

/// Why an event asks for nothing. This is no error: there is nothing to try again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    /// A dry run changes nothing.
    #[error("{event_name} was a dry run: nothing was changed")]
    DryRun {
        /// The action that was tried.
        event_name: String,
    },
    /// The call failed, so it changed nothing.
    #[error("{event_name} failed with {error_code}: nothing was changed")]
    CallFailed {
        /// The action that was tried.
        event_name: String,
        /// CloudTrail's `errorCode`.
        error_code: String,
    },
    /// A state in which there is nothing to look at yet, or any more.
    #[error("instance state {state}: only pending and running are looked at")]
    State {
        /// The state the instance changed to.
        state: String,
    },
    /// A launch of which neither the instances are known nor since when they can exist.
    #[error("{event_name} names no instance and has no readable time, so that there is nothing to look for")]
    NoInstances {
        /// The action that launched them.
        event_name: String,
    },
    /// An event of another kind.
    #[error("{detail_type} {name} is not an event that this function acts on")]
    OtherEvent {
        /// EventBridge's `detail-type`.
        detail_type: String,
        /// The event's name or source.
        name: String,
    },
}

/// Why an event is refused. Both end in the dead-letter queue: the same event fails again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// The JSON is no event, or lacks what such an event must have.
    #[error("unreadable event: at `{path}`: {problem}")]
    Unreadable {
        /// Where in the JSON, as `detail.instance-id`; `.` is the whole.
        path: String,
        /// What is wrong there, and what would be right.
        problem: String,
    },
    /// The event comes from another Region: its instances can't be found here.
    #[error(
        "the event comes from Region {event_region}, this function looks after {region}: \
         send it to the function of its own Region"
    )]
    WrongRegion {
        /// The event's Region.
        event_region: String,
        /// The function's Region.
        region: String,
    },
}

impl EventError {
    /// The `errorType` that Lambda records.
    #[must_use]
    pub fn error_type(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "UnreadableEvent",
            Self::WrongRegion { .. } => "WrongRegion",
        }
    }

    fn unreadable(path: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Unreadable { path: path.into(), problem: problem.into() }
    }
}

/// Reads the JSON of an invocation, for the function of `region`.
///
/// # Errors
///
/// [`EventError`], if the whole can't be read or is a bare event that is refused. A message of an
/// SQS event that is refused is no error of the whole: its neighbours are still looked after.
pub fn read(json: &str, region: &str) -> Result<Invocation, EventError> {
    match sqs::read(json, region)? {
        Some(messages) => Ok(Invocation::Batch(messages)),
        None => read_event(json, region).map(Invocation::Event),
    }
}

/// What is read of an EventBridge event. The type of `aws_lambda_events` refuses an event whose time
/// is no RFC 3339, of which only the time is not known.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Envelope<'a> {
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    detail_type: Cow<'a, str>,
    #[serde(borrow)]
    source: Cow<'a, str>,
    #[serde(borrow)]
    region: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    time: Raw<'a>,
    #[serde(borrow)]
    detail: &'a RawValue,
}

/// One EventBridge event.
fn read_event(json: &str, region: &str) -> Result<Request, EventError> {
    let envelope: Envelope = strict(json)?;
    check_region(envelope.region.as_deref().unwrap_or_default(), region)?;
    let event = EventSummary {
        id: envelope.id.as_deref().map(clip),
        name: clip(&envelope.detail_type),
        time: envelope.time.str().and_then(|time| time.parse().ok()),
        actor: None,
        source: clip(&envelope.source),
    };
    match &*envelope.detail_type {
        cloudtrail::DETAIL_TYPE => cloudtrail::read(envelope.detail, event),
        state_change::DETAIL_TYPE => state_change::read(envelope.detail, event),
        "Scheduled Event" => Ok(look_at_violators(event)),
        _ => Ok(ignore_other(event)),
    }
}

fn check_region(event_region: &str, region: &str) -> Result<(), EventError> {
    if event_region.is_empty() {
        return Err(EventError::unreadable("region", "is missing: an EventBridge event names its Region"));
    }
    if event_region != region {
        return Err(EventError::WrongRegion { event_region: clip(event_region), region: region.to_owned() });
    }
    Ok(())
}

fn look_at_violators(event: EventSummary) -> Request {
    let targets = Targets { violators: Some(Violators::All), ..Targets::default() };
    Request { event, targets: Ok(targets), origin: None }
}

fn ignore_other(event: EventSummary) -> Request {
    let ignored = Ignored::OtherEvent { detail_type: event.name.clone(), name: format!("of {}", event.source) };
    Request { event, targets: Err(ignored), origin: None }
}

/// What stands where an instance id belongs, if anything does.
fn instance_id(value: Raw) -> Option<Result<InstanceId, MalformedInstanceId>> {
    let text = value.str().or_else(|| value.json().map(Cow::Borrowed))?;
    Some(text.parse())
}

impl Targets {
    /// The instance of an event that names one at most.
    fn one(id: Raw) -> Self {
        let mut targets = Self::default();
        if let Some(id) = instance_id(id) {
            targets.add(id);
        }
        targets
    }

    fn add(&mut self, id: Result<InstanceId, MalformedInstanceId>) {
        match id {
            Ok(id) => drop(self.named.insert(id)),
            Err(malformed) => drop(self.malformed.insert(malformed)),
        }
    }

    fn is_empty(&self) -> bool {
        self.named.is_empty() && self.malformed.is_empty()
    }

    /// Refuses the event if there is not one instance to look at.
    fn or_refuse(self, path: &str) -> Result<Self, EventError> {
        if self.violators.is_some() || !self.named.is_empty() {
            return Ok(self);
        }
        let problem = self.malformed.first().map_or("it names no instance".to_owned(), ToString::to_string);
        Err(EventError::unreadable(path, problem))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    pub(super) const REGION: &str = "us-east-1";
    pub(super) const A: &str = "i-0123456789abcdef0";
    pub(super) const B: &str = "i-1a2b3c4d";

    pub(super) fn event(detail_type: &str, detail: &Value) -> Value {
        json!({"id": "e", "detail-type": detail_type, "source": "aws.ec2", "region": REGION, "time": "2026-11-02T09:14:07Z", "detail": detail})
    }

    pub(super) fn read_request(event: &Value) -> Result<Request, EventError> {
        match read(&event.to_string(), REGION)? {
            Invocation::Event(request) => Ok(request),
            Invocation::Batch(messages) => panic!("a batch: {messages:?}"),
        }
    }

    pub(super) fn ids(targets: &Targets) -> Vec<&str> {
        targets.named.iter().map(InstanceId::as_str).collect()
    }

    #[test]
    fn an_unreadable_event_says_where_and_what() {
        let state_change = |detail| event("EC2 Instance State-change Notification", &detail).to_string();
        for (json, path, problem) in [
            (String::new(), ".", "a JSON object belongs here"),
            ("[]".to_owned(), ".", "a JSON object belongs here"),
            ("{".to_owned(), ".", "EOF"),
            (event("Scheduled Event", &json!({})).to_string() + " {}", ".", "trailing"),
            ("{}".to_owned(), ".", "missing field `detail-type`"),
            (r#"{"detail-type": 7}"#.to_owned(), "detail-type", "invalid type: integer"),
            (json!({"detail-type": "a", "source": "b", "detail": {}}).to_string(), "region", "is missing"),
            (state_change(json!({"state": "running"})), "detail.instance-id", "names no instance"),
            (state_change(json!({"instance-id": A})), "detail.state", "is missing"),
            (state_change(json!({"instance-id": "x", "state": "running"})), "detail.instance-id", "not an instance id"),
            (state_change(json!([A, "running"])), "detail", "a JSON object belongs here"),
            (event("AWS API Call via CloudTrail", &json!({})).to_string(), "detail.eventName", "is missing"),
            (json!({"Records": 7}).to_string(), "Records", "invalid type"),
            (json!({"Records": [{"eventSource": "aws:sns"}]}).to_string(), "Records[0].eventSource", "aws:sns"),
            (json!({"Records": [{"eventSource": "aws:sqs"}]}).to_string(), "Records[0].messageId", "is missing"),
        ] {
            let error = read(&json, REGION).unwrap_err().to_string();
            assert!(error.contains(&format!("at `{path}`")) && error.contains(problem), "{json}: {error}");
        }
    }

    #[test]
    fn an_event_of_another_region_is_refused_whatever_it_is() {
        for detail_type in ["AWS API Call via CloudTrail", "Scheduled Event", "Object Created"] {
            let mut event = event(detail_type, &json!({}));
            event["region"] = "eu-central-1".into();
            let error = read(&event.to_string(), REGION).unwrap_err();
            assert!(
                matches!(&error, EventError::WrongRegion { event_region, .. } if event_region == "eu-central-1"),
                "{error}"
            );
        }
    }
}
