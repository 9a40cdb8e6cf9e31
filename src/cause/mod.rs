//! Why an instance's tokens are not required, and what mends that for good: for the report alone.
//!
//! This is pure. It reads the call that an event records and what describes the instance, and never
//! guesses: what neither of them says is `unknown`. No decision depends on it.

mod command;
pub mod mend;

use std::fmt;

use serde::{Serialize, Serializer};

use crate::event::{Call, Caller, LaunchTemplate, Origin};
use crate::instance::Instance;

/// Why an instance's tokens are not required.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// What is to be mended.
    pub kind: Kind,
    /// Where the kind was found.
    pub evidence: Evidence,
    /// Who called: an ARN or a service; `unknown` where the event records none.
    pub actor: String,
    /// The role, if the actor is a session of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The session's name, if the actor is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The service that called, by itself or for the actor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The address that the call came from, or a service's name; `unknown` where none is recorded.
    pub source_address: String,
    /// What the instance belongs to.
    #[serde(flatten)]
    pub origins: Origins,
    /// What mends the cause, in words.
    pub mend: &'static str,
    /// The commands that mend it, in order. There are none where no single command does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
}

/// What is to be mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Somebody changed the instance after its launch.
    Modification,
    /// The `RunInstances` call itself asked for optional tokens.
    LaunchCall,
    /// An Elastic Beanstalk environment.
    ElasticBeanstalk,
    /// AWS Batch.
    Batch,
    /// A managed node group of EKS.
    EksNodeGroup,
    /// An Auto Scaling group.
    AutoScalingGroup,
    /// An EC2 Fleet.
    Ec2Fleet,
    /// A Spot request or Spot Fleet.
    Spot,
    /// Another service of AWS, which called or manages the instance.
    Service,
    /// A launch template.
    LaunchTemplate,
    /// The launch asked for nothing: the account's default and the image decided.
    Defaults,
    /// Neither the event nor the instance's description says.
    Unknown,
}

impl Kind {
    /// The word that the report has for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Modification => "modification",
            Self::LaunchCall => "launch_call",
            Self::ElasticBeanstalk => "elastic_beanstalk",
            Self::Batch => "batch",
            Self::EksNodeGroup => "eks_node_group",
            Self::AutoScalingGroup => "auto_scaling_group",
            Self::Ec2Fleet => "ec2_fleet",
            Self::Spot => "spot",
            Self::Service => "service",
            Self::LaunchTemplate => "launch_template",
            Self::Defaults => "defaults",
            Self::Unknown => "unknown",
        }
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl Cause {
    /// The name or id of what is to be mended, if it has one.
    #[must_use]
    pub fn belongs_to(&self) -> Option<&str> {
        let it = &self.origins;
        let template = it.launch_template.as_ref().and_then(|it| it.id.as_ref().or(it.name.as_ref()));
        let name = match self.kind {
            Kind::ElasticBeanstalk => it.beanstalk_environment.as_ref(),
            Kind::EksNodeGroup => it.eks_node_group.as_ref(),
            Kind::AutoScalingGroup => it.auto_scaling_group.as_ref(),
            Kind::Ec2Fleet => it.fleet.as_ref(),
            Kind::Spot => it.spot_fleet.as_ref(),
            Kind::Service => it.operator.as_ref().or(self.service.as_ref()),
            Kind::LaunchTemplate => template,
            Kind::Defaults => it.image_id.as_ref(),
            Kind::Modification | Kind::LaunchCall | Kind::Batch | Kind::Unknown => None,
        };
        name.map(String::as_str)
    }
}

/// Says the kind, what the instance belongs to, and what mends it.
impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Origins {
            launch_template,
            auto_scaling_group,
            eks_cluster,
            eks_node_group,
            fleet,
            spot_fleet,
            beanstalk_environment,
            operator,
            image_id,
        } = &self.origins;
        f.write_str(self.kind.as_str())?;
        let template = launch_template.as_ref().map(ToString::to_string);
        for (name, value) in [
            ("launch template", template.as_ref()),
            ("Auto Scaling group", auto_scaling_group.as_ref()),
            ("EKS cluster", eks_cluster.as_ref()),
            ("node group", eks_node_group.as_ref()),
            ("fleet", fleet.as_ref()),
            ("Spot Fleet", spot_fleet.as_ref()),
            ("environment", beanstalk_environment.as_ref()),
            ("managed by", operator.as_ref()),
            ("image", image_id.as_ref()),
        ] {
            if let Some(value) = value {
                write!(f, ", {name} {value}")?;
            }
        }
        write!(f, "; {}", self.mend)
    }
}

