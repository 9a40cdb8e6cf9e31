//! What an invocation's JSON asks for.
//!
//! Reads one EventBridge event, bare, or several inside an SQS event, and answers which instances
//! to look at. An event is never believed about an instance's options: those are described later.
//!
//! CloudTrail's JSON is not typed: a single item stands where a list is usual, fields are null,
//! missing, replaced by `omitted`, or of another shape. So the envelope is read strictly, and of
//! `detail` every level by itself: what has another shape than expected reads as absent, and what
//! is absent makes the function look at more instances, or refuse the event, never at fewer.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use aws_lambda_events::event::eventbridge::EventBridgeEvent;
use aws_lambda_events::event::sqs::{SqsEvent, SqsMessage};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::instance::{InstanceId, MalformedInstanceId};

/// Longest text that is taken over from an event: an ARN has at most 2,048 characters.
const TEXT_CHARS: usize = 2048;

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

/// A call that may have left tokens not required, and who made it. For the report alone: no
/// decision depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Who made the call.
    pub caller: Caller,
    /// What was asked for.
    pub call: Call,
}

/// Who made a call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// The ARN of `userIdentity`, or the service that was it.
    pub actor: Option<String>,
    /// `userIdentity.invokedBy`: the service that made the call for the actor, or as it.
    pub service: Option<String>,
    /// `sourceIPAddress`: an address, or a service's name.
    pub source_address: Option<String>,
}

/// What a call asked for, as far as it tells why tokens are not required.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// `RunInstances`.
    RunInstances {
        /// `metadataOptions.httpTokens` of the request.
        http_tokens: Option<String>,
        /// `launchTemplate` of the request.
        launch_template: Option<LaunchTemplate>,
        /// Whether the request asked for Spot Instances.
        spot: bool,
        /// Whether the request is there as it was made: what it does not say, it did not ask for.
        is_whole: bool,
        /// Those that came up with tokens required: what they have now came later.
        required_at_launch: BTreeSet<InstanceId>,
    },
    /// `ModifyInstanceMetadataOptions`.
    ModifyInstanceMetadataOptions {
        /// `HttpTokens` of the request.
        http_tokens: Option<String>,
        /// `HttpEndpoint` of the request.
        http_endpoint: Option<String>,
    },
}

impl Call {
    /// Whether it is a change that may leave tokens not required.
    #[must_use]
    pub fn loosens(&self) -> bool {
        match self {
            Self::RunInstances { .. } => false,
            Self::ModifyInstanceMetadataOptions { http_tokens: Some(tokens), .. } => tokens != "required",
            Self::ModifyInstanceMetadataOptions { http_tokens: None, http_endpoint } => {
                http_endpoint.as_deref() == Some("enabled")
            }
        }
    }
}

/// A launch template, as a call or a tag names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LaunchTemplate {
    /// Its id; a call may name it otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its name, where the call names it so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The version; a call may say `$Latest` or `$Default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

impl fmt::Display for LaunchTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.id.as_deref().or(self.name.as_deref()).unwrap_or("unknown");
        write!(f, "{name} version {}", self.version.as_deref().unwrap_or("unknown"))
    }
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
    #[derive(Deserialize)]
    struct Probe {
        #[serde(rename = "Records")]
        records: Option<serde::de::IgnoredAny>,
    }
    // An event of EventBridge mostly lacks the word, which is found faster than the event is read.
    let is_batch = json.contains("\"Records\"") && strict::<Probe>(json, "")?.records.is_some();
    if !is_batch {
        return read_event(json, region).map(Invocation::Event);
    }
    let batch: SqsEvent = strict(json, "")?;
    let messages = batch.records.into_iter().enumerate().map(|(index, record)| read_record(index, record, region));
    messages.collect::<Result<_, _>>().map(Invocation::Batch)
}

/// One record of an SQS event. Only a record that could not be named in `batchItemFailures`
/// refuses the whole.
fn read_record(index: usize, record: SqsMessage, region: &str) -> Result<Message, EventError> {
    if record.event_source.as_deref() != Some("aws:sqs") {
        let found = record.event_source.as_deref().map_or("missing".to_owned(), |it| format!("{:?}", clip(it)));
        return Err(EventError::unreadable(
            format!("Records[{index}].eventSource"),
            format!("is {found}, not \"aws:sqs\""),
        ));
    }
    let message_id = record.message_id.filter(|id| !id.is_empty()).ok_or_else(|| {
        EventError::unreadable(
            format!("Records[{index}].messageId"),
            "is missing: the message could not be reported as failed",
        )
    })?;
    let body = record.body.unwrap_or_default();
    Ok(Message { message_id, request: read_event(&body, region) })
}

