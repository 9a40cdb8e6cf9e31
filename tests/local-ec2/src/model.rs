//! The instances of one account in one Region, and what each action does to them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
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
    /// Whether it can't be modified while it is `pending`.
    #[serde(default)]
    pub refuses_while_pending: bool,
    /// When it gets to the next state, its options are applied, or it is forgotten.
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
    text_of(Utc::now())
}

fn text_of(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
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
            refuses_while_pending: false,
            due: None,
        }
    }

    /// Lets time pass: a state that lasts a while ends, and pending options are applied. Whether EC2
    /// still knows the instance: it forgets what was terminated after `remembers`.
    fn settle(&mut self, now: Instant, remembers: Duration) -> bool {
        while let Some(due) = self.due.filter(|due| *due <= now) {
            self.due = None;
            match self.state.as_str() {
                "pending" => self.state = running(),
                "stopping" => "stopped".clone_into(&mut self.state),
                "shutting-down" => {
                    "terminated".clone_into(&mut self.state);
                    self.due = Some(due + remembers);
                }
                "terminated" => return false,
                _ => {}
            }
            if self.state == "running" {
                "applied".clone_into(&mut self.metadata_options.state);
            }
        }
        true
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
    /// For how long what is terminated is still described.
    pub remembers: Duration,
    /// The time of day at an instant, from which both go on together; without it, the machine's.
    pub clock: Option<(Instant, DateTime<Utc>)>,
    /// Whether a write to an instance whose endpoint is disabled is denied, as a policy does by the
    /// condition key `ec2:MetadataHttpEndpoint`.
    pub denies_closed: bool,
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
            remembers: Duration::from_hours(1),
            clock: None,
            denies_closed: false,
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

    /// Launches an instance at `now`: it is `pending` until the model's transition is over.
    pub fn launch(&mut self, instance: Instance, now: Instant) {
        let launch_time = self.time_of_day(now);
        let due = Some(now + self.ahead + self.transition);
        self.put(Instance { state: "pending".to_owned(), launch_time, due, ..instance });
    }

    /// Takes an instance at `now` to `pending`, `stopping` or `shutting-down`, as the calls of a
    /// group, a scheduler or an owner do that are not limited by buckets here. A start moves its
    /// launch time and leaves when its interface and its volume were attached.
    pub fn change_state(&mut self, id: &str, to: &str, now: Instant) {
        let (time_of_day, due) = (self.time_of_day(now), now + self.ahead + self.transition);
        let Some(instance) = self.instances.get_mut(id).filter(|instance| instance.state != "terminated") else {
            return;
        };
        if to == "pending" {
            let launch_time = std::mem::replace(&mut instance.launch_time, time_of_day);
            instance.attach_time.get_or_insert(launch_time);
        }
        to.clone_into(&mut instance.state);
        instance.due = Some(due);
    }

    /// Lets time pass for every instance.
    pub fn settle(&mut self, now: Instant) {
        let (now, remembers) = (now + self.ahead, self.remembers);
        self.instances.retain(|_, instance| instance.settle(now, remembers));
    }

    fn time_of_day(&self, now: Instant) -> String {
        let since = |(instant, time): (Instant, DateTime<Utc>)| text_of(time + now.saturating_duration_since(instant));
        self.clock.map_or_else(current_time, since)
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
        self.settle(now);
        let now = now + self.ahead;
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
        let instance = instance_id.as_ref().and_then(|id| self.instances.get(id));
        let is_closed = instance.is_some_and(|it| it.metadata_options.http_endpoint == "disabled");
        let is_denied = self.denies_closed && is_closed && action == "ModifyInstanceMetadataOptions";
        if is_denied || [None, instance_id].into_iter().any(|id| self.denied.contains(&(action.to_owned(), id))) {
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
        for instance in candidates(&mut self.instances, &filters) {
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
        let is_unready = instance.state == "pending" && instance.refuses_while_pending;
        if is_unready || matches!(instance.state.as_str(), "shutting-down" | "terminated") {
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
        let now = now.checked_sub(self.ahead).unwrap_or(now);
        let mut changes = Vec::new();
        for id in ids {
            let previous_state = StateXml::of(&self.visible_mut(id)?.state);
            self.change_state(id, to, now);
            let current_state = StateXml::of(&self.visible(id)?.state);
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

/// The instances that filters can match: those of the ids that a filter names, or all.
fn candidates<'a>(
    instances: &'a mut BTreeMap<String, Instance>,
    filters: &[(&str, Vec<&str>)],
) -> Box<dyn Iterator<Item = &'a mut Instance> + 'a> {
    let is_plain = |ids: &&Vec<&str>| ids.iter().all(|id| is_instance_id(id));
    let ids = filters.iter().find(|(name, _)| *name == "instance-id").map(|(_, ids)| ids).filter(is_plain);
    let Some(ids) = ids else { return Box::new(instances.values_mut()) };
    let ids: BTreeSet<String> = ids.iter().map(|id| (*id).to_owned()).collect();
    let (Some(first), Some(last)) = (ids.first().cloned(), ids.last().cloned()) else {
        return Box::new(std::iter::empty());
    };
    Box::new(instances.range_mut(first..=last).filter(move |(id, _)| ids.contains(*id)).map(|(_, instance)| instance))
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

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "i-1a2b3c4d";

    /// A model with a clock of its own, that begins at an instant and at a time of day.
    fn model(begin: Instant) -> Model {
        let clock = Some((begin, "2026-11-02T00:00:00Z".parse().unwrap()));
        Model { clock, ..Model::with_transition(Duration::from_secs(15)) }
    }

    fn call(model: &mut Model, form: &str, now: Instant) -> Result<Answer, Error> {
        let parameters = Parameters::parse(form.as_bytes());
        model.call(parameters.get("Action").unwrap(), &parameters, now)
    }

    #[test]
    fn a_start_moves_the_launch_time_and_leaves_the_attach_time() {
        let begin = Instant::now();
        let mut model = model(begin);
        model.launch(Instance::new(ID), begin);
        model.change_state(ID, "stopping", begin + Duration::from_hours(20));
        model.settle(begin + Duration::from_hours(21));
        assert_eq!(model.instances[ID].state, "stopped");
        model.change_state(ID, "pending", begin + Duration::from_hours(30));
        model.settle(begin + Duration::from_hours(31));
        let instance = &model.instances[ID];
        assert_eq!((instance.state.as_str(), instance.launch_time.as_str()), ("running", "2026-11-03T06:00:00.000Z"));
        assert_eq!(instance.attach_time.as_deref(), Some("2026-11-02T00:00:00.000Z"));
    }

    #[test]
    fn what_is_terminated_is_forgotten_an_hour_later_and_not_before() {
        let begin = Instant::now();
        let mut model = model(begin);
        model.launch(Instance::new(ID), begin);
        model.change_state(ID, "shutting-down", begin);
        model.settle(begin + Duration::from_hours(1));
        assert_eq!(model.instances[ID].state, "terminated");
        model.settle(begin + Duration::from_mins(61));
        assert!(model.instances.is_empty());
    }

    #[test]
    fn one_that_refuses_while_it_is_pending_can_be_modified_once_it_runs() {
        let begin = Instant::now();
        let mut model = model(begin);
        model.launch(Instance { refuses_while_pending: true, ..Instance::new(ID) }, begin);
        let modify = format!("Action=ModifyInstanceMetadataOptions&InstanceId={ID}&HttpTokens=required");
        assert_eq!(call(&mut model, &modify, begin).unwrap_err().code, "IncorrectInstanceState");
        assert!(call(&mut model, &modify, begin + Duration::from_secs(15)).is_ok());
    }

    #[test]
    fn a_filter_by_ids_finds_those_and_no_others() {
        let begin = Instant::now();
        let mut model = model(begin);
        for n in 1..=5 {
            model.put(Instance::new(&format!("i-1a2b3c4{n}")));
        }
        let described = |model: &mut Model, ids: &[&str]| {
            let values: Vec<_> = ids.iter().zip(1..).map(|(id, n)| format!("Filter.1.Value.{n}={id}")).collect();
            let form = format!("Action=DescribeInstances&Filter.1.Name=instance-id&{}", values.join("&"));
            let Ok(Answer::Described { instances, .. }) = call(model, &form, begin) else { panic!("described") };
            instances.into_iter().map(|it| it.instance_id).collect::<Vec<_>>()
        };
        assert_eq!(described(&mut model, &["i-1a2b3c44", "i-1a2b3c42"]), ["i-1a2b3c42", "i-1a2b3c44"]);
        assert_eq!(described(&mut model, &["i-1a2b3c4?"]).len(), 5, "a pattern stands for any");
        assert!(described(&mut model, &["i-1a2b3c49"]).is_empty());
    }
}
