//! The result that is published on a bus for an instance: one event, as
//! `events/schema/result-2.json` says.
//!
//! Pure. A result says that something changed, or that an event led to an instance that stays as it
//! is; what a sweep finds as it was before is in the sweep's digest alone. Detail-types and fields are
//! a contract: any change of them, an added field too, is a new version of the schema.

use std::borrow::Cow;

use serde::Serialize;

use crate::config::Mode;
use crate::event::EventSummary;
use crate::report::{Failure, InstanceReport, Outcome, RefusedCalls};

/// EventBridge's `source` of these events.
pub const SOURCE: &str = "imds-enforcer";

/// `schema_version` of these events.
pub const SCHEMA_VERSION: &str = "2";

/// Most characters of an error's message: EC2's encoded authorization messages have some thousands,
/// and can be decoded only whole.
const MESSAGE_CHARS: usize = 16 * 1024;

/// Most characters of an error's code: EC2's longest have some fifty.
pub(super) const CODE_CHARS: usize = 128;

/// Most characters of one line of a summary, but for the command, which is whole or not there.
const LINE_CHARS: usize = 1024;

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

    /// The event's result of this name, which tells this. No detail fails to be written as JSON.
    pub(super) fn new(
        detail_type: &'static str,
        setting: Setting,
        name: &str,
        told: &impl Serialize,
        summary: Summary,
    ) -> Option<Self> {
        let result_id = setting.result_id(name);
        let detail = Detail { schema_version: SCHEMA_VERSION, result_id, setting, told, summary };
        Some(Self { detail_type, detail: serde_json::to_string(&detail).ok()? })
    }
}

/// What led to a result, and where.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Setting<'a> {
    /// Whether the function may write.
    pub mode: Mode,
    /// The Region.
    pub region: &'a str,
    /// The event.
    pub event: &'a EventSummary,
}

impl Setting<'_> {
    /// The id of the event's result of this name. It is the same when the event is handled again, so
    /// that a consumer can drop the second; an event without an id leaves nothing to tell it by.
    fn result_id(&self, name: &str) -> Option<String> {
        self.event.id.as_ref().map(|id| format!("{id}/{name}"))
    }
}

/// What every result has around what it tells.
#[derive(Serialize)]
struct Detail<'a, T> {
    schema_version: &'static str,
    result_id: Option<String>,
    #[serde(flatten)]
    setting: Setting<'a>,
    #[serde(flatten)]
    told: &'a T,
    summary: Summary,
}

/// The same in words, every field always there, for messages to people.
#[derive(Serialize)]
pub(super) struct Summary {
    what: String,
    who: String,
    r#where: String,
    cause: String,
    command: String,
    /// All of them, one a line.
    text: String,
}