/// One EventBridge event.
fn read_event(json: &str, region: &str) -> Result<Request, EventError> {
    let envelope: EventBridgeEvent<Box<RawValue>> = strict(json, "")?;
    match envelope.region.as_deref() {
        None | Some("") => {
            return Err(EventError::unreadable("region", "is missing: an EventBridge event names its Region"));
        }
        Some(it) if it != region => {
            return Err(EventError::WrongRegion { event_region: clip(it), region: region.to_owned() });
        }
        Some(_) => {}
    }
    let summary = EventSummary {
        id: envelope.id.as_deref().map(clip),
        name: clip(&envelope.detail_type),
        time: envelope.time,
        actor: None,
        source: clip(&envelope.source),
    };
    match envelope.detail_type.as_str() {
        "AWS API Call via CloudTrail" => read_api_call(&envelope.detail, summary),
        "EC2 Instance State-change Notification" => read_state_change(&envelope.detail, summary),
        "Scheduled Event" => {
            let targets = Targets { violators: true, ..Targets::default() };
            Ok(Request { event: summary, targets: Ok(targets), origin: None })
        }
        _ => {
            let ignored =
                Ignored::OtherEvent { detail_type: summary.name.clone(), name: format!("of {}", summary.source) };
            Ok(Request { event: summary, targets: Err(ignored), origin: None })
        }
    }
}

/// A part of CloudTrail's JSON that is read by itself, later.
type Raw<'a> = Option<&'a RawValue>;

/// What of a CloudTrail record is read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Detail<'a> {
    #[serde(borrow)]
    event_source: Raw<'a>,
    #[serde(borrow)]
    event_name: Raw<'a>,
    #[serde(borrow)]
    error_code: Raw<'a>,
    #[serde(borrow)]
    user_identity: Raw<'a>,
    #[serde(borrow, rename = "sourceIPAddress")]
    source_ip_address: Raw<'a>,
    #[serde(borrow)]
    request_parameters: Raw<'a>,
    #[serde(borrow)]
    response_elements: Raw<'a>,
}

fn read_api_call(detail: &RawValue, mut summary: EventSummary) -> Result<Request, EventError> {
    let detail: Detail = strict(detail.get(), "detail")?;
    let event_name = detail.event_name.and_then(text).ok_or_else(|| {
        EventError::unreadable("detail.eventName", "is missing or no text: CloudTrail names the action here")
    })?;
    let identity = detail.user_identity.and_then(loose::<UserIdentity>);
    summary.actor = identity.as_ref().and_then(UserIdentity::actor);
    summary.name.clone_from(&event_name);

    let is_ec2 = detail.event_source.and_then(text).is_none_or(|source| source == "ec2.amazonaws.com");
    let mut origin = None;
    let mut made = |call| {
        let service = identity.as_ref().and_then(|identity| identity.invoked_by.and_then(text));
        let source_address = detail.source_ip_address.and_then(text);
        let caller = Caller { actor: summary.actor.clone(), service, source_address };
        origin = Some(Arc::new(Origin { caller, call }));
    };
    let targets = match event_name.as_str() {
        "RunInstances" | "ModifyInstanceMetadataOptions" if detail.changed_nothing() => {
            Err(detail.why_nothing(event_name))
        }
        "RunInstances" if is_ec2 => {
            let (targets, required_at_launch) = launched(detail.response_elements);
            made(launch(detail.request_parameters, required_at_launch));
            Ok(targets.or_refuse("detail.responseElements.instancesSet.items")?)
        }
        "ModifyInstanceMetadataOptions" if is_ec2 => {
            made(modification(detail.request_parameters));
            Ok(modified(detail.request_parameters, detail.response_elements).or_refuse("detail.requestParameters")?)
        }
        _ => Err(Ignored::OtherEvent { detail_type: "AWS API Call via CloudTrail".to_owned(), name: event_name }),
    };
    Ok(Request { event: summary, targets, origin })
}

impl Detail<'_> {
    /// `errorCode`, if it says anything at all.
    fn error_code(&self) -> Option<String> {
        self.error_code.and_then(text).filter(|code| !code.is_empty())
    }

    fn is_dry_run(&self) -> bool {
        let requested = [self.request_parameters, nested_request(self.request_parameters)];
        let requested = requested.into_iter().flatten().filter_map(loose::<CallParameters>);
        requested.filter_map(|it| it.dry_run).any(is_true)
            || self.error_code().is_some_and(|code| code.ends_with("DryRunOperation"))
    }

    fn changed_nothing(&self) -> bool {
        self.error_code().is_some() || self.is_dry_run()
    }

    fn why_nothing(&self, event_name: String) -> Ignored {
        match self.error_code() {
            Some(error_code) if !self.is_dry_run() => Ignored::CallFailed { event_name, error_code },
            Some(_) | None => Ignored::DryRun { event_name },
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UserIdentity<'a> {
    #[serde(borrow)]
    arn: Raw<'a>,
    #[serde(borrow)]
    invoked_by: Raw<'a>,
    #[serde(borrow)]
    principal_id: Raw<'a>,
}

impl UserIdentity<'_> {
    fn actor(&self) -> Option<String> {
        [self.arn, self.invoked_by, self.principal_id].into_iter().flatten().find_map(text)
    }
}

