//! Why an instance's tokens are not required, and what mends that for good: for the report alone.
//!
//! This is pure. It reads the call that an event records and what describes the instance, and never
//! guesses: what neither of them says is `unknown`. No decision depends on it.

mod command;
mod kind;
pub mod mend;
mod origins;
mod words;

use std::fmt;

use serde::Serialize;

use self::kind::CLOUD_FORMATION;
pub use self::kind::Kind;
pub use self::origins::Origins;
use self::origins::{Tags, clip};
use crate::event::{Call, Caller, Origin};
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
    /// The program that called, as it names itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// The ARN of the instance profile whose credentials a modification left open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_profile: Option<String>,
    /// What the instance belongs to.
    #[serde(flatten)]
    pub origins: Origins,
    /// What mends the cause, in words.
    pub mend: &'static str,
    /// The commands that mend it, in order. There are none where no single command does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
}

impl Cause {
    /// The name or id of what is to be mended, if it has one.
    #[must_use]
    pub fn belongs_to(&self) -> Option<&str> {
        let calling_service = self.service.as_ref().filter(|_| self.kind == Kind::Service);
        self.origins.to_be_mended(self.kind).or(calling_service).map(String::as_str)
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
            karpenter_node_class,
            karpenter_node_pool,
            emr_cluster,
            fleet,
            spot_fleet,
            beanstalk_environment,
            stack,
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
            ("EC2NodeClass", karpenter_node_class.as_ref()),
            ("NodePool", karpenter_node_pool.as_ref()),
            ("EMR cluster", emr_cluster.as_ref()),
            ("fleet", fleet.as_ref()),
            ("Spot Fleet", spot_fleet.as_ref()),
            ("environment", beanstalk_environment.as_ref()),
            ("stack", stack.as_ref()),
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
    /// The event: the call that it records, or tags that this call gave.
    Event,
    /// The instance's description: its tags, its operator.
    Description,
    /// Nothing.
    None,
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
        .or_else(|| kind_by_belonging(instance, origin))
        .or_else(|| kind_by_caller(&caller).map(|kind| (kind, Evidence::Event)))
        .or_else(|| kind_by_template(&origins, instance, origin))
        .or_else(|| kind_by_launch(origin?, &caller).map(|kind| (kind, Evidence::Event)))
        .unwrap_or((Kind::Unknown, Evidence::None));
    let commands = mend::commands(kind, &origins, region);
    let instance_profile = instance.instance_profile.as_deref().filter(|_| kind == Kind::Modification);
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
        user_agent: caller.user_agent.as_deref().map(clip),
        instance_profile: instance_profile.map(clip),
        mend: words::words(kind, &origins),
        origins,
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
        call @ Call::ModifyInstanceMetadataOptions { .. } => call.is_blamed(),
    }
}

/// The kind, if the call itself asked for what is wrong.
fn kind_by_request(origin: &Origin, instance: &Instance) -> Option<Kind> {
    match &origin.call {
        Call::RunInstances { .. } if launched_with_tokens_required(origin, instance) => Some(Kind::Modification),
        Call::RunInstances { http_tokens, .. } if asks_for_itself(&origin.caller) => {
            http_tokens.as_ref().is_some_and(|tokens| tokens != "required").then_some(Kind::LaunchCall)
        }
        Call::RunInstances { .. } => None,
        call @ Call::ModifyInstanceMetadataOptions { .. } => call.is_blamed().then_some(Kind::Modification),
    }
}

/// Whether what a call asks for is its caller's own will: any other service asks for what a group, a
/// fleet or a template of the account's says, and CloudFormation hands on what a stack says.
fn asks_for_itself(caller: &Caller) -> bool {
    caller.service.as_deref().is_none_or(|service| service == CLOUD_FORMATION)
}

/// The kind, by what the instance belongs to, the most special first.
fn kind_by_belonging(instance: &Instance, origin: Option<&Origin>) -> Option<(Kind, Evidence)> {
    let is_managed = instance.managed_by.is_some();
    let managed = is_managed.then_some((Kind::Service, Evidence::Description));
    managed.or_else(|| Tags::of(instance, origin).kind())
}

/// The kind, by who called, if that is the account's own way to launch.
fn kind_by_caller(caller: &Caller) -> Option<Kind> {
    match caller.service.as_deref() {
        Some(service) => Kind::of_service(service),
        None => caller.user_agent.as_deref().is_some_and(is_terraform).then_some(Kind::Terraform),
    }
}