/// Where the kind was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// The call that the event records.
    Event,
    /// The instance's description: its tags, its operator.
    Description,
    /// Nothing.
    None,
}

/// What an instance belongs to, as its tags and the call name it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Origins {
    /// The launch template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launch_template: Option<LaunchTemplate>,
    /// The Auto Scaling group's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_scaling_group: Option<String>,
    /// The EKS cluster's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eks_cluster: Option<String>,
    /// The managed node group's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eks_node_group: Option<String>,
    /// The EC2 Fleet's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fleet: Option<String>,
    /// The Spot Fleet's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spot_fleet: Option<String>,
    /// The Elastic Beanstalk environment's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beanstalk_environment: Option<String>,
    /// The service that manages the instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    /// The image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_id: Option<String>,
}

/// Longest text that is taken over: a tag's value has at most 256 characters.
const TEXT_CHARS: usize = 256;

impl Origins {
    fn of(instance: &Instance, origin: Option<&Origin>) -> Self {
        let clip = |text: &String| text.chars().take(TEXT_CHARS).collect::<String>();
        let tag = |key: &str| instance.tags.get(key).map(clip);
        let named_by_call = origin.and_then(|origin| match &origin.call {
            Call::RunInstances { launch_template, .. } => launch_template.clone(),
            Call::ModifyInstanceMetadataOptions { .. } => None,
        });
        let tagged = tag("aws:ec2launchtemplate:id").map(|id| LaunchTemplate {
            id: Some(id),
            name: None,
            version: tag("aws:ec2launchtemplate:version"),
        });
        Self {
            launch_template: tagged.or(named_by_call),
            auto_scaling_group: tag("aws:autoscaling:groupName"),
            eks_cluster: ["eks:cluster-name", "aws:eks:cluster-name", "eks:eks-cluster-name"].into_iter().find_map(tag),
            eks_node_group: tag("eks:nodegroup-name"),
            fleet: tag("aws:ec2:fleet-id"),
            spot_fleet: tag("aws:ec2spot:fleet-request-id"),
            beanstalk_environment: tag("elasticbeanstalk:environment-name"),
            operator: instance.managed_by.as_ref().map(clip),
            image_id: instance.image_id.clone(),
        }
    }
}

/// Why the tokens of `instance`, of `region`, are or were not required; `origin` is the call by
/// which an event named it.
#[must_use]
pub fn cause(instance: &Instance, origin: Option<&Origin>, region: &str) -> Cause {
    let origins = Origins::of(instance, origin);
    let asked_for = origin.and_then(|origin| kind_by_request(origin, instance));
    let caller = origin.filter(|it| is_responsible(it, instance)).map(|it| it.caller.clone()).unwrap_or_default();
    let (kind, evidence) = asked_for
        .map(|kind| (kind, Evidence::Event))
        .or_else(|| kind_by_description(&origins, instance).map(|kind| (kind, Evidence::Description)))
        .or_else(|| kind_by_service(caller.service.as_deref()?).map(|kind| (kind, Evidence::Event)))
        .or_else(|| kind_by_template(&origins, instance))
        .or_else(|| kind_by_caller(origin?, &caller).map(|kind| (kind, Evidence::Event)))
        .unwrap_or((Kind::Unknown, Evidence::None));
    let commands = mend::commands(kind, &origins, &instance.metadata_options, region);
    let (role, session) = caller.actor.as_deref().and_then(role_and_session).unzip();
    let unknown = || "unknown".to_owned();
    Cause {
        kind,
        evidence,
        actor: caller.actor.unwrap_or_else(unknown),
        role,
        session,
        service: caller.service,
        source_address: caller.source_address.unwrap_or_else(unknown),
        origins,
        mend: mend::words(kind),
        commands,
    }
}

