//! The instances of one account in one Region, and what each action does to them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::answer::{Answer, Error, InstanceXml, OptionsXml, StateChangeXml, StateXml};
use crate::bucket::Buckets;
use crate::fault::Faults;
use crate::query::Parameters;

/// `MetadataOptions`, with EC2's defaults for an image and account that ask for nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "EC2's own names")]
pub struct MetadataOptions {
    pub state: String,
    pub http_tokens: String,
    pub http_endpoint: String,
    pub http_put_response_hop_limit: u32,
    pub http_protocol_ipv6: String,
    pub instance_metadata_tags: String,
}

impl Default for MetadataOptions {
    fn default() -> Self {
        Self {
            state: "applied".to_owned(),
            http_tokens: "optional".to_owned(),
            http_endpoint: "enabled".to_owned(),
            http_put_response_hop_limit: 1,
            http_protocol_ipv6: "disabled".to_owned(),
            instance_metadata_tags: "disabled".to_owned(),
        }
    }
}

impl MetadataOptions {
    /// Changes the options that the parameters name and leaves the others. Whether any was named.
    fn change(&mut self, parameters: &Parameters, prefix: &str) -> Result<bool, Error> {
        let switch = ["enabled", "disabled"];
        let name = |option: &str| format!("{prefix}{option}");
        let mut named = false;
        for (option, words, field) in [
            ("HttpTokens", ["optional", "required"], &mut self.http_tokens),
            ("HttpEndpoint", switch, &mut self.http_endpoint),
            ("HttpProtocolIpv6", switch, &mut self.http_protocol_ipv6),
            ("InstanceMetadataTags", switch, &mut self.instance_metadata_tags),
        ] {
            if let Some(word) = parameters.word(&name(option), &words)? {
                *field = word;
                named = true;
            }
        }
        if let Some(limit) = parameters.number(&name("HttpPutResponseHopLimit"), 1..=64)? {
            self.http_put_response_hop_limit = limit;
            named = true;
        }
        Ok(named)
    }
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "EC2's own names")]
pub struct Instance {
    pub instance_id: String,
    #[serde(default = "running")]
    pub state: String,
    #[serde(default)]
    pub metadata_options: MetadataOptions,
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// `Operator.Principal`, if a service manages it.
    #[serde(default)]
    pub managed_by: Option<String>,
    /// `Operator.HiddenByDefault`: whether lists leave it out unless they ask for managed resources.
    #[serde(default)]
    pub hidden_by_default: bool,
    #[serde(default = "any_image")]
    pub image_id: String,
    /// The ARN of `IamInstanceProfile`.
    #[serde(default)]
    pub instance_profile: Option<String>,
    #[serde(default = "any_type")]
    pub instance_type: String,
    #[serde(default = "current_time")]
    pub launch_time: String,
    /// When its primary network interface and its root volume were attached, if that was not at its
    /// launch time, which moves with each start.
    #[serde(default)]
    pub attach_time: Option<String>,
    #[serde(default)]
    pub reservation_id: String,
    /// How many calls of `DescribeInstances` and `ModifyInstanceMetadataOptions` don't see it yet.
    #[serde(default)]
    pub invisible_for_calls: u32,
    /// How many calls of `ModifyInstanceMetadataOptions` find it in a state it can't be modified in.
    #[serde(default)]
    pub not_ready_for_calls: u32,
    /// When it gets to the next state, or its options are applied.
    #[serde(skip)]
    due: Option<Instant>,
}

fn running() -> String {
    "running".to_owned()
}

fn any_image() -> String {
    "ami-0123456789abcdef0".to_owned()
}

fn any_type() -> String {
    "t3.micro".to_owned()
}

fn current_time() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

impl Instance {
    /// A running instance with default options.
    #[must_use]
    pub fn new(instance_id: &str) -> Self {
        Self {
            instance_id: instance_id.to_owned(),
            state: running(),
            metadata_options: MetadataOptions::default(),
            tags: BTreeMap::new(),
            managed_by: None,
            hidden_by_default: false,
            image_id: any_image(),
            instance_profile: None,
            instance_type: any_type(),
            launch_time: current_time(),
            attach_time: None,
            reservation_id: format!("r-{}", instance_id.trim_start_matches("i-")),
            invisible_for_calls: 0,
            not_ready_for_calls: 0,
            due: None,
        }
    }

