//! What an instance belongs to, by its tags: those of its description, and those that the call which
//! launched it asked for or answered with.

use serde::Serialize;

use super::{Evidence, Kind};
use crate::event::{AtLaunch, Call, LaunchTemplate, Origin};
use crate::instance::Instance;

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
    /// The name of Karpenter's `EC2NodeClass`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub karpenter_node_class: Option<String>,
    /// The name of Karpenter's `NodePool`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub karpenter_node_pool: Option<String>,
    /// The EMR cluster's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emr_cluster: Option<String>,
    /// The EC2 Fleet's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fleet: Option<String>,
    /// The Spot Fleet's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spot_fleet: Option<String>,
    /// The Elastic Beanstalk environment's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beanstalk_environment: Option<String>,
    /// The CloudFormation stack's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
    /// The service that manages the instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    /// The image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_id: Option<String>,
}

/// Longest text that is taken over: a tag's value has at most 256 characters.
pub(super) const TEXT_CHARS: usize = 256;

pub(super) fn clip(text: &str) -> String {
    text.chars().take(TEXT_CHARS).collect()
}

const STACK: &str = "aws:cloudformation:stack-name";
const BATCH: &str = "AWSBatchServiceTag";
const BEANSTALK_ENVIRONMENT: &str = "elasticbeanstalk:environment-name";
const EMR_CLUSTER: &str = "aws:elasticmapreduce:job-flow-id";
const EKS_CLUSTER: [&str; 3] = ["eks:cluster-name", "aws:eks:cluster-name", "eks:eks-cluster-name"];
const EKS_NODE_GROUP: &str = "eks:nodegroup-name";
const NODE_CLASS: &str = "karpenter.k8s.aws/ec2nodeclass";
/// A pool was called a provisioner before.
const NODE_POOL: [&str; 2] = ["karpenter.sh/nodepool", "karpenter.sh/provisioner-name"];
const GROUP: &str = "aws:autoscaling:groupName";
const FLEET: &str = "aws:ec2:fleet-id";
const SPOT_FLEET: &str = "aws:ec2spot:fleet-request-id";
const TEMPLATE: &str = "aws:ec2launchtemplate:id";
const TEMPLATE_VERSION: &str = "aws:ec2launchtemplate:version";

/// The kinds that a tag alone shows, the most special first. What is undone by a controller is named as
/// that controller, and a group or a fleet comes before the stack that declares it.
const BY_TAG: [(&[&str], Kind); 9] = [
    (&[BEANSTALK_ENVIRONMENT], Kind::ElasticBeanstalk),
    (&[BATCH], Kind::Batch),
    (&[EMR_CLUSTER], Kind::Emr),
    (&[NODE_CLASS, NODE_POOL[0], NODE_POOL[1]], Kind::Karpenter),
    (&[EKS_NODE_GROUP], Kind::EksNodeGroup),
    (&[GROUP], Kind::AutoScalingGroup),
    (&[FLEET], Kind::Ec2Fleet),
    (&[SPOT_FLEET], Kind::Spot),
    (&[STACK], Kind::CloudFormation),
];

/// The tags of an instance, wherever they are known from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tags<'a> {
    instance: &'a Instance,
    at_launch: Option<&'a AtLaunch>,
}

impl<'a> Tags<'a> {
    pub(super) fn of(instance: &'a Instance, origin: Option<&'a Origin>) -> Self {
        let at_launch = origin.and_then(|origin| match &origin.call {
            Call::RunInstances { at_launch, .. } => Some(at_launch),
            Call::ModifyInstanceMetadataOptions { .. } => None,
        });
        Self { instance, at_launch }
    }

    /// The value of a tag, and where it is known from: the description comes first, then the answer of
    /// the call, then what it asked for.
    fn get(&self, key: &str) -> Option<(&'a String, Evidence)> {
        let described = self.instance.tags.get(key).map(|value| (value, Evidence::Description));
        described.or_else(|| {
            let at_launch = self.at_launch?;
            let answered = at_launch.answered_tags.get(&self.instance.id).and_then(|tags| tags.get(key));
            Some((answered.or_else(|| at_launch.requested_tags.get(key))?, Evidence::Event))
        })
    }

    fn text(&self, key: &str) -> Option<String> {
        self.get(key).map(|(value, _)| clip(value))
    }

    /// The kind that a tag shows by itself, the most special first.
    pub(super) fn kind(&self) -> Option<(Kind, Evidence)> {
        let evidence = |keys: &[&str]| {
            let found = keys.iter().filter_map(|key| self.get(key));
            found.map(|(_, evidence)| evidence).min_by_key(|evidence| *evidence == Evidence::Event)
        };
        BY_TAG.iter().find_map(|(keys, kind)| evidence(keys).map(|evidence| (*kind, evidence)))
    }

    /// Where it is known from that a launch template was launched, if a tag says.
    pub(super) fn names_template(&self) -> Option<Evidence> {
        self.get(TEMPLATE).map(|(_, evidence)| evidence)
    }
}

