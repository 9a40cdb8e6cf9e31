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

use super::json::{Collect, Cuttable, Level, OneOrMany, Raw, strict};
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
    launch_template: Cuttable<Specification<'a>>,
    instance_market_options: Level<MarketOptions<'a>>,
    omitted: Raw<'a>,
    #[serde(rename = "ModifyInstanceMetadataOptionsRequest")]
    nested: Level<Modification<'a>>,
    // A modification that is not nested.
    #[serde(alias = "InstanceId")]
    instance_id: Raw<'a>,
    #[serde(alias = "DryRun")]
    dry_run: Raw<'a>,
    #[serde(alias = "HttpTokens")]
    http_tokens: Raw<'a>,
    #[serde(alias = "HttpEndpoint")]
    http_endpoint: Raw<'a>,
}

/// The request of a modification, in the case of CloudTrail or of EC2.
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
struct Specification<'a> {
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

/// The instances that a launch answered with.
#[derive(Default)]
struct Launched {
    targets: Targets,
    required_at_launch: BTreeSet<InstanceId>,
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


/// Reads a record.
pub(super) fn read(detail: &RawValue, event: EventSummary) -> Result<Request, EventError> {
    let record: Record = strict(detail.get(), "detail")?;
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
        Caller {
            actor: first_text([identity.arn, identity.invoked_by, identity.principal_id]),
            service: identity.invoked_by.text(),
            source_address: self.source_ip_address.text(),
        }
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

fn first_text<const N: usize>(values: [Raw; N]) -> Option<String> {
    values.into_iter().find_map(Raw::text)
}

fn is_of_another_service(event_source: Raw) -> bool {
    event_source.text().is_some_and(|source| source != "ec2.amazonaws.com")
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
        launch_template: request.launch_template.object.as_ref().map(Specification::launch_template),
        spot: request.instance_market_options.0.is_some_and(|it| it.market_type.is("spot")),
        is_whole: request.is_whole(),
        required_at_launch,
    };
    Ok((targets, call))
}

/// A `ModifyInstanceMetadataOptions` call.
fn modification(request: &RequestParameters, response: ResponseElements) -> Result<(Targets, Call), EventError> {
    let [nested, flat] = request.modifications();
    let mut targets = Targets::default();
    let id = instance_id(nested.instance_id.or(flat.instance_id).or(response.modified()));
    id.into_iter().for_each(|id| targets.add(id));
    let call = Call::ModifyInstanceMetadataOptions {
        http_tokens: first_text([nested.http_tokens, flat.http_tokens]),
        http_endpoint: first_text([nested.http_endpoint, flat.http_endpoint]),
    };
    Ok((targets.or_refuse("detail.requestParameters")?, call))
}

impl<'a> RequestParameters<'a> {
    /// Whether this is the request as it was sent: what it does not say, it did not ask for.
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

impl Specification<'_> {
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

impl Collect for Launched {
    type Item<'a> = LaunchedInstance<'a>;

    fn add(&mut self, item: Option<LaunchedInstance>) {
        let item = item.unwrap_or_default();
        let Some(id) = instance_id(item.instance_id) else {
            self.targets.violators = true;
            return;
        };
        if item.metadata_options.0.is_some_and(|it| it.http_tokens.is("required")) {
            self.required_at_launch.extend(id.clone());
        }
        self.targets.add(id);
    }
}
