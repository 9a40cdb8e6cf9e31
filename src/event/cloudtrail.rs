//! API calls that CloudTrail recorded: which instances they name, what they asked for, and who called.
//!
//! CloudTrail's JSON is not typed: a single item stands where a list is usual, fields are null,
//! missing, replaced by `omitted`, or of another shape. So every level is read tolerantly: what has
//! another shape than expected reads as absent, and what is absent makes the function look at more
//! instances, or refuse the event, never at fewer. Only a launch that names neither all its instances
//! nor a readable time leaves nothing to look for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::json::{Collect, Cuttable, Level, OneOrMany, Raw, object};
use super::tags::{self, TagSet, TagSpecificationSet};
use super::{EventError, EventSummary, Ignored, Request, Targets, Violators, instance_id};
use crate::instance::InstanceId;

/// EventBridge's `detail-type` of a record.
pub(super) const DETAIL_TYPE: &str = "AWS API Call via CloudTrail";

/// What is read of a record: the `detail` of an event.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Record<'a> {
    #[serde(borrow)]
    event_source: Raw<'a>,
    event_name: Raw<'a>,
    error_code: Raw<'a>,
    user_identity: Level<UserIdentity<'a>>,
    #[serde(rename = "sourceIPAddress")]
    source_ip_address: Raw<'a>,
    user_agent: Raw<'a>,
    request_parameters: Level<RequestParameters<'a>>,
    response_elements: Level<ResponseElements<'a>>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct UserIdentity<'a> {
    #[serde(borrow)]
    arn: Raw<'a>,
    invoked_by: Raw<'a>,
    principal_id: Raw<'a>,
}

/// The request of either call.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RequestParameters<'a> {
    #[serde(borrow)]
    instances_set: Raw<'a>,
    metadata_options: Cuttable<MetadataOptions<'a>>,
    launch_template: Cuttable<LaunchTemplateSpecification<'a>>,
    instance_market_options: Level<MarketOptions<'a>>,
    tag_specification_set: Level<TagSpecificationSet>,
    omitted: Raw<'a>,
    #[serde(rename = "ModifyInstanceMetadataOptionsRequest")]
    nested: Level<Modification<'a>>,
    // The request of a modification that is not nested.
    #[serde(alias = "InstanceId")]
    instance_id: Raw<'a>,
    #[serde(alias = "DryRun")]
    dry_run: Raw<'a>,
    #[serde(alias = "HttpTokens")]
    http_tokens: Raw<'a>,
    #[serde(alias = "HttpEndpoint")]
    http_endpoint: Raw<'a>,
    #[serde(alias = "HttpPutResponseHopLimit")]
    http_put_response_hop_limit: Raw<'a>,
    #[serde(alias = "HttpProtocolIpv6")]
    http_protocol_ipv6: Raw<'a>,
    #[serde(alias = "InstanceMetadataTags")]
    instance_metadata_tags: Raw<'a>,
}

/// The request of a modification, in camelCase or in `PascalCase`.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Modification<'a> {
    #[serde(borrow, alias = "InstanceId")]
    instance_id: Raw<'a>,
    #[serde(alias = "DryRun")]
    dry_run: Raw<'a>,
    #[serde(alias = "HttpTokens")]
    http_tokens: Raw<'a>,
    #[serde(alias = "HttpEndpoint")]
    http_endpoint: Raw<'a>,
    #[serde(alias = "HttpPutResponseHopLimit")]
    http_put_response_hop_limit: Raw<'a>,
    #[serde(alias = "HttpProtocolIpv6")]
    http_protocol_ipv6: Raw<'a>,
    #[serde(alias = "InstanceMetadataTags")]
    instance_metadata_tags: Raw<'a>,
}

impl Modification<'_> {
    /// Whether it names an option beside tokens and endpoint.
    fn names_another(&self) -> bool {
        [self.http_put_response_hop_limit, self.http_protocol_ipv6, self.instance_metadata_tags]
            .into_iter()
            .any(Raw::is_some)
    }
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct MetadataOptions<'a> {
    #[serde(borrow, alias = "HttpTokens")]
    http_tokens: Raw<'a>,
    #[serde(alias = "HttpEndpoint")]
    http_endpoint: Raw<'a>,
}

