//! The result that is published on a bus for an instance: one event, as
//! `events/schema/result-1.json` says.
//!
//! Pure. Detail-types and fields are a contract: any change of them, an added field too, is a new
//! version of the schema.

use serde::Serialize;

use crate::config::Mode;
use crate::event::EventSummary;
use crate::report::{InstanceReport, Outcome};

/// EventBridge's `source` of these events.
pub const SOURCE: &str = "imds-enforcer";

/// `schema_version` of these events.
pub const SCHEMA_VERSION: &str = "1";

/// One event for EventBridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultEvent {
    /// EventBridge's `detail-type`.
    pub detail_type: &'static str,
    /// EventBridge's `detail`, as JSON.
    pub detail: String,
}

impl ResultEvent {
    /// About how much of a call's size it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        SOURCE.len() + self.detail_type.len() + self.detail.len() + 16
    }
}

#[derive(Serialize)]
struct Detail<'a> {
    schema_version: &'static str,
    mode: Mode,
    region: &'a str,
    event: &'a EventSummary,
    #[serde(flatten)]
    instance: &'a InstanceReport,
    summary: Summary,
}

/// The same in words, every field always there, for messages to people.
#[derive(Serialize)]
struct Summary {
    what: String,
    who: String,
    r#where: String,
    cause: String,
    command: String,
}

/// The result of `instance`, which `event` led to, if its outcome is one that is published.
#[must_use]
pub fn result_event(instance: &InstanceReport, event: &EventSummary, mode: Mode, region: &str) -> Option<ResultEvent> {
    let detail_type = detail_type(&instance.outcome)?;
    let summary = summary(instance, region);
    let detail = Detail { schema_version: SCHEMA_VERSION, mode, region, event, instance, summary };
    Some(ResultEvent { detail_type, detail: serde_json::to_string(&detail).ok()? })
}

fn detail_type(outcome: &Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Enforced { .. } => Some("IMDS Tokens Required"),
        Outcome::WouldEnforce { .. } => Some("IMDS Tokens Would Be Required"),
        Outcome::Exempt { .. } => Some("IMDS Exemption Used"),
        Outcome::InUse { .. } => Some("IMDS Instance In Use"),
        Outcome::Failed { .. } => Some("IMDS Enforcement Failed"),
        Outcome::Compliant { .. }
        | Outcome::EndpointDisabled { .. }
        | Outcome::Managed { .. }
        | Outcome::CreatedBefore { .. }
        | Outcome::Gone { .. }
        | Outcome::NotFound => None,
    }
}

fn summary(instance: &InstanceReport, region: &str) -> Summary {
    let cause = instance.details.cause.as_deref();
    let unknown = || "unknown".to_owned();
    Summary {
        what: what(instance),
        who: cause.map_or_else(unknown, |it| format!("{} from {}", it.actor, it.source_address)),
        r#where: format!("{} in {region}", instance.instance_id),
        cause: cause.map_or_else(unknown, ToString::to_string),
        command: cause
            .map(|it| it.commands.join("; "))
            .filter(|it| !it.is_empty())
            .unwrap_or_else(|| "none".to_owned()),
    }
}

fn what(instance: &InstanceReport) -> String {
    match &instance.outcome {
        Outcome::Enforced { .. } => "session tokens are now required".to_owned(),
        Outcome::WouldEnforce { .. } => "session tokens are not required, and would be in enforce mode".to_owned(),
        Outcome::Exempt { .. } => instance.details.exemption.as_ref().map_or_else(
            || "session tokens are not required: exempt".to_owned(),
            |it| format!("session tokens are not required: exempt until {} ({})", it.until, it.reason()),
        ),
        Outcome::InUse { calls_without_token, in_days, .. } => format!(
            "session tokens are not required: {calls_without_token} calls without one in {in_days} days would have failed"
        ),
        Outcome::Failed { error, .. } => format!("requiring session tokens failed: {error}"),
        Outcome::Compliant { .. }
        | Outcome::EndpointDisabled { .. }
        | Outcome::Managed { .. }
        | Outcome::CreatedBefore { .. }
        | Outcome::Gone { .. }
        | Outcome::NotFound => String::new(),
    }
}
