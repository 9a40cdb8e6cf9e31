//! API calls that CloudTrail recorded: which instances they name, what they asked for, and who called.
//!
//! CloudTrail's JSON is not typed: a single item stands where a list is usual, fields are null,
//! missing, replaced by `omitted`, or of another shape. So every level is read tolerantly: what has
//! another shape than expected reads as absent, and what is absent makes the function look at more
//! instances, or refuse the event, never at fewer.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::json::{Collect, Cuttable, Level, OneOrMany, Raw, object};
use super::{EventError, EventSummary, Ignored, Request, Targets, instance_id};
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
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct MetadataOptions<'a> {
    #[serde(borrow, alias = "HttpTokens")]
    http_tokens: Raw<'a>,
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
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Modified<'a> {
    #[serde(borrow, alias = "InstanceId")]
    instance_id: Raw<'a>,
}

/// The instances that a launch answered with, and which of them came up with tokens required.
#[derive(Default)]
struct Launched {
    targets: Targets,
    required_at_launch: BTreeSet<InstanceId>,
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
    /// `userIdentity.invokedBy`: the service that called for the actor, or as it.
    pub service: Option<String>,
    /// `sourceIPAddress`: an address, or a service's name.
    pub source_address: Option<String>,
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
        /// Those that came up with tokens required: what they have now, they got later.
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

/// Reads a record.
pub(super) fn read(detail: &RawValue, event: EventSummary) -> Result<Request, EventError> {
    let record: Record = object(detail.get(), "detail")?;
    let name = record.event_name.text().ok_or_else(|| {
        EventError::unreadable("detail.eventName", "is missing or no text: CloudTrail names the action here")
    })?;
    let caller = record.caller();
    let event = EventSummary { name: name.clone(), actor: caller.actor.clone(), ..event };
    let (targets, origin) = match record.change(name)? {
        Ok((targets, call)) => (Ok(targets), Some(Arc::new(Origin { caller, call }))),
        Err(ignored) => (Err(ignored), None),
    };
    Ok(Request { event, targets, origin })
}

impl Record<'_> {
    fn caller(&self) -> Caller {
        let identity = self.user_identity.0.unwrap_or_default();
        let service = identity.invoked_by.text();
        let actor = identity.arn.text().or_else(|| service.clone()).or_else(|| identity.principal_id.text());
        Caller { actor, service, source_address: self.source_ip_address.text() }
    }

    /// The instances that the call changed, and what it asked for; or why there is nothing to do.
    fn change(self, event_name: String) -> Result<Result<(Targets, Call), Ignored>, EventError> {
        let read = match event_name.as_str() {
            "RunInstances" => launch,
            "ModifyInstanceMetadataOptions" => modification,
            _ => return Ok(Err(other_event(event_name))),
        };
        let request = self.request_parameters.0.unwrap_or_default();
        match self.error_code.text().filter(|code| !code.is_empty()) {
            Some(code) if code.ends_with("DryRunOperation") => Ok(Err(Ignored::DryRun { event_name })),
            Some(_) | None if request.is_dry_run() => Ok(Err(Ignored::DryRun { event_name })),
            Some(error_code) => Ok(Err(Ignored::CallFailed { event_name, error_code })),
            None if is_of_another_service(self.event_source) => Ok(Err(other_event(event_name))),
            None => read(&request, self.response_elements.0.unwrap_or_default()).map(Ok),
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

/// A `RunInstances` call.
fn launch(request: &RequestParameters, response: ResponseElements) -> Result<(Targets, Call), EventError> {
    let (targets, required_at_launch) = response.launched();
    let targets = targets.or_refuse("detail.responseElements.instancesSet.items")?;
    let call = Call::RunInstances {
        http_tokens: request.metadata_options.object.as_ref().and_then(|it| it.http_tokens.text()),
        launch_template: request.launch_template.object.as_ref().map(LaunchTemplateSpecification::launch_template),
        spot: request.instance_market_options.0.is_some_and(|it| it.market_type.is("spot")),
        is_whole: request.is_whole(),
        required_at_launch,
    };
    Ok((targets, call))
}

/// A `ModifyInstanceMetadataOptions` call.
fn modification(request: &RequestParameters, response: ResponseElements) -> Result<(Targets, Call), EventError> {
    let [nested, flat] = request.modifications();
    let targets = Targets::one(nested.instance_id.or(flat.instance_id).or(response.modified()));
    let call = Call::ModifyInstanceMetadataOptions {
        http_tokens: first_text([nested.http_tokens, flat.http_tokens]),
        http_endpoint: first_text([nested.http_endpoint, flat.http_endpoint]),
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
        let Self { instance_id, dry_run, http_tokens, http_endpoint, .. } = *self;
        [self.nested.0.unwrap_or_default(), Modification { instance_id, dry_run, http_tokens, http_endpoint }]
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
    /// The instances of a launch and, where it can't be sure that those are all, every violator of
    /// the Region as well; and which of them came up with tokens required.
    fn launched(self) -> (Targets, BTreeSet<InstanceId>) {
        let InstancesSet { items: OneOrMany(Launched { mut targets, required_at_launch }), omitted } =
            self.instances_set.0.unwrap_or_default();
        targets.must_exist = true;
        targets.violators |= targets.is_empty() || self.omitted.is_true() || omitted.is_true();
        (targets, required_at_launch)
    }

    /// The instance of a modification, nested or flat.
    fn modified(self) -> Raw<'a> {
        self.nested.0.unwrap_or_default().instance_id.or(self.instance_id)
    }
}

impl LaunchedInstance<'_> {
    fn came_up_with_tokens_required(&self) -> bool {
        self.metadata_options.0.is_some_and(|it| it.http_tokens.is("required"))
    }
}

impl Collect for Launched {
    type Item<'a> = LaunchedInstance<'a>;

    fn add(&mut self, item: Option<LaunchedInstance>) {
        let item = item.unwrap_or_default();
        let Some(id) = instance_id(item.instance_id) else {
            self.targets.violators = true;
            return;
        };
        if let (true, Ok(id)) = (item.came_up_with_tokens_required(), &id) {
            self.required_at_launch.insert(id.clone());
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
        let Call::RunInstances { launch_template, spot, required_at_launch, .. } = call else { panic!("a launch") };
        let template = LaunchTemplate { id: None, name: Some("web".to_owned()), version: Some("$Latest".to_owned()) };
        assert_eq!((launch_template, spot), (Some(template), true));
        assert_eq!(required_at_launch, [A.parse().unwrap()].into());
    }

    #[test]
    fn what_a_modification_asked_for_is_read_nested_or_flat() {
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
    fn the_caller_has_a_service_and_an_address() {
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
        assert_eq!((ids(&targets).len(), targets.violators), (0, true));
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