    /// Lets time pass: a state that lasts a while ends, and pending options are applied.
    fn settle(&mut self, now: Instant) {
        if self.due.is_none_or(|due| now < due) {
            return;
        }
        self.due = None;
        let next = match self.state.as_str() {
            "pending" => "running",
            "stopping" => "stopped",
            "shutting-down" => "terminated",
            other => other,
        };
        self.state = next.to_owned();
        if self.state == "running" {
            "applied".clone_into(&mut self.metadata_options.state);
        }
    }

    fn filter_values(&self, filter: &str) -> Option<Vec<&str>> {
        let options = &self.metadata_options;
        Some(match filter {
            "instance-id" => vec![&self.instance_id],
            "instance-state-name" => vec![&self.state],
            "metadata-options.http-tokens" => vec![&options.http_tokens],
            "metadata-options.http-endpoint" => vec![&options.http_endpoint],
            "operator.managed" => vec![if self.managed_by.is_some() { "true" } else { "false" }],
            "tag-key" => self.tags.keys().map(String::as_str).collect(),
            _ => self.tags.get(filter.strip_prefix("tag:")?).map(String::as_str).into_iter().collect(),
        })
    }
}

const FILTERS: [&str; 6] = [
    "instance-id",
    "instance-state-name",
    "metadata-options.http-tokens",
    "metadata-options.http-endpoint",
    "operator.managed",
    "tag-key",
];

/// A call that reached the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// `Action`.
    pub action: String,
    /// All parameters.
    pub parameters: Parameters,
    /// The error code of the answer, if it failed.
    pub error: Option<String>,
}

/// One account in one Region.
#[derive(Debug)]
pub struct Model {
    /// By id.
    pub instances: BTreeMap<String, Instance>,
    /// The request buckets.
    pub buckets: Buckets,
    /// The faults to come.
    pub faults: Faults,
    /// Every call, in order.
    pub calls: Vec<Call>,
    /// How many connections were opened.
    pub connections: usize,
    /// How long `pending`, `stopping`, `shutting-down` and options that are `pending` last.
    pub transition: Duration,
    /// How long every answer takes.
    pub latency: Duration,
    /// How far its clock is ahead of the caller's.
    ahead: Duration,
    denied: BTreeSet<(String, Option<String>)>,
    serial: u64,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            instances: BTreeMap::new(),
            buckets: Buckets::default(),
            faults: Faults::default(),
            calls: Vec::new(),
            connections: 0,
            transition: Duration::from_millis(500),
            latency: Duration::ZERO,
            ahead: Duration::ZERO,
            denied: BTreeSet::new(),
            serial: 0,
        }
    }
}

impl Model {
    /// An account without instances, where what is on its way arrives after `transition`.
    #[must_use]
    pub fn with_transition(transition: Duration) -> Self {
        Self { transition, ..Self::default() }
    }

    /// Puts an instance there, in place of one with the same id.
    pub fn put(&mut self, instance: Instance) {
        self.instances.insert(instance.instance_id.clone(), instance);
    }

    /// Lets time pass, for whoever must not depend on how fast it does.
    pub fn advance(&mut self, by: Duration) {
        self.ahead += by;
    }

    /// From now on answers `UnauthorizedOperation` to `action`, on one instance or on all.
    pub fn deny(&mut self, action: &str, instance_id: Option<&str>) {
        self.denied.insert((action.to_owned(), instance_id.map(str::to_owned)));
    }