impl MetadataOptions<'_> {
    /// Whether requests without a token are answered under these options, if they say.
    fn are_open(&self) -> Option<bool> {
        let tokens = self.http_tokens.str()?;
        Some(tokens != "required" && !self.http_endpoint.is("disabled"))
    }
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct LaunchTemplateSpecification<'a> {
    #[serde(borrow)]
    launch_template_id: Raw<'a>,
    launch_template_name: Raw<'a>,
    version: Raw<'a>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct MarketOptions<'a> {
    #[serde(borrow)]
    market_type: Raw<'a>,
}

/// The answer to either call.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ResponseElements<'a> {
    #[serde(borrow)]
    instances_set: Level<InstancesSet<'a>>,
    omitted: Raw<'a>,
    #[serde(rename = "ModifyInstanceMetadataOptionsResponse")]
    nested: Level<Modified<'a>>,
    // The answer to a modification that is not nested.
    #[serde(alias = "InstanceId")]
    instance_id: Raw<'a>,
    #[serde(alias = "InstanceMetadataOptions")]
    instance_metadata_options: Level<MetadataOptions<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct InstancesSet<'a> {
    items: OneOrMany<Launched>,
    #[serde(borrow)]
    omitted: Raw<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct LaunchedInstance<'a> {
    #[serde(borrow, alias = "InstanceId")]
    instance_id: Raw<'a>,
    metadata_options: Level<MetadataOptions<'a>>,
    tag_set: Level<TagSet>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Modified<'a> {
    #[serde(borrow, alias = "InstanceId")]
    instance_id: Raw<'a>,
    #[serde(alias = "InstanceMetadataOptions")]
    instance_metadata_options: Level<MetadataOptions<'a>>,
}

/// What `userIdentity.invokedBy` is for people in the console, by real records, where the caller has an
/// ARN that is not a service-linked role's.
const INVOKED_BY_PEOPLE: [&str; 2] = ["signin.amazonaws.com", "AWS Internal"];

/// How much earlier than the event's time an instance of a launch may have been created.
const BEFORE_EVENT: TimeDelta = TimeDelta::minutes(5);

/// The instances that a launch answered with, and how they came up.
#[derive(Default)]
struct Launched {
    targets: Targets,
    /// Whether an item names no instance.
    is_cut: bool,
    at_launch: AtLaunch,
}

/// A call that may have left tokens not required, and its caller. It is for the report: no decision
/// depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Who called.
    pub caller: Caller,
    /// What was asked for.
    pub call: Call,
}

/// Who called.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// The ARN of `userIdentity`, or the service in its place.
    pub actor: Option<String>,
    /// `userIdentity.invokedBy`: the service that called for the actor, or as it; none for people in
    /// the console.
    pub service: Option<String>,
    /// `sourceIPAddress`: an address, or a service's name.
    pub source_address: Option<String>,
    /// `userAgent`: the program that called, as it names itself, or a service's name.
    pub user_agent: Option<String>,
}

/// What a call asked for, as far as it explains why tokens are not required.
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
        /// Whether the request is recorded as it was sent: what it does not say, it did not ask for.
        is_whole: bool,
        /// How its instances came up.
        at_launch: AtLaunch,
    },
    /// `ModifyInstanceMetadataOptions`.
    ModifyInstanceMetadataOptions {
        /// `HttpTokens` of the request.
        http_tokens: Option<String>,
        /// `HttpEndpoint` of the request.
        http_endpoint: Option<String>,
        /// Whether the answer shows that requests without a token are answered now, if it says.
        left_open: Option<bool>,
        /// Whether the request names an option beside tokens and endpoint, as the hop limit: EC2 wants
        /// the endpoint named with it, so that naming it shows nothing.
        names_another: bool,
    },
}

/// How the instances of a launch came up, as its request and its answer say. Those of which the answer
/// does not say are in neither set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AtLaunch {
    /// Those whose tokens were required: what they have now, they got later.
    pub required: BTreeSet<InstanceId>,
    /// Those whose tokens were not required, and whose endpoint was not disabled.
    pub open: BTreeSet<InstanceId>,
    /// The tags that name an owner ([`super::OWNER_TAGS`]) and that the request asked for all of them.
    pub requested_tags: BTreeMap<String, String>,
    /// Such tags as the answer has them, by instance.
    pub answered_tags: BTreeMap<InstanceId, BTreeMap<String, String>>,
}