/// The fields of a call's request or answer that matter, whichever case they are spelled in.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CallParameters<'a> {
    #[serde(borrow, alias = "InstanceId")]
    instance_id: Raw<'a>,
    #[serde(borrow, alias = "DryRun")]
    dry_run: Raw<'a>,
    #[serde(borrow, alias = "HttpTokens")]
    http_tokens: Raw<'a>,
    #[serde(borrow, alias = "HttpEndpoint")]
    http_endpoint: Raw<'a>,
    #[serde(borrow)]
    metadata_options: Raw<'a>,
}

impl CallParameters<'_> {
    /// `metadataOptions.httpTokens`.
    fn tokens_of_options(&self) -> Option<String> {
        self.metadata_options.and_then(loose::<CallParameters>)?.http_tokens.and_then(text)
    }
}

/// What a `RunInstances` call asked for.
fn launch(request: Raw, required_at_launch: BTreeSet<InstanceId>) -> Call {
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase")]
    struct Parameters<'a> {
        #[serde(borrow)]
        metadata_options: Raw<'a>,
        #[serde(borrow)]
        launch_template: Raw<'a>,
        #[serde(borrow)]
        instance_market_options: Raw<'a>,
        #[serde(borrow)]
        instances_set: Raw<'a>,
        #[serde(borrow)]
        omitted: Raw<'a>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Specification<'a> {
        #[serde(borrow)]
        launch_template_id: Raw<'a>,
        #[serde(borrow)]
        launch_template_name: Raw<'a>,
        #[serde(borrow)]
        version: Raw<'a>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct MarketOptions<'a> {
        #[serde(borrow)]
        market_type: Raw<'a>,
    }
    let request: Parameters = request.and_then(loose).unwrap_or_default();
    let options = request.metadata_options.map(loose::<CallParameters>);
    let is_cut = |raw: Raw| raw.is_some_and(|raw| raw.get().contains("\"omitted\""));
    let launch_template = request.launch_template.and_then(loose::<Specification>).map(|it| LaunchTemplate {
        id: it.launch_template_id.and_then(text),
        name: it.launch_template_name.and_then(text),
        version: it.version.and_then(text),
    });
    let market = request.instance_market_options.and_then(loose::<MarketOptions>).and_then(|it| it.market_type);
    Call::RunInstances {
        is_whole: request.instances_set.is_some()
            && request.omitted.is_none()
            && request.launch_template.is_none() == launch_template.is_none()
            && !matches!(options, Some(None))
            && !is_cut(request.metadata_options)
            && !is_cut(request.launch_template),
        http_tokens: options.flatten().and_then(|it| it.http_tokens).and_then(text),
        launch_template,
        spot: market.and_then(text).is_some_and(|market| market == "spot"),
        required_at_launch,
    }
}

/// What a `ModifyInstanceMetadataOptions` call asked for.
fn modification(request: Raw) -> Call {
    let places = [nested_request(request), request].map(|place| place.and_then(loose::<CallParameters>));
    let find = |field: fn(&CallParameters) -> Option<String>| places.iter().flatten().find_map(field);
    Call::ModifyInstanceMetadataOptions {
        http_tokens: find(|it| it.http_tokens.and_then(text)),
        http_endpoint: find(|it| it.http_endpoint.and_then(text)),
    }
}

/// The instances that a `RunInstances` call answered with, and where it can't be sure that those
/// are all, every violator of the Region as well; and which of them came up with tokens required.
fn launched(response: Raw) -> (Targets, BTreeSet<InstanceId>) {
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase")]
    struct Response<'a> {
        #[serde(borrow)]
        instances_set: Raw<'a>,
        #[serde(borrow)]
        omitted: Raw<'a>,
    }
    #[derive(Deserialize, Default)]
    struct InstancesSet<'a> {
        #[serde(borrow)]
        items: Raw<'a>,
        #[serde(borrow)]
        omitted: Raw<'a>,
    }
    let response: Response = response.and_then(loose).unwrap_or_default();
    let set: InstancesSet = response.instances_set.and_then(loose).unwrap_or_default();
    let items = set.items.map(one_or_many).unwrap_or_default();

    let mut targets = Targets { must_exist: true, ..Targets::default() };
    let mut required = BTreeSet::new();
    targets.violators = items.is_empty() || [response.omitted, set.omitted].into_iter().flatten().any(is_true);
    for item in items.into_iter().map(loose::<CallParameters>) {
        let Some((id, item)) = item.and_then(|item| Some((item.instance_id?, item))) else {
            targets.violators = true;
            continue;
        };
        targets.name(id);
        if item.tokens_of_options().is_some_and(|tokens| tokens == "required") {
            required.extend(text(id).and_then(|id| id.parse().ok()));
        }
    }
    (targets, required)
}