    /// How often each action was called.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for call in &self.calls {
            *counts.entry(call.action.clone()).or_default() += 1;
        }
        counts
    }

    /// Does what a request asks for.
    ///
    /// # Errors
    ///
    /// What EC2 would answer, or that the stand-in does not have it.
    pub fn call(&mut self, action: &str, parameters: &Parameters, now: Instant) -> Result<Answer, Error> {
        let now = now + self.ahead;
        for instance in self.instances.values_mut() {
            instance.settle(now);
        }
        self.throttle(action, parameters, now)?;
        self.authorize(action, parameters)?;
        match action {
            "RunInstances" => self.run_instances(parameters, now),
            "DescribeInstances" => self.describe_instances(parameters),
            "ModifyInstanceMetadataOptions" => self.modify_instance_metadata_options(parameters, now),
            "TerminateInstances" => self.change_states(parameters, now, "shutting-down", |_| true),
            "StopInstances" => self.change_states(parameters, now, "stopping", |state| state == "running"),
            "StartInstances" => self.change_states(parameters, now, "pending", |state| state == "stopped"),
            "CreateTags" => self.create_tags(parameters),
            _ => Err(Error::new("InvalidAction", format!("The local EC2 has no action {action}"))),
        }
    }

    fn throttle(&mut self, action: &str, parameters: &Parameters, now: Instant) -> Result<(), Error> {
        let narrowed = parameters.names().any(|name| name == "MaxResults" || name.starts_with("Filter."));
        let bucket = if action == "DescribeInstances" && !narrowed {
            "DescribeInstances, neither filtered nor paginated"
        } else {
            action
        };
        if self.buckets.take(bucket, now) {
            Ok(())
        } else {
            Err(Error::new("RequestLimitExceeded", "Request limit exceeded."))
        }
    }

    fn authorize(&self, action: &str, parameters: &Parameters) -> Result<(), Error> {
        let instance_id = parameters.get("InstanceId").map(str::to_owned);
        if [None, instance_id].into_iter().any(|id| self.denied.contains(&(action.to_owned(), id))) {
            let message =
                "You are not authorized to perform this operation. Encoded authorization failure message: local-ec2";
            return Err(Error::new("UnauthorizedOperation", message));
        }
        if parameters.get("DryRun").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Err(Error::new("DryRunOperation", "Request would have succeeded, but DryRun flag is set."));
        }
        Ok(())
    }

    fn run_instances(&mut self, parameters: &Parameters, now: Instant) -> Result<Answer, Error> {
        parameters.only(&[
            "ImageId",
            "InstanceType",
            "MinCount",
            "MaxCount",
            "MetadataOptions",
            "TagSpecification",
            "ClientToken",
        ])?;
        let required = |name| parameters.get(name).ok_or_else(|| missing(name));
        let image_id = required("ImageId")?.to_owned();
        let instance_type = parameters.get("InstanceType").unwrap_or("m1.small").to_owned();
        required("MinCount")?;
        let count = parameters.number("MaxCount", 1..=1000)?.ok_or_else(|| missing("MaxCount"))?;
        let mut metadata_options = MetadataOptions { state: "pending".to_owned(), ..MetadataOptions::default() };
        metadata_options.change(parameters, "MetadataOptions.")?;
        let tags = launch_tags(parameters);

        self.serial += 1;
        let reservation_id = format!("r-{:017x}", self.serial);
        let launched = (0..count).map(|_| {
            self.serial += 1;
            let instance = Instance {
                state: "pending".to_owned(),
                metadata_options: metadata_options.clone(),
                tags: tags.clone(),
                image_id: image_id.clone(),
                instance_type: instance_type.clone(),
                reservation_id: reservation_id.clone(),
                due: Some(now + self.transition),
                ..Instance::new(&format!("i-{:017x}", self.serial))
            };
            let xml = InstanceXml::from(&instance);
            self.instances.insert(instance.instance_id.clone(), instance);
            xml
        });
        let instances = launched.collect();
        Ok(Answer::Launched { reservation_id, instances })
    }

    fn describe_instances(&mut self, parameters: &Parameters) -> Result<Answer, Error> {
        parameters.only(&["InstanceId", "Filter", "MaxResults", "NextToken", "IncludeManagedResources"])?;
        // Only lists and filters leave managed instances out; a direct query of an id does not.
        let shows_hidden = parameters.get("IncludeManagedResources") == Some("true");
        let max_results = parameters.number("MaxResults", 5..=1000)?;
        let ids = parameters.list("InstanceId");
        if !ids.is_empty() && max_results.is_some() {
            let message = "The parameter instancesSet cannot be used with the parameter maxResults";
            return Err(Error::new("InvalidParameterCombination", message));
        }
        let filters = filters(parameters)?;
        for id in &ids {
            self.visible(id)?;
        }
        let from = match parameters.get("NextToken") {
            None => String::new(),
            Some(token) => {
                token.strip_prefix("after-").map(str::to_owned).ok_or_else(|| invalid("NextToken", token))?
            }
        };

        let mut matching = Vec::new();
        for instance in self.instances.values_mut() {
            let is_listed = ids.is_empty() && (shows_hidden || !instance.hidden_by_default);
            let is_named = ids.contains(&instance.instance_id.as_str());
            if !(is_listed || is_named) || !filters.iter().all(|(name, values)| matches(instance, name, values)) {
                continue;
            }
            if instance.invisible_for_calls > 0 {
                instance.invisible_for_calls -= 1;
            } else if instance.instance_id > from {
                matching.push(InstanceXml::from(&*instance));
            }
        }
        let page = max_results.map_or(usize::MAX, |max| max as usize);
        let next_token = (matching.len() > page).then(|| format!("after-{}", matching[page - 1].instance_id));
        matching.truncate(page);
        Ok(Answer::Described { instances: matching, next_token })
    }

    fn modify_instance_metadata_options(&mut self, parameters: &Parameters, now: Instant) -> Result<Answer, Error> {
        let options =
            ["HttpTokens", "HttpEndpoint", "HttpPutResponseHopLimit", "HttpProtocolIpv6", "InstanceMetadataTags"];
        parameters.only(&[&["InstanceId"], &options[..]].concat())?;
        let id = parameters.get("InstanceId").ok_or_else(|| missing("InstanceId"))?;
        let due = now + self.transition;
        let instance = self.visible_mut(id)?;
        if instance.not_ready_for_calls > 0 {
            instance.not_ready_for_calls -= 1;
            return Err(wrong_state(instance));
        }
        if matches!(instance.state.as_str(), "shutting-down" | "terminated") {
            return Err(wrong_state(instance));
        }
        let mut changed = instance.metadata_options.clone();
        if !changed.change(parameters, "")? {
            return Err(Error::new("MissingParameter", "At least one metadata option must be specified"));
        }
        "pending".clone_into(&mut changed.state);
        instance.metadata_options = changed;
        if instance.due.is_none() && instance.state == "running" {
            instance.due = Some(due);
        }
        Ok(Answer::Modified { instance_id: id.to_owned(), options: OptionsXml::from(&instance.metadata_options) })
    }

    fn create_tags(&mut self, parameters: &Parameters) -> Result<Answer, Error> {
        parameters.only(&["ResourceId", "Tag"])?;
        let tags: Vec<_> =
            parameters.indices("Tag").into_iter().map(|n| tag(parameters, &format!("Tag.{n}"))).collect();
        let ids = parameters.list("ResourceId");
        if ids.is_empty() || tags.is_empty() {
            return Err(missing(if ids.is_empty() { "ResourceId" } else { "Tag" }));
        }
        for id in ids {
            self.visible_mut(id)?.tags.extend(tags.iter().cloned());
        }
        Ok(Answer::Tagged)
    }

    fn change_states(
        &mut self,
        parameters: &Parameters,
        now: Instant,
        to: &str,
        from: fn(&str) -> bool,
    ) -> Result<Answer, Error> {
        parameters.only(&["InstanceId"])?;
        let ids = parameters.list("InstanceId");
        if ids.is_empty() {
            return Err(missing("InstanceId"));
        }
        for id in &ids {
            let instance = self.visible(id)?;
            if !from(&instance.state) {
                return Err(wrong_state(instance));
            }
        }
        let due = now + self.transition;
        let mut changes = Vec::new();
        for id in ids {
            let instance = self.visible_mut(id)?;
            let previous_state = StateXml::of(&instance.state);
            if to == "pending" {
                let launch_time = std::mem::replace(&mut instance.launch_time, current_time());
                instance.attach_time.get_or_insert(launch_time);
            }
            if instance.state != "terminated" {
                to.clone_into(&mut instance.state);
                instance.due = Some(due);
            }
            let current_state = StateXml::of(&instance.state);
            changes.push(StateChangeXml { instance_id: id.to_owned(), current_state, previous_state });
        }
        Ok(Answer::StateChanged(changes))
    }

    fn visible(&self, id: &str) -> Result<&Instance, Error> {
        if !is_instance_id(id) {
            return Err(Error::new("InvalidInstanceID.Malformed", format!("Invalid id: \"{id}\"")));
        }
        self.instances.get(id).filter(|instance| instance.invisible_for_calls == 0).ok_or_else(|| not_found(id))
    }

    /// An instance to be changed. One that is not yet visible is one call nearer to it.
    fn visible_mut(&mut self, id: &str) -> Result<&mut Instance, Error> {
        let visible = self.visible(id).map(drop);
        let instance = self.instances.get_mut(id);
        match (visible, instance) {
            (Ok(()), Some(instance)) => Ok(instance),
            (Err(error), Some(instance)) => {
                instance.invisible_for_calls -= 1;
                Err(error)
            }
            (Err(error), None) => Err(error),
            (Ok(()), None) => Err(not_found(id)),
        }
    }
}