impl Summary {
    /// A summary of these lines. What stands in them comes from tags, events and answers: it is made
    /// plain. A command that is not plain is not shown, since a changed one would be another.
    pub(super) fn new(what: &str, who: &str, r#where: &str, cause: &str, command: Option<&str>) -> Self {
        let [what, who, r#where, cause] = [what, who, r#where, cause].map(plain);
        let command = match command {
            None => "none".to_owned(),
            Some(command) if command.chars().all(|c| plain_char(c) == c) => command.to_owned(),
            Some(_) => "in the result on the bus: it has marks that a message does not keep".to_owned(),
        };
        let text = format!("What: {what}\nWhere: {where}\nWho: {who}\nCause: {cause}\nCommand: {command}");
        Self { what, who, r#where, cause, command, text }
    }
}

/// A line that can stand in a message wherever EventBridge's input transformer puts it: into a text in
/// quotes it puts values as they are.
fn plain(line: &str) -> String {
    cut(line, LINE_CHARS).chars().map(plain_char).collect()
}

/// A character in place of one that a message does not keep: no control characters, double quotes,
/// backslashes, angle brackets, or marks that are not seen or turn the direction of what follows.
fn plain_char(c: char) -> char {
    match c {
        '"' => '\'',
        '\\' => '/',
        '<' => '(',
        '>' => ')',
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' => ' ',
        c if c.is_control() => ' ',
        c => c,
    }
}

/// The result of what became of `instance`, if it is one that is published. `named` says whether an
/// event led to it, and not a sweep.
#[must_use]
pub fn result_event(instance: &InstanceReport, setting: Setting, named: bool) -> Option<ResultEvent> {
    let detail_type = detail_type(instance, named)?;
    let cause = instance.details.cause.as_deref();
    let commands = cause.map(|it| it.commands.join("; ")).filter(|it| !it.is_empty());
    let summary = summary(instance, setting, &what(instance), commands.as_deref());
    let name = format!("{}/{}", instance.instance_id, instance.outcome.as_str());
    ResultEvent::new(detail_type, setting, &name, &bounded(instance), summary)
}

/// The result of the calls without a token that `instance` refused, if there were any.
#[must_use]
pub fn refused_calls_event(instance: &InstanceReport, setting: Setting) -> Option<ResultEvent> {
    let RefusedCalls { count, in_hours } = instance.details.refused_calls?;
    let what = format!(
        "{count} calls without a session token were refused in {in_hours} hours: of software that does not use \
         IMDSv2, or of somebody who tries"
    );
    let summary = summary(instance, setting, &what, instance.details.undo.as_deref());
    let name = format!("{}/refused_calls", instance.instance_id);
    ResultEvent::new("IMDS Calls Refused", setting, &name, &bounded(instance), summary)
}

/// An instance whose error has a message that fits into an event.
fn bounded(instance: &InstanceReport) -> Cow<'_, InstanceReport> {
    let Outcome::Failed { before, error } = &instance.outcome else { return Cow::Borrowed(instance) };
    let outcome = Outcome::Failed { before: before.clone(), error: cut_failure(error, MESSAGE_CHARS) };
    Cow::Owned(InstanceReport { outcome, ..instance.clone() })
}

/// A failure whose message has so many characters at the most.
pub(super) fn cut_failure(failure: &Failure, message_chars: usize) -> Failure {
    let Failure { code, message, retryable } = failure;
    Failure { code: cut(code, CODE_CHARS), message: cut(message, message_chars), retryable: *retryable }
}

/// The beginning of a text, and that it is cut where it is.
pub(super) fn cut(text: &str, chars: usize) -> String {
    let is_cut = text.chars().nth(chars).is_some();
    text.chars().take(chars).chain(is_cut.then_some('…')).collect()
}

fn detail_type(instance: &InstanceReport, named: bool) -> Option<&'static str> {
    let attributed = instance.details.cause.is_some();
    match &instance.outcome {
        Outcome::Enforced { .. } => Some("IMDS Tokens Required"),
        Outcome::WouldEnforce { .. } if named => Some("IMDS Tokens Would Be Required"),
        Outcome::CreatedBefore { .. } if named => Some("IMDS Instance Created Before"),
        Outcome::Exempt { .. } if named => Some("IMDS Exemption Used"),
        Outcome::InUse { .. } if named => Some("IMDS Instance In Use"),
        Outcome::Managed { .. } if named => Some("IMDS Instance Managed"),
        Outcome::Failed { error, .. } if named && !error.retryable => Some("IMDS Enforcement Failed"),
        Outcome::Compliant { .. } | Outcome::Gone { .. } if named && attributed => Some("IMDS Launch Attributed"),
        Outcome::WouldEnforce { .. }
        | Outcome::CreatedBefore { .. }
        | Outcome::Compliant { .. }
        | Outcome::EndpointDisabled { .. }
        | Outcome::Managed { .. }
        | Outcome::Exempt { .. }
        | Outcome::InUse { .. }
        | Outcome::Gone { .. }
        | Outcome::NotFound
        | Outcome::Failed { .. } => None,
    }
}

fn summary(instance: &InstanceReport, setting: Setting, what: &str, command: Option<&str>) -> Summary {
    let cause = instance.details.cause.as_deref();
    let who = cause.map(|it| format!("{} from {}", it.actor, it.source_address));
    let place = format!("{} in {}", instance.instance_id, setting.region);
    let cause = cause.map(ToString::to_string);
    let or_unknown = |text: Option<String>| text.unwrap_or_else(|| "unknown".to_owned());
    Summary::new(what, &or_unknown(who), &place, &or_unknown(cause), command)
}