/// The instance that a `ModifyInstanceMetadataOptions` call changed: nested and in `PascalCase`,
/// as CloudTrail records it, or flat; in the request, or where that was omitted in the answer.
fn modified(request: Raw, response: Raw) -> Targets {
    let places = [nested_request(request), request, nested_response(response), response];
    let places = places.into_iter().flatten();
    let mut targets = Targets::default();
    if let Some(id) = places.filter_map(loose::<CallParameters>).find_map(|it| it.instance_id) {
        targets.name(id);
    }
    targets
}

fn nested_request(request: Raw) -> Raw {
    #[derive(Deserialize)]
    struct Request<'a> {
        #[serde(borrow, rename = "ModifyInstanceMetadataOptionsRequest")]
        nested: Raw<'a>,
    }
    request.and_then(loose::<Request>).and_then(|it| it.nested)
}

fn nested_response(response: Raw) -> Raw {
    #[derive(Deserialize)]
    struct Response<'a> {
        #[serde(borrow, rename = "ModifyInstanceMetadataOptionsResponse")]
        nested: Raw<'a>,
    }
    response.and_then(loose::<Response>).and_then(|it| it.nested)
}

fn read_state_change(detail: &RawValue, summary: EventSummary) -> Result<Request, EventError> {
    #[derive(Deserialize)]
    struct StateChange<'a> {
        #[serde(rename = "instance-id", borrow)]
        instance_id: Raw<'a>,
        #[serde(borrow)]
        state: Raw<'a>,
    }
    let detail: StateChange = strict(detail.get(), "detail")?;
    let state = detail.state.and_then(text).ok_or_else(|| {
        EventError::unreadable("detail.state", "is missing or no text: the instance's new state stands here")
    })?;
    if !matches!(state.as_str(), "pending" | "running") {
        return Ok(Request { event: summary, targets: Err(Ignored::State { state }), origin: None });
    }
    let mut targets = Targets { must_exist: true, ..Targets::default() };
    if let Some(id) = detail.instance_id {
        targets.name(id);
    }
    Ok(Request { event: summary, targets: Ok(targets.or_refuse("detail.instance-id")?), origin: None })
}

impl Targets {
    fn name(&mut self, id: &RawValue) {
        let id = text(id).unwrap_or_else(|| clip(id.get()));
        match id.parse() {
            Ok(id) => drop(self.named.insert(id)),
            Err(malformed) => drop(self.malformed.insert(malformed)),
        }
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

/// Reads JSON that must have the shape of `T`, and says where it has not.
fn strict<'a, T: Deserialize<'a>>(json: &'a str, prefix: &str) -> Result<T, EventError> {
    if !json.trim_start().starts_with('{') {
        return Err(EventError::unreadable(if prefix.is_empty() { "." } else { prefix }, "a JSON object belongs here"));
    }
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let unreadable = |path: &str, error: &serde_json::Error| {
        // serde_path_to_error ends a path that it can't follow further with a question mark.
        let parts = [prefix, path.trim_end_matches('?').trim_matches('.')];
        let path = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(".");
        EventError::unreadable(if path.is_empty() { ".".to_owned() } else { clip(&path) }, clip(&error.to_string()))
    };
    let value = serde_path_to_error::deserialize(&mut deserializer)
        .map_err(|error| unreadable(&error.path().to_string(), error.inner()))?;
    deserializer.end().map_err(|error| unreadable(".", &error))?;
    Ok(value)
}

/// Reads JSON that may have any shape: another than `T`'s is as good as absent.
fn loose<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

fn text(raw: &RawValue) -> Option<String> {
    loose::<String>(raw).map(|text| clip(&text))
}

/// `true`, however it is spelled: CloudTrail also writes it as text.
fn is_true(raw: &RawValue) -> bool {
    raw.get().trim_matches('"').eq_ignore_ascii_case("true")
}

/// The items of a list, or the single one that stands in its place.
fn one_or_many(raw: &RawValue) -> Vec<&RawValue> {
    loose(raw).unwrap_or_else(|| vec![raw])
}

fn clip(text: &str) -> String {
    text.chars().take(TEXT_CHARS).collect()
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