/// Whether the call launched the instance with tokens required: what it has now, it got later.
fn launched_with_tokens_required(origin: &Origin, instance: &Instance) -> bool {
    match &origin.call {
        Call::RunInstances { at_launch, .. } => at_launch.required.contains(&instance.id),
        Call::ModifyInstanceMetadataOptions { .. } => false,
    }
}

/// Whether the caller is who left tokens not required: not who launched the instance with tokens
/// required, and not who changed another option.
fn is_responsible(origin: &Origin, instance: &Instance) -> bool {
    match &origin.call {
        Call::RunInstances { .. } => !launched_with_tokens_required(origin, instance),
        call @ Call::ModifyInstanceMetadataOptions { .. } => call.loosens(),
    }
}

/// The kind, if the call itself asked for what is wrong.
fn kind_by_request(origin: &Origin, instance: &Instance) -> Option<Kind> {
    match &origin.call {
        Call::RunInstances { .. } if launched_with_tokens_required(origin, instance) => Some(Kind::Modification),
        // A service asks for what a group, a fleet or a template of the account's says.
        Call::RunInstances { http_tokens, .. } if origin.caller.service.is_none() => {
            http_tokens.as_ref().is_some_and(|tokens| tokens != "required").then_some(Kind::LaunchCall)
        }
        Call::RunInstances { .. } => None,
        call @ Call::ModifyInstanceMetadataOptions { .. } => call.loosens().then_some(Kind::Modification),
    }
}

/// The kind, by what the instance's description says that it belongs to, the most special first.
fn kind_by_description(origins: &Origins, instance: &Instance) -> Option<Kind> {
    let is_of_batch = instance.tags.contains_key("AWSBatchServiceTag");
    let facts = [
        (origins.operator.is_some(), Kind::Service),
        (origins.beanstalk_environment.is_some(), Kind::ElasticBeanstalk),
        (is_of_batch, Kind::Batch),
        (origins.eks_node_group.is_some(), Kind::EksNodeGroup),
        (origins.auto_scaling_group.is_some(), Kind::AutoScalingGroup),
        (origins.fleet.is_some(), Kind::Ec2Fleet),
        (origins.spot_fleet.is_some(), Kind::Spot),
    ];
    facts.into_iter().find_map(|(holds, kind)| holds.then_some(kind))
}

/// The kind, by a service that launches what the account has configured there: that is to be mended,
/// also where the service launched from a template.
fn kind_by_service(service: &str) -> Option<Kind> {
    match service {
        "batch.amazonaws.com" => Some(Kind::Batch),
        "elasticbeanstalk.amazonaws.com" => Some(Kind::ElasticBeanstalk),
        "spot.amazonaws.com" | "spotfleet.amazonaws.com" => Some(Kind::Spot),
        "ec2fleet.amazonaws.com" => Some(Kind::Ec2Fleet),
        "autoscaling.amazonaws.com" => Some(Kind::AutoScalingGroup),
        _ => None,
    }
}

/// The launch template, if the instance's tags or the call name one.
fn kind_by_template(origins: &Origins, instance: &Instance) -> Option<(Kind, Evidence)> {
    origins.launch_template.as_ref()?;
    let is_tagged = instance.tags.contains_key("aws:ec2launchtemplate:id");
    Some((Kind::LaunchTemplate, if is_tagged { Evidence::Description } else { Evidence::Event }))
}

/// The kind, by who called for a launch that did not ask for it, or what decided in its place.
fn kind_by_caller(origin: &Origin, caller: &Caller) -> Option<Kind> {
    let Call::RunInstances { is_whole, spot, .. } = &origin.call else { return None };
    match caller.service {
        Some(_) => Some(Kind::Service),
        None if *spot && !is_whole => Some(Kind::Spot),
        None => is_whole.then_some(Kind::Defaults),
    }
}