fn what(instance: &InstanceReport) -> String {
    match &instance.outcome {
        Outcome::Enforced { .. } => "session tokens are now required".to_owned(),
        Outcome::WouldEnforce { .. } => "session tokens are not required, and would be in enforce mode".to_owned(),
        Outcome::CreatedBefore { enforce_since, .. } => {
            format!("session tokens are not required: created before {enforce_since}, since when they are")
        }
        Outcome::Managed { .. } => {
            "session tokens are not required: only the service that manages the instance can require them".to_owned()
        }
        Outcome::Exempt { .. } => instance.details.exemption.as_ref().map_or_else(
            || "session tokens are not required: exempt".to_owned(),
            |it| format!("session tokens are not required: exempt until {} ({})", it.until, it.reason()),
        ),
        Outcome::InUse { calls_without_token, in_days, .. } => format!(
            "session tokens are not required: {calls_without_token} calls without one in {in_days} days would have failed"
        ),
        Outcome::Failed { error, .. } => format!("requiring session tokens failed: {error}"),
        Outcome::Compliant { .. } => "session tokens were not required, and are by now".to_owned(),
        Outcome::Gone { .. } => "session tokens were not required; the instance is terminated by now".to_owned(),
        Outcome::EndpointDisabled { .. } => "the metadata endpoint is disabled".to_owned(),
        Outcome::NotFound => "EC2 does not know the instance".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::cause::cause;
    use crate::instance::{Instance, InstanceState, MetadataOptions};
    use crate::report::Details;
    use crate::report::tests::every_outcome;

    /// The cause of an instance whose tags are endless, or have this value.
    fn cause_of(value: &str) -> crate::cause::Cause {
        let tags = ["aws:autoscaling:groupName", "aws:ec2launchtemplate:id", "eks:nodegroup-name", "eks:cluster-name"];
        let described = Instance {
            tags: tags.into_iter().map(|key| (key.to_owned(), value.to_owned())).collect(),
            ..Instance::new("i-1a2b3c4d".parse().unwrap(), InstanceState::Running, MetadataOptions::default())
        };
        cause(&described, None, "us-east-1")
    }

    fn report(outcome: Outcome, cause: Option<crate::cause::Cause>) -> InstanceReport {
        let details = Details { cause: cause.map(Box::new), ..Details::default() };
        InstanceReport { details, ..InstanceReport::new("i-1a2b3c4d", outcome) }
    }

    fn failure(message: &str, retryable: bool) -> Failure {
        Failure { code: "UnauthorizedOperation".to_owned(), message: message.to_owned(), retryable }
    }

    /// The detail-type of the result of an outcome, and its detail.
    fn result(instance: &InstanceReport, named: bool) -> Option<(&'static str, Value)> {
        let event = EventSummary { id: Some("event-1".to_owned()), ..EventSummary::default() };
        let setting = Setting { mode: Mode::Enforce, region: "us-east-1", event: &event };
        let event = result_event(instance, setting, named)?;
        Some((event.detail_type, serde_json::from_str(&event.detail).unwrap()))
    }

    #[test]
    fn what_an_event_named_is_a_result_and_of_what_a_sweep_found_only_what_was_changed() {
        for outcome in every_outcome(failure("no", false)) {
            let expected = match outcome.as_str() {
                "enforced" => Some("IMDS Tokens Required"),
                "would_enforce" => Some("IMDS Tokens Would Be Required"),
                "created_before" => Some("IMDS Instance Created Before"),
                "managed" => Some("IMDS Instance Managed"),
                "exempt" => Some("IMDS Exemption Used"),
                "in_use" => Some("IMDS Instance In Use"),
                "failed" => Some("IMDS Enforcement Failed"),
                "compliant" | "gone" => Some("IMDS Launch Attributed"),
                _ => None,
            };
            let attributed = report(outcome.clone(), Some(cause_of("web")));
            let detail_type = |named| result(&attributed, named).map(|(detail_type, _)| detail_type);
            assert_eq!(detail_type(true), expected, "{outcome:?}");
            assert_eq!(detail_type(false), expected.filter(|_| outcome.as_str() == "enforced"), "{outcome:?}");
            let needs_cause = matches!(outcome.as_str(), "compliant" | "gone");
            let without_cause = result(&report(outcome, None), true).map(|(detail_type, _)| detail_type);
            assert_eq!(without_cause, expected.filter(|_| !needs_cause));
        }
    }

    #[test]
    fn a_failure_that_may_be_tried_again_is_no_result() {
        let failed = |retryable| Outcome::Failed { before: None, error: failure("no", retryable) };
        assert!(result(&report(failed(false), None), true).is_some());
        assert_eq!(result(&report(failed(true), None), true), None);
    }

    #[test]
    fn calls_refused_are_a_result_beside_that_of_the_outcome_with_an_id_of_its_own() {
        let mut instance = report(every_outcome(failure("no", true)).remove(0), Some(cause_of("web")));
        let event = EventSummary { id: Some("event-1".to_owned()), ..EventSummary::default() };
        let setting = Setting { mode: Mode::Enforce, region: "us-east-1", event: &event };
        assert_eq!(refused_calls_event(&instance, setting), None);
        instance.details.refused_calls = Some(RefusedCalls { count: 12, in_hours: 1 });
        let refused = refused_calls_event(&instance, setting).unwrap();
        let detail: Value = serde_json::from_str(&refused.detail).unwrap();
        assert_eq!(detail["result_id"], "event-1/i-1a2b3c4d/refused_calls");
        assert!(detail["summary"]["what"].as_str().unwrap().starts_with("12 calls without a session token"));
        assert_eq!(result(&instance, false).unwrap().1["result_id"], "event-1/i-1a2b3c4d/enforced");
    }

    #[test]
    fn an_event_without_an_id_has_results_without_one() {
        let event = EventSummary::default();
        let setting = Setting { mode: Mode::Enforce, region: "us-east-1", event: &event };
        let result = result_event(&report(every_outcome(failure("", true)).remove(0), None), setting, true);
        let detail: Value = serde_json::from_str(&result.unwrap().detail).unwrap();
        assert_eq!(detail.get("result_id"), Some(&Value::Null));
    }

    #[test]
    fn no_result_is_larger_than_an_event_may_be() {
        let endless = "\u{1}\"ü".repeat(100_000);
        for outcome in every_outcome(Failure { code: endless.clone(), ..failure(&endless, false) }) {
            let mut instance = report(outcome, Some(cause_of(&endless)));
            instance.details.refused_calls = Some(RefusedCalls { count: u64::MAX, in_hours: u16::MAX });
            let event = EventSummary { id: Some("event-1".to_owned()), ..EventSummary::default() };
            let setting = Setting { mode: Mode::Enforce, region: "us-east-1", event: &event };
            let events = [result_event(&instance, setting, true), refused_calls_event(&instance, setting)];
            for event in events.into_iter().flatten() {
                assert!(event.bytes() <= 240 * 1024, "{} has {} bytes", event.detail_type, event.bytes());
            }
        }
    }

    #[test]
    fn a_line_is_plain_and_a_command_is_whole_or_not_shown() {
        assert_eq!(plain("a \"b\"\n<c>\\ \u{202e}\u{1}ü '$(d)'"), "a 'b' (c)/   ü '$(d)'");
        assert_eq!(plain(&"a".repeat(2000)).chars().count(), LINE_CHARS + 1);
        let summary = |command| Summary::new("what", "who", "where", "cause", command);
        let long = format!("aws {}", "x".repeat(5000));
        for command in ["aws ec2 a --b 'c d' --e $(aws ec2 f)", &long] {
            assert_eq!(summary(Some(command)).command, command);
        }
        for command in ["aws ec2 a --b \"it's\"", "aws ec2 a --b 'c\nd'"] {
            assert!(summary(Some(command)).command.starts_with("in the result on the bus: "), "{command}");
        }
        let Summary { text, command, .. } = summary(None);
        assert_eq!(
            (text.as_str(), command.as_str()),
            ("What: what\nWhere: where\nWho: who\nCause: cause\nCommand: none", "none")
        );
    }
}
