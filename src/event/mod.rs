//! What an invocation's JSON asks for.
//!
//! Reads one EventBridge event, bare, or several inside an SQS event, and answers which instances
//! to look at. An event is never believed about an instance's options: those are described later.
//!
//! CloudTrail's JSON is not typed: a single item stands where a list is usual, fields are null,
//! missing, replaced by `omitted`, or of another shape. So the envelope is read strictly, and of
//! `detail` every level by itself: what has another shape than expected reads as absent, and what
//! is absent makes the function look at more instances, or refuse the event, never at fewer.

mod cloudtrail;
mod json;
mod sqs;
mod state_change;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use aws_lambda_events::event::eventbridge::EventBridgeEvent;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::value::RawValue;

pub use self::cloudtrail::{Call, Caller, LaunchTemplate, Origin};
use self::json::{Raw, clip, strict};
use crate::instance::{InstanceId, MalformedInstanceId};

/// What one invocation brings.
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
    /// What it asks for, or why that can't be told.
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
    /// Who made the call: the ARN of `userIdentity`, or the service that was it.
    pub actor: Option<String>,
    /// EventBridge's `source`.
    pub source: String,
}

/// The instances to look at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Targets {
    /// Those the event named, each once.
    pub named: BTreeSet<InstanceId>,
    /// What stood where an id belongs and is none: never looked up, always a failure.
    pub malformed: BTreeSet<MalformedInstanceId>,
    /// Also every instance of the Region whose tokens are not required, found by filter.
    pub violators: bool,
    /// Whether a named instance is sure to exist, now or soon: not finding it is a failure then.
    pub must_exist: bool,
}

/// Why an event asks for nothing. Not an error: there is nothing to try again.
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

