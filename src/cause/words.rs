//! What mends a cause, in words: what is to be changed, where, and what cannot be undone.
//!
//! The words hold no name that others wrote, and no quotation mark, so that they fit into any message.

use super::{Kind, Origins};

/// What mends a cause of this kind, in words.
pub(super) fn words(kind: Kind, origins: &Origins) -> &'static str {
    let kept_by_stack = [Kind::LaunchCall, Kind::AutoScalingGroup, Kind::Ec2Fleet, Kind::Spot, Kind::LaunchTemplate];
    let is_of_stack = origins.stack.is_some() && kept_by_stack.contains(&kind);
    match if is_of_stack { Kind::CloudFormation } else { kind } {
        Kind::Modification => MODIFICATION,
        Kind::LaunchCall => LAUNCH_CALL,
        Kind::ElasticBeanstalk => ELASTIC_BEANSTALK,
        Kind::Batch => BATCH,
        Kind::Emr => EMR,
        Kind::Karpenter => KARPENTER,
        Kind::EksNodeGroup => EKS_NODE_GROUP,
        Kind::AutoScalingGroup if origins.template_id().is_none() => GROUP_WITHOUT_TEMPLATE,
        Kind::AutoScalingGroup => GROUP,
        Kind::Spot if origins.launch_template.is_none() => SPOT_WITHOUT_TEMPLATE,
        Kind::Ec2Fleet | Kind::Spot | Kind::LaunchTemplate => TEMPLATE,
        Kind::CloudFormation => STACK,
        Kind::Service => "ask whoever runs the service that launched or manages the instance",
        Kind::Terraform => TERRAFORM,
        Kind::Defaults => DEFAULTS,
        Kind::Unknown => "look for the launch in CloudTrail's event history",
    }
}

const MODIFICATION: &str = "\
    have whoever changed the instance leave its tokens required; to have such calls fail for everybody is a decision \
    about the whole account: a service control policy, or the Region's HttpTokensEnforced";

const LAUNCH_CALL: &str = "\
    have the caller ask for --metadata-options HttpTokens=required,HttpEndpoint=enabled; in Terraform that is \
    http_tokens in the metadata_options block of the aws_instance";

const ELASTIC_BEANSTALK: &str = "\
    set DisableIMDSv1 to true, in the namespace aws:autoscaling:launchconfiguration, where the environment is \
    configured: Beanstalk then replaces its instances, and undoes what is changed by hand in its group or template";

const BATCH: &str = "\
    give the compute environment a launch template with HttpTokens=required, and update it: Batch reads the version \
    at an update of the infrastructure alone, and undoes what is changed by hand in its groups";

const EMR: &str = "\
    start clusters with a security configuration whose InstanceMetadataServiceConfiguration has \
    MinimumInstanceMetadataServiceVersion 2; a cluster keeps the one that it was started with";

const KARPENTER: &str = "\
    set spec.metadataOptions.httpTokens to required in the EC2NodeClass, where it is kept: Karpenter makes its \
    launch templates anew from it, and replaces the nodes that differ";

const EKS_NODE_GROUP: &str = "\
    give the launch template that the node group names a version with HttpTokens=required, and the node group that \
    version, where both are declared: an update replaces its nodes and may renew their image; the template that EKS \
    made from it can't be changed";

const GROUP_WITHOUT_TEMPLATE: &str = "\
    have the group launch a version of a launch template with HttpTokens=required; a launch configuration can't be \
    changed: replace it by a launch template";

const SPOT_WITHOUT_TEMPLATE: &str = "\
    a Spot request and a Spot Fleet's launch specification have no metadata options: name a launch template with \
    HttpTokens=required in their place, or have the Region's default or the image require tokens";

const TERRAFORM: &str = "\
    have http_tokens be required in the metadata_options block of the aws_instance, or of the aws_launch_template \
    that it names, and apply: the next run may undo what is changed by hand";

const DEFAULTS: &str = "\
    the launch asked for nothing, and neither the Region's default nor the image requires tokens: the command sets \
    the default for every launch in the Region that asks for nothing, and no-preference takes that back; who owns \
    the image can have its launches require tokens (aws ec2 modify-image-attribute --imds-support Value=v2.0), which \
    can't be undone";

/// What mends what a stack declares.
const STACK: &str = "\
    set HttpTokens: required in the MetadataOptions of the instance, launch template or launch configuration in the \
    stack's template, and update the stack: what is changed by hand is undone by its next update";

/// What mends a launch template, and what the commands for it do.
const TEMPLATE: &str = "\
    give the launch template a version with HttpTokens=required: the commands make it from the latest version, and \
    have it be the default if that is the latest; whoever launches an older version, or a number, is to be given the \
    new one. If a stack, Terraform or another tool keeps the template, change it there instead";

/// What mends a group with a launch template, and what the commands for it do.
const GROUP: &str = "\
    give the launch template a version with HttpTokens=required, and have the group use it: the commands make it \
    from the latest version, have it be the default if that is the latest, and have the group launch it if the group \
    names the latest by its number; a group that names an older version, and a mixed instances policy that names \
    numbers, are left as they are: give them the new version where they are declared. If a stack, Terraform or \
    another tool keeps template or group, change them there instead";

#[cfg(test)]
mod tests {
    use super::*;

    fn of_stack(stack: Option<&str>) -> Origins {
        Origins { stack: stack.map(str::to_owned), ..Origins::default() }
    }

    #[test]
    fn what_can_not_be_undone_is_told() {
        assert!(words(Kind::Defaults, &of_stack(None)).contains("which can't be undone"));
    }

    #[test]
    fn no_words_hold_a_quotation_mark_or_a_line_break() {
        for origins in [None, Some("shop")].map(of_stack) {
            for kind in Kind::ALL {
                let words = words(kind, &origins);
                assert!(!words.contains(['"', '\n']) && !words.contains("  "), "{words}");
            }
        }
    }

    #[test]
    fn what_a_stack_declares_is_to_be_changed_there() {
        for kind in [Kind::LaunchCall, Kind::AutoScalingGroup, Kind::Ec2Fleet, Kind::Spot, Kind::CloudFormation] {
            assert!(words(kind, &of_stack(Some("shop"))).contains("update the stack"), "{kind:?}");
        }
    }
}