fn is_instance_id(id: &str) -> bool {
    let digits = id.strip_prefix("i-").unwrap_or_default();
    matches!(digits.len(), 8 | 17) && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

fn filters(parameters: &Parameters) -> Result<Vec<(&str, Vec<&str>)>, Error> {
    let mut filters = Vec::new();
    let mut values_in_all = 0;
    for n in parameters.indices("Filter") {
        let name = parameters.get(&format!("Filter.{n}.Name")).ok_or_else(|| missing("Filter.Name"))?;
        if !FILTERS.contains(&name) && !name.starts_with("tag:") {
            return Err(Error::new("InvalidParameterValue", format!("The filter '{name}' is invalid")));
        }
        let values = parameters.list(&format!("Filter.{n}.Value"));
        values_in_all += values.len();
        filters.push((name, values));
    }
    if values_in_all > 200 {
        let message = "The maximum number of filter values specified on a single call is 200";
        return Err(Error::new("FilterLimitExceeded", message));
    }
    Ok(filters)
}

fn matches(instance: &Instance, filter: &str, patterns: &[&str]) -> bool {
    let values = instance.filter_values(filter).unwrap_or_default();
    values.iter().any(|value| patterns.iter().any(|pattern| matches_pattern(value.as_bytes(), pattern.as_bytes())))
}

/// EC2's patterns: `*` stands for any text, `?` for any character, `\` makes either mean itself.
fn matches_pattern(value: &[u8], pattern: &[u8]) -> bool {
    match (value, pattern) {
        ([], []) => true,
        (_, [b'*', rest @ ..]) => (0..=value.len()).any(|n| matches_pattern(&value[n..], rest)),
        ([_, value @ ..], [b'?', rest @ ..]) => matches_pattern(value, rest),
        ([v, value @ ..], [b'\\', p, rest @ ..] | [p, rest @ ..]) if v == p => matches_pattern(value, rest),
        _ => false,
    }
}

fn launch_tags(parameters: &Parameters) -> BTreeMap<String, String> {
    let mut tags = BTreeMap::new();
    for n in parameters.indices("TagSpecification") {
        let specification = format!("TagSpecification.{n}");
        if parameters.get(&format!("{specification}.ResourceType")) != Some("instance") {
            continue;
        }
        for m in parameters.indices(&format!("{specification}.Tag")) {
            tags.extend([tag(parameters, &format!("{specification}.Tag.{m}"))]);
        }
    }
    tags
}

/// The key and the value of a tag.
fn tag(parameters: &Parameters, tag: &str) -> (String, String) {
    let part = |name| parameters.get(&format!("{tag}.{name}")).unwrap_or_default().to_owned();
    (part("Key"), part("Value"))
}

fn missing(name: &str) -> Error {
    Error::new("MissingParameter", format!("The request must contain the parameter {name}"))
}

fn invalid(name: &str, value: &str) -> Error {
    Error::new("InvalidParameterValue", format!("Value ({value}) for parameter {name} is invalid"))
}

fn not_found(id: &str) -> Error {
    Error::new("InvalidInstanceID.NotFound", format!("The instance ID '{id}' does not exist"))
}

fn wrong_state(instance: &Instance) -> Error {
    let Instance { instance_id, state, .. } = instance;
    Error::new(
        "IncorrectInstanceState",
        format!("The instance '{instance_id}' is not in a state that allows this: {state}"),
    )
}