impl Origin {
    /// Whether the record itself shows that the call left this instance open to requests without a
    /// token. A change of the hop limit must name the endpoint too, so that naming it shows nothing.
    #[must_use]
    pub fn left_open(&self, id: &InstanceId) -> bool {
        match &self.call {
            Call::RunInstances { at_launch, .. } => at_launch.open.contains(id),
            Call::ModifyInstanceMetadataOptions { left_open: Some(left_open), .. } => *left_open,
            Call::ModifyInstanceMetadataOptions { http_tokens, http_endpoint, left_open: None, .. } => {
                http_tokens.as_ref().is_some_and(|tokens| tokens != "required")
                    && http_endpoint.as_deref() != Some("disabled")
            }
        }
    }
}

impl Call {
    /// Whether it is a change that may leave tokens not required.
    #[must_use]
    pub fn loosens(&self) -> bool {
        match self {
            Self::RunInstances { .. } => false,
            Self::ModifyInstanceMetadataOptions { http_tokens: Some(tokens), .. } => tokens != "required",
            Self::ModifyInstanceMetadataOptions { http_tokens: None, http_endpoint, .. } => {
                http_endpoint.as_deref() == Some("enabled")
            }
        }
    }
}

impl Call {
    /// Whether it is a change that itself left tokens not required, as far as the request shows.
    #[must_use]
    pub fn is_blamed(&self) -> bool {
        match self {
            Self::RunInstances { .. } => false,
            Self::ModifyInstanceMetadataOptions { http_tokens, names_another, .. } => {
                self.loosens() && (http_tokens.is_some() || !names_another)
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

/// Reads a record.
pub(super) fn read(detail: &RawValue, event: EventSummary) -> Result<Request, EventError> {
    let record: Record = object(detail.get(), "detail")?;
    let name = record.event_name.text().ok_or_else(|| {
        EventError::unreadable("detail.eventName", "is missing or no text: CloudTrail names the action here")
    })?;
    let caller = record.caller();
    let event = EventSummary { name: name.clone(), actor: caller.actor.clone(), ..event };
    let (targets, origin) = match record.change(name, event.time)? {
        Ok((targets, call)) => (Ok(targets), Some(Arc::new(Origin { caller, call }))),
        Err(ignored) => (Err(ignored), None),
    };
    Ok(Request { event, targets, origin })
}

impl Record<'_> {
    fn caller(&self) -> Caller {
        let identity = self.user_identity.0.unwrap_or_default();
        let invoked_by = identity.invoked_by.text();
        let actor = identity.arn.text().or_else(|| invoked_by.clone()).or_else(|| identity.principal_id.text());
        let has_own_arn = identity.arn.str().is_some_and(|arn| !arn.contains(":assumed-role/AWSServiceRoleFor"));
        let service = invoked_by.filter(|it| !(has_own_arn && INVOKED_BY_PEOPLE.contains(&it.as_str())));
        let [source_address, user_agent] = [self.source_ip_address, self.user_agent].map(Raw::text);
        Caller { actor, service, source_address, user_agent }
    }

    /// The instances that the call changed, and what it asked for; or why there is nothing to do.
    fn change(
        self,
        event_name: String,
        time: Option<DateTime<Utc>>,
    ) -> Result<Result<(Targets, Call), Ignored>, EventError> {
        let is_launch = match event_name.as_str() {
            "RunInstances" => true,
            "ModifyInstanceMetadataOptions" => false,
            _ => return Ok(Err(other_event(event_name))),
        };
        let mut request = self.request_parameters.0.unwrap_or_default();
        match self.error_code.text().filter(|code| !code.is_empty()) {
            Some(code) if code.ends_with("DryRunOperation") => Ok(Err(Ignored::DryRun { event_name })),
            Some(_) | None if request.is_dry_run() => Ok(Err(Ignored::DryRun { event_name })),
            Some(error_code) => Ok(Err(Ignored::CallFailed { event_name, error_code })),
            None if is_of_another_service(self.event_source) => Ok(Err(other_event(event_name))),
            None if is_launch => launch(&mut request, self.response_elements.0.unwrap_or_default(), time),
            None => modification(&request, self.response_elements.0.unwrap_or_default()).map(Ok),
        }
    }
}

fn first_text(values: [Raw; 2]) -> Option<String> {
    values.into_iter().find_map(Raw::text)
}

fn is_of_another_service(event_source: Raw) -> bool {
    event_source.str().is_some_and(|source| source != "ec2.amazonaws.com")
}

fn other_event(name: String) -> Ignored {
    Ignored::OtherEvent { detail_type: DETAIL_TYPE.to_owned(), name }
}

/// A `RunInstances` call, recorded at `time`.
fn launch(
    request: &mut RequestParameters,
    response: ResponseElements,
    time: Option<DateTime<Utc>>,
) -> Result<Result<(Targets, Call), Ignored>, EventError> {
    let (targets, mut at_launch) = response.launched(time);
    if targets.is_empty() && targets.violators.is_none() {
        return Ok(Err(Ignored::NoInstances { event_name: "RunInstances".to_owned() }));
    }
    let targets = targets.or_refuse("detail.responseElements.instancesSet.items")?;
    at_launch.requested_tags = tags::of_request(request.tag_specification_set.0.take());
    let call = Call::RunInstances {
        http_tokens: request.metadata_options.object.as_ref().and_then(|it| it.http_tokens.text()),
        launch_template: request.launch_template.object.as_ref().map(LaunchTemplateSpecification::launch_template),
        spot: request.instance_market_options.0.is_some_and(|it| it.market_type.is("spot")),
        is_whole: request.is_whole(),
        at_launch,
    };
    Ok(Ok((targets, call)))
}

/// A `ModifyInstanceMetadataOptions` call.
fn modification(request: &RequestParameters, response: ResponseElements) -> Result<(Targets, Call), EventError> {
    let [nested, flat] = request.modifications();
    let left_open = response.options().and_then(|options| options.are_open());
    let targets = Targets::one(nested.instance_id.or(flat.instance_id).or(response.modified()));
    let call = Call::ModifyInstanceMetadataOptions {
        http_tokens: first_text([nested.http_tokens, flat.http_tokens]),
        http_endpoint: first_text([nested.http_endpoint, flat.http_endpoint]),
        left_open,
        names_another: nested.names_another() || flat.names_another(),
    };
    Ok((targets.or_refuse("detail.requestParameters")?, call))
}

impl<'a> RequestParameters<'a> {
    /// Whether this is the request as it was sent.
    fn is_whole(&self) -> bool {
        self.instances_set.is_some()
            && !self.omitted.is_some()
            && self.metadata_options.is_whole
            && self.launch_template.is_whole
    }

    /// What a modification asked for: nested and in `PascalCase`, as CloudTrail records it, or flat.
    fn modifications(&self) -> [Modification<'a>; 2] {
        let flat = Modification {
            instance_id: self.instance_id,
            dry_run: self.dry_run,
            http_tokens: self.http_tokens,
            http_endpoint: self.http_endpoint,
            http_put_response_hop_limit: self.http_put_response_hop_limit,
            http_protocol_ipv6: self.http_protocol_ipv6,
            instance_metadata_tags: self.instance_metadata_tags,
        };
        [self.nested.0.unwrap_or_default(), flat]
    }

    fn is_dry_run(&self) -> bool {
        self.modifications().into_iter().any(|it| it.dry_run.is_true())
    }
}

impl LaunchTemplateSpecification<'_> {
    fn launch_template(&self) -> LaunchTemplate {
        LaunchTemplate {
            id: self.launch_template_id.text(),
            name: self.launch_template_name.text(),
            version: self.version.text(),
        }
    }
}

impl<'a> ResponseElements<'a> {
    /// The instances of a launch and, where it can't be sure that those are all, the violators that
    /// were created since as well; and how they came up.
    fn launched(self, time: Option<DateTime<Utc>>) -> (Targets, AtLaunch) {
        let InstancesSet { items: OneOrMany(launched), omitted } = self.instances_set.0.unwrap_or_default();
        let Launched { mut targets, is_cut, at_launch } = launched;
        targets.must_exist = true;
        if is_cut || targets.is_empty() || self.omitted.is_true() || omitted.is_true() {
            targets.violators =
                time.and_then(|time| time.checked_sub_signed(BEFORE_EVENT)).map(Violators::CreatedSince);
        }
        (targets, at_launch)
    }

    /// The options after a modification, nested or flat.
    fn options(&self) -> Option<MetadataOptions<'a>> {
        let nested = self.nested.0.as_ref().and_then(|it| it.instance_metadata_options.0);
        nested.or(self.instance_metadata_options.0)
    }

    /// The instance of a modification, nested or flat.
    fn modified(self) -> Raw<'a> {
        self.nested.0.unwrap_or_default().instance_id.or(self.instance_id)
    }
}