/// Whether a program names itself as Terraform's, or as its provider's of AWS, which other programs run too.
fn is_terraform(user_agent: &str) -> bool {
    user_agent.contains("Terraform/") || user_agent.contains("terraform-provider-aws/")
}

/// The launch template, if the instance's tags or the call name one.
fn kind_by_template(origins: &Origins, instance: &Instance, origin: Option<&Origin>) -> Option<(Kind, Evidence)> {
    origins.launch_template.as_ref()?;
    Some((Kind::LaunchTemplate, Tags::of(instance, origin).names_template().unwrap_or(Evidence::Event)))
}

/// The kind, by a launch that did not ask for it: who called, or what decided in its place.
fn kind_by_launch(origin: &Origin, caller: &Caller) -> Option<Kind> {
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
    const STACK: (&str, &str) = ("aws:cloudformation:stack-name", "shop");

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
            user_agent: Some("aws-cli/2.31.0".to_owned()),
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
        Call::ModifyInstanceMetadataOptions { http_tokens, http_endpoint, left_open: None, names_another: false }
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
        assert_eq!(
            (cause.source_address.as_str(), cause.user_agent.as_deref()),
            ("198.51.100.7", Some("aws-cli/2.31.0"))
        );
        assert_eq!((cause.belongs_to(), cause.commands.len()), (None, 0));
        assert!(cause.mend.contains("--metadata-options HttpTokens=required"));
    }

    #[test]
    fn what_cloudformation_handed_on_is_asked_for_by_the_call() {
        let origin = by(Some("cloudformation.amazonaws.com"), launch(Some("optional")));
        let asked = cause(&instance(&[STACK]), Some(&origin), REGION);
        assert_eq!((asked.kind, asked.evidence), (Kind::LaunchCall, Evidence::Event));
        assert!(asked.mend.contains("update the stack"), "{}", asked.mend);
        let origin = by(Some("cloudformation.amazonaws.com"), launch(None));
        let left_out = cause(&instance(&[STACK, TEMPLATE]), Some(&origin), REGION);
        assert_eq!((left_out.kind, left_out.belongs_to()), (Kind::CloudFormation, Some("shop")));
    }

    #[test]
    fn what_a_service_asked_for_is_what_the_account_asked_of_it() {
        let origin = by(Some("autoscaling.amazonaws.com"), launch(Some("optional")));
        let (kind, evidence, actor, commands) = reported(&[GROUP, TEMPLATE], Some(&origin));
        assert_eq!((kind, evidence), (json!("auto_scaling_group"), json!("description")));
        assert_eq!(actor, "autoscaling.amazonaws.com");
        assert!(
            commands.contains("modify-launch-template") && commands.contains("--auto-scaling-group-names web-blue")
        );
    }

    #[test]
    fn tags_name_what_an_instance_belongs_to_the_most_special_first() {
        let fleet = ("aws:ec2:fleet-id", "fleet-1");
        let eks_cluster = ("eks:cluster-name", "c");
        for (tags, kind, command) in [
            (&[("elasticbeanstalk:environment-name", "shop"), GROUP, STACK][..], "elastic_beanstalk", ""),
            (&[("AWSBatchServiceTag", "batch"), GROUP], "batch", ""),
            (&[("aws:elasticmapreduce:job-flow-id", "j-1"), fleet], "emr", ""),
            (&[("karpenter.sh/nodepool", "p"), eks_cluster, fleet, TEMPLATE], "karpenter", ""),
            (&[("karpenter.k8s.aws/ec2nodeclass", "c"), fleet], "karpenter", ""),
            (&[("eks:nodegroup-name", "n"), eks_cluster, GROUP, STACK], "eks_node_group", "--nodegroup-name n"),
            (&[GROUP], "auto_scaling_group", "describe-auto-scaling-groups"),
            (&[GROUP, TEMPLATE, STACK], "auto_scaling_group", ""),
            (&[fleet, TEMPLATE], "ec2_fleet", "--launch-template-id lt-1"),
            (&[("aws:ec2spot:fleet-request-id", "sfr-1")], "spot", ""),
            (&[STACK, TEMPLATE], "cloud_formation", ""),
            (&[TEMPLATE], "launch_template", "--launch-template-id lt-1"),
        ] {
            let (found, evidence, actor, commands) = reported(tags, None);
            assert_eq!((found, evidence, actor), (json!(kind), json!("description"), json!("unknown")));
            assert!(commands.contains(command) && commands.is_empty() == command.is_empty(), "{kind}: {commands}");
        }
        for (tags, name) in [(GROUP, "web-blue"), (fleet, "fleet-1"), (TEMPLATE, "lt-1"), (STACK, "shop")] {
            assert_eq!(cause(&instance(&[tags]), None, REGION).belongs_to(), Some(name));
        }
    }

    #[test]
    fn a_launch_that_asked_for_nothing_is_the_defaults() {
        let (kind, evidence, _, commands) = reported(&[], Some(&by(None, launch(None))));
        assert_eq!((kind, evidence), (json!("defaults"), json!("event")));
        assert!(commands.contains("modify-instance-metadata-defaults") && !commands.contains("ami-1"));
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
            ("elasticmapreduce.amazonaws.com", "emr"),
            ("cloudformation.amazonaws.com", "cloud_formation"),
            ("eks-nodegroup.amazonaws.com", "eks_node_group"),
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
            assert_eq!(commands, "", "no command for one instance is for the whole Region");
        }
    }

    #[test]
    fn a_modification_names_the_instance_profile_whose_credentials_were_open() {
        let arn = "arn:aws:iam::111122223333:instance-profile/web";
        let instance = Instance { instance_profile: Some(arn.to_owned()), ..instance(&[GROUP]) };
        let profile = |call| cause(&instance, Some(&by(None, call)), REGION).instance_profile;
        assert_eq!(profile(change(Some("optional"), None)).as_deref(), Some(arn));
        assert_eq!(profile(launch(Some("optional"))), None);
    }

    #[test]
    fn terraform_is_known_by_its_user_agent_and_comes_before_the_template_it_names() {
        for (user_agent, kind) in [
            ("APN/1.0 HashiCorp/1.0 Terraform/1.9.5 (+https://www.terraform.io) aws-sdk-go-v2/1.30.3", "terraform"),
            ("terraform-provider-aws/6.2.0 aws-sdk-go-v2/1.36.5", "terraform"),
            ("aws-cli/2.31.0 md/terraform", "launch_template"),
        ] {
            let mut origin = by(None, launch(None));
            origin.caller.user_agent = Some(user_agent.to_owned());
            let (found, _, _, commands) = reported(&[TEMPLATE], Some(&origin));
            assert_eq!((found, commands.is_empty()), (json!(kind), kind == "terraform"), "{user_agent}");
            origin.caller.service = Some("autoscaling.amazonaws.com".to_owned());
            assert_eq!(reported(&[TEMPLATE], Some(&origin)).0, "auto_scaling_group", "{user_agent}");
        }
    }

    #[test]
    fn tags_of_the_event_alone_name_an_owner_and_are_told_as_evidence() {
        let pool = ("karpenter.sh/nodepool".to_owned(), "blue".to_owned());
        let node_class = ("karpenter.k8s.aws/ec2nodeclass".to_owned(), "default".to_owned());
        let mut call = launch(None);
        if let Call::RunInstances { at_launch, .. } = &mut call {
            at_launch.requested_tags.extend([pool]);
            at_launch.answered_tags.insert(ID.parse().unwrap(), [node_class].into());
        }
        let origin = by(Some("ec2fleet.amazonaws.com"), call);
        let found = cause(&instance(&[]), Some(&origin), REGION);
        assert_eq!(
            (found.kind, found.evidence, found.belongs_to()),
            (Kind::Karpenter, Evidence::Event, Some("default"))
        );
        assert_eq!(found.origins.karpenter_node_pool.as_deref(), Some("blue"));
        let described = cause(&instance(&[("karpenter.sh/nodepool", "blue")]), Some(&origin), REGION);
        assert_eq!(described.evidence, Evidence::Description);
    }

    #[test]
    fn whoever_raised_the_hop_limit_named_the_endpoint_because_ec2_asks_for_it() {
        let mut call = change(None, Some("enabled"));
        if let Call::ModifyInstanceMetadataOptions { names_another, .. } = &mut call {
            *names_another = true;
        }
        assert!(call.loosens(), "whether the endpoint was closed before is not known");
        let (kind, _, actor, _) = reported(&[GROUP], Some(&by(None, call)));
        assert_eq!((kind, actor), (json!("auto_scaling_group"), json!("unknown")));
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
        assert!(json.len() < 4 * origins::TEXT_CHARS + 4000);
    }
}
