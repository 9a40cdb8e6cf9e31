//! What is to be mended: the kinds of causes, and their words in a report.

use serde::{Serialize, Serializer};

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
    /// A cluster of EMR.
    Emr,
    /// Karpenter, which launches from its `EC2NodeClass`.
    Karpenter,
    /// A managed node group of EKS.
    EksNodeGroup,
    /// An Auto Scaling group.
    AutoScalingGroup,
    /// An EC2 Fleet.
    Ec2Fleet,
    /// A Spot request or Spot Fleet.
    Spot,
    /// An instance of a CloudFormation stack.
    CloudFormation,
    /// Another service of AWS, which called or manages the instance.
    Service,
    /// An instance that Terraform launched.
    Terraform,
    /// A launch template.
    LaunchTemplate,
    /// The launch asked for nothing: the account's default and the image decided.
    Defaults,
    /// Neither the event nor the instance's description says.
    Unknown,
}

impl Kind {
    /// All of them, in the order in which they are looked for.
    pub const ALL: [Self; 16] = [
        Self::Modification,
        Self::LaunchCall,
        Self::ElasticBeanstalk,
        Self::Batch,
        Self::Emr,
        Self::Karpenter,
        Self::EksNodeGroup,
        Self::AutoScalingGroup,
        Self::Ec2Fleet,
        Self::Spot,
        Self::CloudFormation,
        Self::Service,
        Self::Terraform,
        Self::LaunchTemplate,
        Self::Defaults,
        Self::Unknown,
    ];

    /// The word that the report has for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Modification => "modification",
            Self::LaunchCall => "launch_call",
            Self::ElasticBeanstalk => "elastic_beanstalk",
            Self::Batch => "batch",
            Self::Emr => "emr",
            Self::Karpenter => "karpenter",
            Self::EksNodeGroup => "eks_node_group",
            Self::AutoScalingGroup => "auto_scaling_group",
            Self::Ec2Fleet => "ec2_fleet",
            Self::Spot => "spot",
            Self::CloudFormation => "cloud_formation",
            Self::Service => "service",
            Self::Terraform => "terraform",
            Self::LaunchTemplate => "launch_template",
            Self::Defaults => "defaults",
            Self::Unknown => "unknown",
        }
    }

    /// The kind, by a service that launches what the account has configured there: that is to be mended,
    /// also where the service launched from a template.
    pub(super) fn of_service(service: &str) -> Option<Self> {
        match service {
            "batch.amazonaws.com" => Some(Self::Batch),
            "elasticbeanstalk.amazonaws.com" => Some(Self::ElasticBeanstalk),
            "elasticmapreduce.amazonaws.com" => Some(Self::Emr),
            "eks-nodegroup.amazonaws.com" => Some(Self::EksNodeGroup),
            "spot.amazonaws.com" | "spotfleet.amazonaws.com" => Some(Self::Spot),
            "ec2fleet.amazonaws.com" => Some(Self::Ec2Fleet),
            "autoscaling.amazonaws.com" => Some(Self::AutoScalingGroup),
            CLOUD_FORMATION => Some(Self::CloudFormation),
            _ => None,
        }
    }
}

/// The service that launches what the account's stacks say.
pub(super) const CLOUD_FORMATION: &str = "cloudformation.amazonaws.com";

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