impl AtLaunch {
    fn add(&mut self, id: &InstanceId, options: Option<&MetadataOptions>, tags: BTreeMap<String, String>) {
        if !tags.is_empty() {
            self.answered_tags.insert(id.clone(), tags);
        }
        let Some(options) = options else { return };
        if options.http_tokens.is("required") {
            self.required.insert(id.clone());
        } else if options.are_open() == Some(true) {
            self.open.insert(id.clone());
        }
    }
}

impl Collect for Launched {
    type Item<'a> = LaunchedInstance<'a>;

    fn add(&mut self, item: Option<LaunchedInstance>) {
        let item = item.unwrap_or_default();
        let Some(id) = instance_id(item.instance_id) else {
            self.is_cut = true;
            return;
        };
        if let Ok(id) = &id {
            self.at_launch.add(id, item.metadata_options.0.as_ref(), tags::of_answer(item.tag_set.0));
        }
        self.targets.add(id);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::event::json::TEXT_CHARS;
    use crate::event::tests::{A, B, REGION, event, ids, read_request};

    fn api_call(detail: &Value) -> Result<Request, EventError> {
        read_request(&event(DETAIL_TYPE, detail))
    }

    fn run_instances(response: &Value) -> Result<Targets, EventError> {
        api_call(&json!({"eventName": "RunInstances", "responseElements": response}))
            .map(|request| request.targets.unwrap())
    }

    fn modify(request: &Value, response: &Value) -> Result<Targets, EventError> {
        let detail = json!({"eventName": "ModifyInstanceMetadataOptions", "requestParameters": request, "responseElements": response});
        api_call(&detail).map(|request| request.targets.unwrap())
    }

    fn call(name: &str, request: &Value, response: &Value) -> Call {
        let detail = json!({"eventName": name, "requestParameters": request, "responseElements": response});
        Arc::unwrap_or_clone(api_call(&detail).unwrap().origin.unwrap()).call
    }

    fn since(time: &str) -> Violators {
        Violators::CreatedSince(time.parse().unwrap())
    }

    #[test]
    fn without_a_time_a_launch_looks_at_what_it_names_and_at_nothing_else() {
        let launch = |response: Value, time: Value| {
            let mut event = event(DETAIL_TYPE, &json!({"eventName": "RunInstances", "responseElements": response}));
            event["time"] = time;
            read_request(&event).unwrap()
        };
        for time in [Value::Null, json!("yesterday"), json!("2026-11-02 9:14"), json!(7), json!({})] {
            let named = json!({"instancesSet": {"items": [{"instanceId": A}]}, "omitted": true});
            let request = launch(named, time.clone());
            let targets = request.targets.unwrap();
            assert_eq!((ids(&targets), targets.violators, request.event.time), (vec![A], None, None), "{time}");
            let ignored = launch(json!({"omitted": true}), time).targets.unwrap_err().to_string();
            assert!(ignored.contains("names no instance and has no readable time"), "{ignored}");
        }
    }

    #[test]
    fn what_a_call_left_open_is_what_its_answer_shows() {
        let options = |tokens: &str, endpoint: &str| json!({"httpTokens": tokens, "httpEndpoint": endpoint});
        let left_open = |name: &str, request: &Value, response: &Value| {
            let detail = json!({"eventName": name, "requestParameters": request, "responseElements": response});
            api_call(&detail).unwrap().origin.unwrap().left_open(&A.parse().unwrap())
        };
        let hop_limit = json!({"InstanceId": A, "HttpEndpoint": "enabled", "HttpPutResponseHopLimit": 2});
        let asks =
            |tokens: &str, endpoint: &str| json!({"InstanceId": A, "HttpTokens": tokens, "HttpEndpoint": endpoint});
        for (request, answered, expected) in [
            (&hop_limit, options("required", "enabled"), false),
            (&hop_limit, options("optional", "enabled"), true),
            (&hop_limit, Value::Null, false),
            (&asks("optional", "enabled"), options("optional", "enabled"), true),
            (&asks("optional", "enabled"), Value::Null, true),
            (&asks("optional", "disabled"), options("optional", "disabled"), false),
            (&asks("optional", "disabled"), Value::Null, false),
            (&asks("required", "enabled"), options("required", "enabled"), false),
        ] {
            for nested in [true, false] {
                let answer = json!({"instanceId": A, "instanceMetadataOptions": answered});
                let (request, answer) = if nested {
                    let request = json!({"ModifyInstanceMetadataOptionsRequest": request});
                    (request, json!({"ModifyInstanceMetadataOptionsResponse": answer}))
                } else {
                    (request.clone(), answer)
                };
                let left = left_open("ModifyInstanceMetadataOptions", &request, &answer);
                assert_eq!(left, expected, "{request} {answer}");
            }
        }
        for (options, expected) in [
            (options("optional", "enabled"), true),
            (options("optional", "disabled"), false),
            (options("required", "enabled"), false),
            (json!({"httpTokens": "optional"}), true),
            (json!({}), false),
        ] {
            let answer = json!({"instancesSet": {"items": [{"instanceId": A, "metadataOptions": options}]}});
            assert_eq!(left_open("RunInstances", &Value::Null, &answer), expected, "{answer}");
        }
    }

    #[test]
    fn people_in_the_console_are_no_service() {
        let arn = "arn:aws:sts::111122223333:assumed-role/Admin/somebody";
        for (invoked_by, service) in [
            ("signin.amazonaws.com", None),
            ("AWS Internal", None),
            ("autoscaling.amazonaws.com", Some("autoscaling.amazonaws.com")),
        ] {
            let identity = json!({"arn": arn, "invokedBy": invoked_by});
            let request = api_call(&json!({"eventName": "RunInstances", "userIdentity": identity})).unwrap();
            let caller = &request.origin.unwrap().caller;
            assert_eq!((caller.actor.as_deref(), caller.service.as_deref()), (Some(arn), service));
        }
        for identity in [
            json!({"accountId": "111122223333", "invokedBy": "AWS Internal"}),
            json!({"arn": "arn:aws:sts::111122223333:assumed-role/AWSServiceRoleForRum/a", "invokedBy": "AWS Internal"}),
        ] {
            let request = api_call(&json!({"eventName": "RunInstances", "userIdentity": identity})).unwrap();
            assert_eq!(request.origin.unwrap().caller.service.as_deref(), Some("AWS Internal"), "{identity}");
        }
    }

    #[test]
    fn a_launch_names_all_its_instances_once() {
        let items = json!([{"instanceId": A}, {"instanceId": B}, {"instanceId": A}]);
        let targets = run_instances(&json!({"instancesSet": {"items": items}})).unwrap();
        assert_eq!(ids(&targets), [A, B]);
        assert!(targets.must_exist && targets.violators.is_none());
    }

    #[test]
    fn a_single_item_stands_for_a_list() {
        let targets = run_instances(&json!({"instancesSet": {"items": {"instanceId": A}}})).unwrap();
        assert_eq!(ids(&targets), [A]);
        assert_eq!(targets.violators, None);
    }

    #[test]
    fn a_launch_that_may_not_name_all_looks_at_what_was_created_since_too() {
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
            assert_eq!(targets.violators, Some(since("2026-11-02T09:09:07Z")), "{response}");
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
            assert!(!targets.must_exist && targets.violators.is_none());
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

    #[test]
    fn what_a_launch_did_not_ask_for_is_known_from_a_whole_request_alone() {
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
        let Call::RunInstances { launch_template, spot, at_launch, .. } = call else { panic!("a launch") };
        let template = LaunchTemplate { id: None, name: Some("web".to_owned()), version: Some("$Latest".to_owned()) };
        assert_eq!((launch_template, spot), (Some(template), true));
        let [required, open] = [A, B].map(|id| [id.parse().unwrap()].into());
        assert_eq!(at_launch, AtLaunch { required, open, ..AtLaunch::default() });
    }

    #[test]
    fn what_a_modification_asked_for_is_read_nested_or_flat() {
        for request in [
            json!({"ModifyInstanceMetadataOptionsRequest": {"InstanceId": A, "HttpTokens": "optional"}}),
            json!({"instanceId": A, "httpTokens": "optional"}),
        ] {
            let expected = Call::ModifyInstanceMetadataOptions {
                http_tokens: Some("optional".to_owned()),
                http_endpoint: None,
                left_open: None,
                names_another: false,
            };
            assert_eq!(call("ModifyInstanceMetadataOptions", &request, &Value::Null), expected);
        }
    }

    #[test]
    fn a_launch_keeps_the_tags_that_name_an_owner_of_its_request_and_of_its_answer() {
        let tag = |key: &str, value: &str| json!({"key": key, "value": value});
        let (pool, group) = (tag("karpenter.sh/nodepool", "blue"), tag("aws:autoscaling:groupName", "web"));
        let specification = json!({"resourceType": "instance", "tags": [pool, tag("Name", "x")]});
        let request = json!({"tagSpecificationSet": {"items": [specification]}});
        let items = json!([{"instanceId": A, "tagSet": {"items": [group]}}, {"instanceId": B, "tagSet": {}}]);
        let call = call("RunInstances", &request, &json!({"instancesSet": {"items": items}}));
        let Call::RunInstances { at_launch: AtLaunch { requested_tags, answered_tags, .. }, .. } = call else {
            panic!("a launch")
        };
        let tags = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
        assert_eq!(requested_tags, tags("karpenter.sh/nodepool", "blue"));
        assert_eq!(answered_tags, [(A.parse().unwrap(), tags("aws:autoscaling:groupName", "web"))].into());
    }

    #[test]
    fn the_caller_has_a_service_an_address_and_a_user_agent() {
        let detail = json!({
            "eventName": "RunInstances", "sourceIPAddress": "198.51.100.7", "userAgent": "aws-cli/2.31.0",
            "userIdentity": {"arn": "arn:aws:sts::111122223333:assumed-role/r/s", "invokedBy": "autoscaling.amazonaws.com"},
        });
        let caller = &api_call(&detail).unwrap().origin.unwrap().caller;
        assert_eq!(caller.actor.as_deref(), Some("arn:aws:sts::111122223333:assumed-role/r/s"));
        assert_eq!(caller.service.as_deref(), Some("autoscaling.amazonaws.com"));
        assert_eq!(caller.source_address.as_deref(), Some("198.51.100.7"));
        assert_eq!(caller.user_agent.as_deref(), Some("aws-cli/2.31.0"));
    }

    #[test]
    fn long_texts_are_cut() {
        let long = "x".repeat(100_000);
        let request = api_call(&json!({"eventName": long, "userIdentity": {"arn": long}})).unwrap();
        assert_eq!(request.event.name.len(), TEXT_CHARS);
        assert_eq!(request.event.actor.unwrap().len(), TEXT_CHARS);
        assert!(request.targets.unwrap_err().to_string().len() < 2 * TEXT_CHARS);
    }

    #[test]
    fn a_list_in_the_place_of_an_object_is_absent() {
        let targets = run_instances(&json!([{"items": [{"instanceId": A}]}, null, null, null])).unwrap();
        assert_eq!((ids(&targets).len(), targets.violators), (0, Some(since("2026-11-02T09:09:07Z"))));
        assert!(modify(&json!([null, null, null, null, null, null, A]), &Value::Null).is_err());
    }

    #[test]
    fn what_is_nested_comes_before_what_is_flat_and_the_request_before_the_answer() {
        let nested = json!({"InstanceId": A, "HttpTokens": "optional", "HttpEndpoint": "enabled"});
        let flat = json!({"instanceId": B, "httpTokens": "required", "httpEndpoint": "disabled"});
        let mut request = flat.clone();
        request["ModifyInstanceMetadataOptionsRequest"] = nested.clone();
        assert_eq!(ids(&modify(&request, &flat).unwrap()), [A]);
        assert_eq!(ids(&modify(&flat, &nested).unwrap()), [B]);
        let response = json!({"instanceId": B, "ModifyInstanceMetadataOptionsResponse": nested});
        assert_eq!(ids(&modify(&Value::Null, &response).unwrap()), [A]);
        let expected = Call::ModifyInstanceMetadataOptions {
            http_tokens: Some("optional".to_owned()),
            http_endpoint: Some("enabled".to_owned()),
            left_open: None,
            names_another: false,
        };
        assert_eq!(call("ModifyInstanceMetadataOptions", &request, &Value::Null), expected);
    }

    #[test]
    fn a_record_that_names_an_action_twice_is_refused_with_the_reason() {
        let twice = r#"{"eventName": "RunInstances", "eventName": "StopInstances"}"#;
        let event = event(DETAIL_TYPE, &Value::Null).to_string().replace("null", twice);
        let error = crate::event::read(&event, REGION).unwrap_err().to_string();
        assert!(error.contains("at `detail`") && error.contains("duplicate field `eventName`"), "{error}");
    }
}