impl Origins {
    pub(super) fn of(instance: &Instance, origin: Option<&Origin>) -> Self {
        let tags = Tags::of(instance, origin);
        let tag = |key: &str| tags.text(key);
        let named_by_call = origin.and_then(|origin| match &origin.call {
            Call::RunInstances { launch_template, .. } => launch_template.clone(),
            Call::ModifyInstanceMetadataOptions { .. } => None,
        });
        let tagged =
            tag(TEMPLATE).map(|id| LaunchTemplate { id: Some(id), name: None, version: tag(TEMPLATE_VERSION) });
        Self {
            launch_template: tagged.or(named_by_call),
            auto_scaling_group: tag(GROUP),
            eks_cluster: EKS_CLUSTER.into_iter().find_map(tag),
            eks_node_group: tag(EKS_NODE_GROUP),
            karpenter_node_class: tag(NODE_CLASS),
            karpenter_node_pool: NODE_POOL.into_iter().find_map(tag),
            emr_cluster: tag(EMR_CLUSTER),
            fleet: tag(FLEET),
            spot_fleet: tag(SPOT_FLEET),
            beanstalk_environment: tag(BEANSTALK_ENVIRONMENT),
            stack: tag(STACK),
            operator: instance.managed_by.as_deref().map(clip),
            image_id: instance.image_id.clone(),
        }
    }

    /// The launch template's id, if it is one: then it can stand in a query as it is.
    pub(super) fn template_id(&self) -> Option<&str> {
        let id = self.launch_template.as_ref()?.id.as_deref()?;
        let digits = id.strip_prefix("lt-")?;
        digits.bytes().all(|byte| byte.is_ascii_alphanumeric()).then_some(id)
    }

    /// The name or id of what is to be mended for a cause of this kind, if it has one.
    pub(super) fn to_be_mended(&self, kind: Kind) -> Option<&String> {
        let template = || self.launch_template.as_ref().and_then(|it| it.id.as_ref().or(it.name.as_ref()));
        match kind {
            Kind::ElasticBeanstalk => self.beanstalk_environment.as_ref(),
            Kind::Emr => self.emr_cluster.as_ref(),
            Kind::Karpenter => self.karpenter_node_class.as_ref().or(self.karpenter_node_pool.as_ref()),
            Kind::EksNodeGroup => self.eks_node_group.as_ref(),
            Kind::AutoScalingGroup => self.auto_scaling_group.as_ref(),
            Kind::Ec2Fleet => self.fleet.as_ref(),
            Kind::Spot => self.spot_fleet.as_ref(),
            Kind::CloudFormation => self.stack.as_ref(),
            Kind::Service => self.operator.as_ref(),
            Kind::LaunchTemplate => template(),
            Kind::Defaults => self.image_id.as_ref(),
            Kind::Modification | Kind::LaunchCall | Kind::Batch | Kind::Terraform | Kind::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Caller, OWNER_TAGS};
    use crate::instance::{InstanceState, MetadataOptions};

    #[test]
    fn every_tag_that_names_an_owner_is_read_and_no_other() {
        let keys = [STACK, BATCH, BEANSTALK_ENVIRONMENT, EMR_CLUSTER, EKS_NODE_GROUP, NODE_CLASS, GROUP, FLEET];
        let mut keys = [&keys[..], &EKS_CLUSTER, &NODE_POOL, &[SPOT_FLEET, TEMPLATE, TEMPLATE_VERSION]].concat();
        keys.sort_unstable();
        assert_eq!(keys, OWNER_TAGS);
    }

    #[test]
    fn the_description_comes_before_the_answer_and_the_answer_before_the_request() {
        let id = "i-0123456789abcdef0".parse().unwrap();
        let mut instance = Instance::new(id, InstanceState::Running, MetadataOptions::default());
        let tags = |value: &str| [(GROUP.to_owned(), value.to_owned())].into();
        let mut at_launch = AtLaunch { requested_tags: tags("asked for"), ..AtLaunch::default() };
        let found = |instance: &Instance, at_launch: &AtLaunch| {
            let call = Call::RunInstances {
                http_tokens: None,
                launch_template: None,
                spot: false,
                is_whole: true,
                at_launch: at_launch.clone(),
            };
            let origin = Origin { caller: Caller::default(), call };
            let evidence = Tags::of(instance, Some(&origin)).kind().map(|(_, evidence)| evidence);
            (Origins::of(instance, Some(&origin)).auto_scaling_group.unwrap(), evidence.unwrap())
        };
        assert_eq!(found(&instance, &at_launch), ("asked for".to_owned(), Evidence::Event));
        at_launch.answered_tags.insert(instance.id.clone(), tags("answered"));
        assert_eq!(found(&instance, &at_launch), ("answered".to_owned(), Evidence::Event));
        instance.tags = tags("described");
        assert_eq!(found(&instance, &at_launch), ("described".to_owned(), Evidence::Description));
    }
}