/// Role and session of `arn:aws:sts::111122223333:assumed-role/<role>/<session>`.
fn role_and_session(arn: &str) -> Option<(String, String)> {
    let (_, path) = arn.split_once(":assumed-role/")?;
    let (role, session) = path.rsplit_once('/')?;
    Some((role.to_owned(), session.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::event::AtLaunch;
    use crate::instance::{InstanceState, MetadataOptions};

    const REGION: &str = "us-east-1";
    const ID: &str = "i-0123456789abcdef0";
    const GROUP: (&str, &str) = ("aws:autoscaling:groupName", "web-blue");
    const TEMPLATE: (&str, &str) = ("aws:ec2launchtemplate:id", "lt-1");

    fn instance(tags: &[(&str, &str)]) -> Instance {
        Instance {
            tags: tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            image_id: Some("ami-1".to_owned()),
            ..Instance::new(ID.parse().unwrap(), InstanceState::Running, MetadataOptions::default())
        }
    }

    fn by(service: Option<&str>, call: Call) -> Origin {
        let actor = service.unwrap_or("arn:aws:sts::111122223333:assumed-role/ci-deployer/pipeline-481");
        let caller = Caller {
            actor: Some(actor.to_owned()),
            service: service.map(str::to_owned),
            source_address: Some("198.51.100.7".to_owned()),
        };
        Origin { caller, call }
    }

    fn launch(tokens: Option<&str>) -> Call {
        Call::RunInstances {
            http_tokens: tokens.map(str::to_owned),
            launch_template: None,
            spot: false,
            is_whole: true,
            at_launch: AtLaunch::default(),
        }
    }

    fn change(tokens: Option<&str>, endpoint: Option<&str>) -> Call {
        let [http_tokens, http_endpoint] = [tokens, endpoint].map(|it| it.map(str::to_owned));
        Call::ModifyInstanceMetadataOptions { http_tokens, http_endpoint, left_open: None }
    }

    /// Kind, evidence, actor and commands, as the report spells them.
    fn reported(tags: &[(&str, &str)], origin: Option<&Origin>) -> (Value, Value, Value, String) {
        let json = serde_json::to_value(cause(&instance(tags), origin, REGION)).unwrap();
        let commands: Vec<_> =
            json["commands"].as_array().into_iter().flatten().map(|it| it.as_str().unwrap()).collect();
        (json["kind"].clone(), json["evidence"].clone(), json["actor"].clone(), commands.join("\n"))
    }

    #[test]
    fn the_call_itself_comes_first() {
        let origin = by(None, launch(Some("optional")));
        let cause = cause(&instance(&[TEMPLATE]), Some(&origin), REGION);
        assert_eq!((cause.kind, cause.evidence), (Kind::LaunchCall, Evidence::Event));
        assert_eq!((cause.role.as_deref(), cause.session.as_deref()), (Some("ci-deployer"), Some("pipeline-481")));
        assert_eq!(cause.source_address, "198.51.100.7");
        assert_eq!(cause.belongs_to(), None);
        assert!(cause.mend.contains("--metadata-options HttpTokens=required"));
    }

    #[test]
    fn what_a_service_asked_for_is_what_the_account_asked_of_it() {
        let origin = by(Some("autoscaling.amazonaws.com"), launch(Some("optional")));
        let (kind, evidence, actor, commands) = reported(&[GROUP, TEMPLATE], Some(&origin));
        assert_eq!((kind, evidence), (json!("auto_scaling_group"), json!("description")));
        assert_eq!(actor, "autoscaling.amazonaws.com");
        assert!(commands.contains("modify-launch-template") && commands.contains("--auto-scaling-group-name web-blue"));
    }

    #[test]
    fn tags_name_what_an_instance_belongs_to_the_most_special_first() {
        let fleet = ("aws:ec2:fleet-id", "fleet-1");
        for (tags, kind, command) in [
            (
                &[("elasticbeanstalk:environment-name", "shop"), GROUP][..],
                "elastic_beanstalk",
                "--environment-name shop",
            ),
            (&[("AWSBatchServiceTag", "batch"), GROUP], "batch", ""),
            (&[("eks:nodegroup-name", "n"), ("eks:cluster-name", "c"), GROUP], "eks_node_group", "--nodegroup-name n"),
            (&[GROUP], "auto_scaling_group", "describe-auto-scaling-groups"),
            (&[fleet, TEMPLATE], "ec2_fleet", "--launch-template-id lt-1"),
            (&[("aws:ec2spot:fleet-request-id", "sfr-1")], "spot", ""),
            (&[TEMPLATE], "launch_template", "--launch-template-id lt-1"),
        ] {
            let (found, evidence, actor, commands) = reported(tags, None);
            assert_eq!((found, evidence, actor), (json!(kind), json!("description"), json!("unknown")));
            assert!(commands.contains(command), "{kind}: {commands}");
        }
        for (tags, name) in [(GROUP, "web-blue"), (fleet, "fleet-1"), (TEMPLATE, "lt-1")] {
            assert_eq!(cause(&instance(&[tags]), None, REGION).belongs_to(), Some(name));
        }
    }

    #[test]
    fn a_launch_that_asked_for_nothing_is_the_defaults() {
        let (kind, evidence, _, commands) = reported(&[], Some(&by(None, launch(None))));
        assert_eq!((kind, evidence), (json!("defaults"), json!("event")));
        assert!(commands.contains("modify-instance-metadata-defaults") && commands.contains("--image-id ami-1"));
    }

    #[test]
    fn a_launch_by_a_service_is_its_own_kind_or_the_services() {
        for (service, kind) in [("batch.amazonaws.com", "batch"), ("spotfleet.amazonaws.com", "spot")] {
            assert_eq!(reported(&[TEMPLATE], Some(&by(Some(service), launch(None)))).0, kind, "before its template");
        }
        for (service, kind) in [
            ("batch.amazonaws.com", "batch"),
            ("spot.amazonaws.com", "spot"),
            ("ec2fleet.amazonaws.com", "ec2_fleet"),
            ("workspaces.amazonaws.com", "service"),
        ] {
            assert_eq!(reported(&[], Some(&by(Some(service), launch(None)))).0, kind);
        }
        let managed = Instance { managed_by: Some("eks.amazonaws.com".to_owned()), ..instance(&[GROUP]) };
        assert_eq!(cause(&managed, None, REGION).kind, Kind::Service);
    }

    #[test]
    fn a_later_change_is_reported_with_its_actor() {
        for call in [change(Some("optional"), None), change(None, Some("enabled"))] {
            let (kind, _, actor, commands) = reported(&[GROUP], Some(&by(None, call)));
            assert_eq!(kind, "modification");
            assert!(actor.as_str().unwrap().ends_with("/pipeline-481"));
            assert!(commands.contains("--http-tokens-enforced enabled"));
        }
    }

    #[test]
    fn whoever_changed_another_option_is_not_blamed() {
        for call in [change(None, None), change(Some("required"), None), change(None, Some("disabled"))] {
            let (kind, evidence, actor, _) = reported(&[], Some(&by(None, call)));
            assert_eq!((kind, evidence, actor), (json!("unknown"), json!("none"), json!("unknown")));
        }
    }

    #[test]
    fn what_came_up_with_tokens_required_was_changed_by_somebody_unknown() {
        let mut call = launch(None);
        if let Call::RunInstances { at_launch, .. } = &mut call {
            at_launch.required.insert(ID.parse().unwrap());
        }
        let (kind, _, actor, _) = reported(&[GROUP], Some(&by(None, call)));
        assert_eq!((kind, actor), (json!("modification"), json!("unknown")));
    }

    #[test]
    fn what_nothing_says_is_unknown() {
        let mut cut = launch(None);
        if let Call::RunInstances { is_whole, .. } = &mut cut {
            *is_whole = false;
        }
        for origin in [None, Some(&by(None, cut))] {
            let (kind, evidence, _, commands) = reported(&[], origin);
            assert_eq!((kind, evidence, commands.as_str()), (json!("unknown"), json!("none"), ""));
        }
    }

    #[test]
    fn long_texts_are_cut() {
        let long = "x".repeat(100_000);
        let json = serde_json::to_string(&cause(&instance(&[(GROUP.0, &long)]), None, REGION)).unwrap();
        assert!(json.len() < 4 * TEXT_CHARS + 2000);
    }
}