/// One EventBridge event.
fn read_event(json: &str, region: &str) -> Result<Request, EventError> {
    let envelope: EventBridgeEvent<Box<RawValue>> = strict(json, "")?;
    check_region(envelope.region.as_deref().unwrap_or_default(), region)?;
    let event = EventSummary {
        id: envelope.id.as_deref().map(clip),
        name: clip(&envelope.detail_type),
        time: envelope.time,
        actor: None,
        source: clip(&envelope.source),
    };
    match envelope.detail_type.as_str() {
        cloudtrail::DETAIL_TYPE => cloudtrail::read(&envelope.detail, event),
        state_change::DETAIL_TYPE => state_change::read(&envelope.detail, event),
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
    let targets = Targets { violators: true, ..Targets::default() };
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
        if self.violators || !self.named.is_empty() {
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

    const REGION: &str = "us-east-1";
    const A: &str = "i-0123456789abcdef0";
    const B: &str = "i-1a2b3c4d";

    fn event(detail_type: &str, detail: &Value) -> Value {
        json!({"id": "e", "detail-type": detail_type, "source": "aws.ec2", "region": REGION, "time": "2026-11-02T09:14:07Z", "detail": detail})
    }

    fn read_request(event: &Value) -> Result<Request, EventError> {
        match read(&event.to_string(), REGION)? {
            Invocation::Event(request) => Ok(request),
            Invocation::Batch(messages) => panic!("a batch: {messages:?}"),
        }
    }

    fn api_call(detail: &Value) -> Result<Request, EventError> {
        read_request(&event("AWS API Call via CloudTrail", detail))
    }

    fn run_instances(response: &Value) -> Result<Targets, EventError> {
        api_call(&json!({"eventName": "RunInstances", "responseElements": response}))
            .map(|request| request.targets.unwrap())
    }

    fn modify(request: &Value, response: &Value) -> Result<Targets, EventError> {
        let detail = json!({"eventName": "ModifyInstanceMetadataOptions", "requestParameters": request, "responseElements": response});
        api_call(&detail).map(|request| request.targets.unwrap())
    }

    fn ids(targets: &Targets) -> Vec<&str> {
        targets.named.iter().map(InstanceId::as_str).collect()
    }

    #[test]
    fn a_launch_names_all_its_instances_once() {
        let items = json!([{"instanceId": A}, {"instanceId": B}, {"instanceId": A}]);
        let targets = run_instances(&json!({"instancesSet": {"items": items}})).unwrap();
        assert_eq!(ids(&targets), [A, B]);
        assert!(targets.must_exist && !targets.violators);
    }

    #[test]
    fn a_single_item_stands_for_a_list() {
        let targets = run_instances(&json!({"instancesSet": {"items": {"instanceId": A}}})).unwrap();
        assert_eq!(ids(&targets), [A]);
        assert!(!targets.violators);
    }

    #[test]
    fn a_launch_that_may_not_name_all_looks_at_every_violator_too() {
        for (response, named) in [
            (Value::Null, 0),
            (json!({}), 0),
            (json!("text"), 0),
            (json!({"omitted": true}), 0),
            (json!({"instancesSet": null}), 0),
            (json!({"instancesSet": []}), 0),
            (json!({"instancesSet": {"items": null}}), 0),
            (json!({"instancesSet": {"items": []}}), 0),
            (json!({"instancesSet": {"items": "text"}}), 0),
            (json!({"instancesSet": {"items": [null]}}), 0),
            (json!({"instancesSet": {"items": [{"instanceId": null}]}}), 0),
            (json!({"instancesSet": {"items": [{"instanceId": A}, {"omitted": true}]}}), 1),
            (json!({"instancesSet": {"items": [{"instanceId": A}], "omitted": true}}), 1),
            (json!({"omitted": "true", "instancesSet": {"items": [{"instanceId": A}]}}), 1),
        ] {
            let targets = run_instances(&response).unwrap();
            assert!(targets.violators, "{response}");
            assert_eq!(targets.named.len(), named, "{response}");
        }
    }

    #[test]
    fn what_is_no_id_is_set_apart_and_the_others_are_looked_at() {
        for malformed in [json!("i-xyz"), json!(""), json!(42), json!(["i-1a2b3c4d"]), json!("i-*")] {
            let items = json!([{"instanceId": A}, {"instanceId": malformed}]);
            let targets = run_instances(&json!({"instancesSet": {"items": items}})).unwrap();
            assert_eq!((ids(&targets), targets.malformed.len()), (vec![A], 1), "{malformed}");
        }
    }

    #[test]
    fn an_event_with_nothing_but_a_malformed_id_is_refused_and_says_where() {
        let launch = run_instances(&json!({"instancesSet": {"items": [{"instanceId": "i-xyz"}]}})).unwrap_err();
        assert!(launch.to_string().contains("detail.responseElements.instancesSet.items"), "{launch}");
        assert!(launch.to_string().contains("i-xyz"), "{launch}");
        let change = modify(&json!({"InstanceId": "i-xyz"}), &Value::Null).unwrap_err();
        assert!(change.to_string().contains("detail.requestParameters"), "{change}");
    }

    #[test]
    fn a_modification_names_its_instance_nested_or_flat_in_the_request_or_the_answer() {
        for (request, response) in [
            (json!({"ModifyInstanceMetadataOptionsRequest": {"InstanceId": A}}), Value::Null),
            (json!({"ModifyInstanceMetadataOptionsRequest": {"instanceId": A}}), Value::Null),
            (json!({"instanceId": A}), Value::Null),
            (json!({"InstanceId": A}), Value::Null),
            (json!({"omitted": true}), json!({"ModifyInstanceMetadataOptionsResponse": {"instanceId": A}})),
            (Value::Null, json!({"instanceId": A})),
        ] {
            let targets = modify(&request, &response).unwrap();
            assert_eq!(ids(&targets), [A], "{request} {response}");
            assert!(!targets.must_exist && !targets.violators);
        }
    }

    #[test]
    fn a_modification_that_names_no_instance_is_refused() {
        let error = modify(&json!({"omitted": true}), &Value::Null).unwrap_err();
        assert!(error.to_string().contains("it names no instance"), "{error}");
    }

    #[test]
    fn a_call_that_changed_nothing_is_ignored_with_the_reason() {
        for (detail, reason) in [
            (json!({"errorCode": "Client.Unsupported"}), "failed with Client.Unsupported"),
            (json!({"errorCode": "Client.DryRunOperation"}), "dry run"),
            (json!({"requestParameters": {"dryRun": true}}), "dry run"),
            (json!({"requestParameters": {"ModifyInstanceMetadataOptionsRequest": {"DryRun": "true"}}}), "dry run"),
        ] {
            for name in ["RunInstances", "ModifyInstanceMetadataOptions"] {
                let mut detail = detail.clone();
                detail["eventName"] = name.into();
                let ignored = api_call(&detail).unwrap().targets.unwrap_err().to_string();
                assert!(ignored.contains(reason) && ignored.contains(name), "{ignored}");
            }
        }
    }

    #[test]
    fn an_error_code_that_says_nothing_is_no_error() {
        for error_code in [Value::Null, json!(""), json!({}), json!(7)] {
            let detail = json!({"eventName": "RunInstances", "errorCode": error_code});
            assert!(api_call(&detail).unwrap().targets.is_ok(), "{error_code}");
        }
    }

    #[test]
    fn a_call_of_another_service_by_the_same_name_is_ignored() {
        let detail = json!({"eventName": "RunInstances", "eventSource": "example.amazonaws.com"});
        assert!(api_call(&detail).unwrap().targets.is_err());
    }

    #[test]
    fn the_actor_is_the_arn_or_the_service() {
        for (identity, actor) in [
            (
                json!({"arn": "arn:aws:iam::111122223333:user/a", "invokedBy": "b"}),
                Some("arn:aws:iam::111122223333:user/a"),
            ),
            (
                json!({"type": "AWSService", "invokedBy": "autoscaling.amazonaws.com"}),
                Some("autoscaling.amazonaws.com"),
            ),
            (json!({"arn": 7, "principalId": "AROAEXAMPLE:s"}), Some("AROAEXAMPLE:s")),
            (json!("text"), None),
            (Value::Null, None),
        ] {
            let request = api_call(&json!({"eventName": "RunInstances", "userIdentity": identity})).unwrap();
            assert_eq!(request.event.actor.as_deref(), actor, "{identity}");
        }
    }

    fn call(name: &str, request: &Value, response: &Value) -> Call {
        let detail = json!({"eventName": name, "requestParameters": request, "responseElements": response});
        Arc::unwrap_or_clone(api_call(&detail).unwrap().origin.unwrap()).call
    }

    #[test]
    fn what_a_launch_asked_for_is_told_from_what_is_not_known() {
        let answer = json!({"instancesSet": {"items": [{"instanceId": A}]}});
        let set = json!({"items": [{"minCount": 1, "maxCount": 1}]});
        for (request, tokens, whole) in [
            (json!({"instancesSet": set}), None, true),
            (json!({"instancesSet": set, "metadataOptions": {"httpTokens": "optional"}}), Some("optional"), true),
            (json!({"instancesSet": set, "metadataOptions": {"httpPutResponseHopLimit": 2}}), None, true),
            (json!({"instancesSet": set, "metadataOptions": {"omitted": true}}), None, false),
            (json!({"instancesSet": set, "metadataOptions": "text"}), None, false),
            (json!({"instancesSet": set, "launchTemplate": "text"}), None, false),
            (json!({"instancesSet": set, "omitted": true}), None, false),
            (json!({"omitted": true}), None, false),
            (Value::Null, None, false),
        ] {
            let Call::RunInstances { http_tokens, is_whole, .. } = call("RunInstances", &request, &answer) else {
                panic!("a launch")
            };
            assert_eq!((http_tokens.as_deref(), is_whole), (tokens, whole), "{request}");
        }
    }

    #[test]
    fn a_launch_names_its_template_its_market_and_what_came_up_with_tokens_required() {
        let template = json!({"launchTemplateName": "web", "version": "$Latest"});
        let request = json!({"launchTemplate": template, "instanceMarketOptions": {"marketType": "spot"}});
        let required = json!({"instanceId": A, "metadataOptions": {"httpTokens": "required"}});
        let optional = json!({"instanceId": B, "metadataOptions": {"httpTokens": "optional"}});
        let call = call("RunInstances", &request, &json!({"instancesSet": {"items": [required, optional]}}));
        let Call::RunInstances { launch_template, spot, required_at_launch, .. } = call else { panic!("a launch") };
        let template = LaunchTemplate { id: None, name: Some("web".to_owned()), version: Some("$Latest".to_owned()) };
        assert_eq!((launch_template, spot), (Some(template), true));
        assert_eq!(required_at_launch, [A.parse().unwrap()].into());
    }

    #[test]
    fn a_modification_tells_what_it_asked_for_nested_or_flat() {
        for request in [
            json!({"ModifyInstanceMetadataOptionsRequest": {"InstanceId": A, "HttpTokens": "optional"}}),
            json!({"instanceId": A, "httpTokens": "optional"}),
        ] {
            let expected =
                Call::ModifyInstanceMetadataOptions { http_tokens: Some("optional".to_owned()), http_endpoint: None };
            assert_eq!(call("ModifyInstanceMetadataOptions", &request, &Value::Null), expected);
        }
    }

    #[test]
    fn the_caller_is_told_with_service_and_address() {
        let detail = json!({
            "eventName": "RunInstances", "sourceIPAddress": "198.51.100.7",
            "userIdentity": {"arn": "arn:aws:sts::111122223333:assumed-role/r/s", "invokedBy": "autoscaling.amazonaws.com"},
        });
        let caller = &api_call(&detail).unwrap().origin.unwrap().caller;
        assert_eq!(caller.actor.as_deref(), Some("arn:aws:sts::111122223333:assumed-role/r/s"));
        assert_eq!(caller.service.as_deref(), Some("autoscaling.amazonaws.com"));
        assert_eq!(caller.source_address.as_deref(), Some("198.51.100.7"));
    }

    #[test]
    fn a_state_change_is_looked_at_when_the_instance_comes() {
        for state in ["pending", "running"] {
            let request = read_request(&event(
                "EC2 Instance State-change Notification",
                &json!({"instance-id": A, "state": state}),
            ));
            let targets = request.unwrap().targets.unwrap();
            assert_eq!(ids(&targets), [A]);
            assert!(targets.must_exist);
        }
        for state in ["stopping", "stopped", "shutting-down", "terminated", "new"] {
            let request = read_request(&event(
                "EC2 Instance State-change Notification",
                &json!({"instance-id": A, "state": state}),
            ));
            assert!(request.unwrap().targets.unwrap_err().to_string().contains(state));
        }
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

    #[test]
    fn a_message_that_is_refused_leaves_its_neighbours_alone() {
        let good =
            event("EC2 Instance State-change Notification", &json!({"instance-id": A, "state": "running"})).to_string();
        let record = |id: &str, body: &str| json!({"eventSource": "aws:sqs", "messageId": id, "body": body});
        let batch = json!({"Records": [record("1", &good), record("2", "no"), record("3", &good)]}).to_string();
        let Invocation::Batch(messages) = read(&batch, REGION).unwrap() else { panic!("a batch") };
        assert_eq!(messages.iter().map(|it| it.request.is_ok()).collect::<Vec<_>>(), [true, false, true]);
    }

    #[test]
    fn long_texts_are_cut() {
        let long = "x".repeat(100_000);
        let request = api_call(&json!({"eventName": long, "userIdentity": {"arn": long}})).unwrap();
        assert_eq!(request.event.name.len(), TEXT_CHARS);
        assert_eq!(request.event.actor.unwrap().len(), TEXT_CHARS);
        assert!(request.targets.unwrap_err().to_string().len() < 2 * TEXT_CHARS);
    }
}
