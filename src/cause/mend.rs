//! What mends a cause for good: in words, and as commands of the AWS CLI that a report suggests to
//! people. The function itself runs none of them.

use super::command::{Command, quoted};
use super::{Kind, Origins};
use crate::event::LaunchTemplate;
use crate::instance::{HttpEndpoint, HttpTokens, InstanceId, MetadataOptions};

/// Gives an instance the tokens and the endpoint back that it had `before`.
#[must_use]
pub fn undo(id: &InstanceId, before: &MetadataOptions, region: &str) -> String {
    let tokens = before.http_tokens.as_ref().unwrap_or(&HttpTokens::Optional);
    let endpoint = before.http_endpoint.as_ref().unwrap_or(&HttpEndpoint::Enabled);
    let command = Command::new("ec2 modify-instance-metadata-options", region).option("--instance-id", id.as_str());
    command.option("--http-tokens", tokens.as_str()).option("--http-endpoint", endpoint.as_str()).into_text()
}

/// What mends a cause of this kind, in words.
pub(super) fn words(kind: Kind) -> &'static str {
    match kind {
        Kind::Modification => {
            "have whoever changed the instance leave its tokens required; this makes such changes fail"
        }
        Kind::LaunchCall => {
            "have the caller ask for --metadata-options HttpTokens=required,HttpEndpoint=enabled; \
             this makes launches that ask for optional tokens fail"
        }
        Kind::ElasticBeanstalk => "disable IMDSv1 in the environment",
        Kind::Batch => "give the compute environment a launch template with HttpTokens=required, and update it",
        Kind::EksNodeGroup => {
            "give the node group a version of its own launch template with HttpTokens=required; \
             the template that EKS made from it can't be changed"
        }
        Kind::AutoScalingGroup => {
            "give the launch template a version with HttpTokens=required, and have the group use it; \
             a launch configuration can't be changed: replace it by a launch template"
        }
        Kind::Ec2Fleet | Kind::Spot => {
            "give the launch template a version with HttpTokens=required, and have the fleet or request use it"
        }
        Kind::Service => "ask whoever runs the service that launched or manages the instance",
        Kind::LaunchTemplate => {
            "give the launch template a version with HttpTokens=required, and have its users launch that version"
        }
        Kind::Defaults => {
            "the launch asked for nothing, and neither the account's default nor the image requires tokens: \
             either command mends that, the second for those who own the image"
        }
        Kind::Unknown => "look for the launch in CloudTrail's event history",
    }
}

/// What mends a cause of this kind, as commands in order; `options` are those of the instance.
pub(super) fn commands(kind: Kind, origins: &Origins, options: &MetadataOptions, region: &str) -> Vec<String> {
    match kind {
        Kind::Modification | Kind::LaunchCall => vec![refuse_optional(region)],
        Kind::ElasticBeanstalk => for_environment(origins, region),
        Kind::EksNodeGroup => for_node_group(origins, options, region),
        Kind::AutoScalingGroup => for_auto_scaling_group(origins, options, region),
        Kind::Ec2Fleet | Kind::Spot | Kind::LaunchTemplate => for_template(origins, options, region),
        Kind::Defaults => for_defaults(origins, region),
        Kind::Batch | Kind::Service | Kind::Unknown => Vec::new(),
    }
}

fn for_environment(origins: &Origins, region: &str) -> Vec<String> {
    origins.beanstalk_environment.iter().map(|it| require_by_environment(it, region)).collect()
}

fn for_node_group(origins: &Origins, options: &MetadataOptions, region: &str) -> Vec<String> {
    match (&origins.eks_cluster, &origins.eks_node_group) {
        (Some(cluster), Some(group)) => require_by_node_group(cluster, group, options, region),
        (Some(_) | None, _) => Vec::new(),
    }
}

fn for_auto_scaling_group(origins: &Origins, options: &MetadataOptions, region: &str) -> Vec<String> {
    let group = origins.auto_scaling_group.as_deref();
    let of_group = group.and_then(|group| match &origins.launch_template {
        Some(template) => follow_default_version(group, template, region),
        None => Some(show_auto_scaling_group(group, region)),
    });
    for_template(origins, options, region).into_iter().chain(of_group).collect()
}

fn for_template(origins: &Origins, options: &MetadataOptions, region: &str) -> Vec<String> {
    let template = origins.launch_template.as_ref();
    template.and_then(|template| require_by_template(template, options, region)).into_iter().collect()
}

fn for_defaults(origins: &Origins, region: &str) -> Vec<String> {
    let by_image = origins.image_id.as_ref().map(|image| require_by_image(image, region));
    [require_by_default(region)].into_iter().chain(by_image).collect()
}

/// Has launches that ask for nothing come up with tokens required.
fn require_by_default(region: &str) -> String {
    Command::new("ec2 modify-instance-metadata-defaults", region).option("--http-tokens", "required").into_text()
}

/// Has launches and changes that ask for optional tokens fail.
fn refuse_optional(region: &str) -> String {
    let command = Command::new("ec2 modify-instance-metadata-defaults", region);
    command.option("--http-tokens-enforced", "enabled").into_text()
}

/// Has launches from an image come up with tokens required.
fn require_by_image(image_id: &str, region: &str) -> String {
    let command = Command::new("ec2 modify-image-attribute", region).option("--image-id", image_id);
    command.option("--imds-support", "Value=v2.0").into_text()
}

/// Creates a version of the template that requires tokens, and has it be the default. All options
/// of the instance are named, so that none falls back to EC2's default.
fn require_by_template(template: &LaunchTemplate, options: &MetadataOptions, region: &str) -> Option<String> {
    let (option, name) = option_and_name(template)?;
    let source = template.version.as_deref().unwrap_or("$Default");
    let create = new_version(option, &quoted(name), &quoted(source), options, region);
    let command = Command::new("ec2 modify-launch-template", region).option(option, name);
    Some(command.raw("--default-version", &create).into_text())
}

/// The option that names the template, and its value.
fn option_and_name(template: &LaunchTemplate) -> Option<(&'static str, &str)> {
    let id = template.id.as_deref().map(|id| ("--launch-template-id", id));
    id.or_else(|| template.name.as_deref().map(|name| ("--launch-template-name", name)))
}

/// Creates a version of a template and answers with its number.
fn new_version(option: &str, template: &str, source: &str, options: &MetadataOptions, region: &str) -> String {
    let command = Command::new("ec2 create-launch-template-version", region).raw(option, template);
    let command = command.raw("--source-version", source).option("--launch-template-data", &launch_data(options));
    command.option("--query", "LaunchTemplateVersion.VersionNumber").option("--output", "text").substituted()
}

fn launch_data(options: &MetadataOptions) -> String {
    let limit = options.http_put_response_hop_limit.map(|limit| format!(",HttpPutResponseHopLimit={limit}"));
    let others =
        [("HttpProtocolIpv6", &options.http_protocol_ipv6), ("InstanceMetadataTags", &options.instance_metadata_tags)];
    let others = others.into_iter().filter_map(|(name, value)| Some(format!(",{name}={}", value.as_ref()?)));
    let others: String = limit.into_iter().chain(others).collect();
    format!("MetadataOptions={{HttpTokens=required,HttpEndpoint=enabled{others}}}")
}

/// Has an Auto Scaling group launch the template's default version.
fn follow_default_version(group: &str, template: &LaunchTemplate, region: &str) -> Option<String> {
    let (option, name) = option_and_name(template)?;
    let key = if option == "--launch-template-id" { "LaunchTemplateId" } else { "LaunchTemplateName" };
    let command = Command::new("autoscaling update-auto-scaling-group", region);
    let command = command.option("--auto-scaling-group-name", group);
    Some(command.option("--launch-template", &format!("{key}={name},Version=$Default")).into_text())
}

/// Shows what an Auto Scaling group launches.
fn show_auto_scaling_group(group: &str, region: &str) -> String {
    let command = Command::new("autoscaling describe-auto-scaling-groups", region);
    command.option("--auto-scaling-group-names", group).into_text()
}

/// Gives a managed node group a version of its own launch template that requires tokens. EKS
/// derives a further template from it, which is the one that instances are tagged with.
fn require_by_node_group(cluster: &str, node_group: &str, options: &MetadataOptions, region: &str) -> Vec<String> {
    let of_group = |command: Command| command.option("--cluster-name", cluster).option("--nodegroup-name", node_group);
    let describe = of_group(Command::new("eks describe-nodegroup", region));
    let ask = |field: &str| {
        let command = describe.clone().option("--query", &format!("nodegroup.launchTemplate.{field}"));
        command.option("--output", "text").substituted()
    };
    let create = new_version("--launch-template-id", "$TEMPLATE", &ask("version"), options, region);
    let update = of_group(Command::new("eks update-nodegroup-version", region));
    let update = update.raw("--launch-template", "id=$TEMPLATE,version=$VERSION").into_text();
    vec![format!("TEMPLATE={}", ask("id")), format!("VERSION={create}"), update]
}

/// Has an Elastic Beanstalk environment launch instances with tokens required.
fn require_by_environment(environment: &str, region: &str) -> String {
    let setting = "Namespace=aws:autoscaling:launchconfiguration,OptionName=DisableIMDSv1,Value=true";
    let command = Command::new("elasticbeanstalk update-environment", region);
    command.option("--environment-name", environment).option("--option-settings", setting).into_text()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGION: &str = "us-east-1";

    fn options() -> MetadataOptions {
        MetadataOptions {
            http_tokens: Some(HttpTokens::Optional),
            http_endpoint: Some(HttpEndpoint::Enabled),
            http_put_response_hop_limit: Some(3),
            http_protocol_ipv6: Some("disabled".to_owned()),
            ..MetadataOptions::default()
        }
    }

    #[test]
    fn undo_gives_back_what_was_changed_and_nothing_else() {
        let id = "i-1a2b3c4d".parse().unwrap();
        let expected = "aws ec2 modify-instance-metadata-options --region us-east-1 --instance-id i-1a2b3c4d \
                        --http-tokens optional --http-endpoint enabled";
        assert_eq!(undo(&id, &options(), REGION), expected);
        assert_eq!(undo(&id, &MetadataOptions::default(), REGION), expected);
    }

    #[test]
    fn a_template_keeps_the_options_that_the_instance_has() {
        let template = LaunchTemplate { id: Some("lt-1".to_owned()), name: None, version: Some("7".to_owned()) };
        assert_eq!(
            require_by_template(&template, &options(), REGION).unwrap(),
            "aws ec2 modify-launch-template --region us-east-1 --launch-template-id lt-1 --default-version \
             $(aws ec2 create-launch-template-version --region us-east-1 --launch-template-id lt-1 --source-version 7 \
             --launch-template-data 'MetadataOptions={HttpTokens=required,HttpEndpoint=enabled,\
             HttpPutResponseHopLimit=3,HttpProtocolIpv6=disabled}' \
             --query LaunchTemplateVersion.VersionNumber --output text)"
        );
    }

    #[test]
    fn what_others_wrote_stays_one_word_in_every_command() {
        for name in ["$(reboot)", "a b", "';reboot;'", "`reboot`", "\"a\" $TEMPLATE"] {
            for kind in [
                Kind::ElasticBeanstalk,
                Kind::EksNodeGroup,
                Kind::AutoScalingGroup,
                Kind::Spot,
                Kind::LaunchTemplate,
                Kind::Defaults,
            ] {
                let words = |name: &str| {
                    let words = commands(kind, &all_named(name), &options(), REGION).join(" ");
                    shlex::split(&words).unwrap()
                };
                let expected: Vec<_> = words("benign").iter().map(|word| word.replace("benign", name)).collect();
                assert_eq!(words(name), expected);
                assert!(expected.iter().any(|word| word.contains(name)), "{kind:?}");
            }
        }
    }

    fn all_named(name: &str) -> Origins {
        let name = || Some(name.to_owned());
        Origins {
            launch_template: Some(LaunchTemplate { id: None, name: name(), version: name() }),
            auto_scaling_group: name(),
            eks_cluster: name(),
            eks_node_group: name(),
            beanstalk_environment: name(),
            image_id: name(),
            ..Origins::default()
        }
    }

    #[test]
    fn an_auto_scaling_group_with_a_template_is_to_follow_it_and_one_without_is_shown() {
        let mut origins = Origins { auto_scaling_group: Some("web".to_owned()), ..Origins::default() };
        let commands = |origins: &Origins| commands(Kind::AutoScalingGroup, origins, &options(), REGION);
        assert_eq!(
            commands(&origins),
            ["aws autoscaling describe-auto-scaling-groups --region us-east-1 --auto-scaling-group-names web"]
        );
        origins.launch_template = Some(LaunchTemplate { id: Some("lt-1".to_owned()), name: None, version: None });
        let follow = "aws autoscaling update-auto-scaling-group --region us-east-1 --auto-scaling-group-name web \
                      --launch-template 'LaunchTemplateId=lt-1,Version=$Default'";
        assert_eq!((commands(&origins).len(), commands(&origins)[1].as_str()), (2, follow));
        origins.auto_scaling_group = None;
        assert_eq!(commands(&origins).len(), 1);
    }

    #[test]
    fn a_node_group_is_updated_only_where_its_cluster_is_known() {
        let mut origins = all_named("blue");
        let commands = |origins: &Origins| commands(Kind::EksNodeGroup, origins, &options(), REGION);
        let [template, version, update] = commands(&origins).try_into().unwrap();
        assert!(template.starts_with("TEMPLATE=$(aws eks describe-nodegroup "), "{template}");
        let create = "VERSION=$(aws ec2 create-launch-template-version --region us-east-1 --launch-template-id $TEMPLATE \
                      --source-version $(aws eks describe-nodegroup ";
        assert!(version.starts_with(create), "{version}");
        assert!(update.ends_with(" --launch-template id=$TEMPLATE,version=$VERSION"), "{update}");
        origins.eks_cluster = None;
        assert!(commands(&origins).is_empty());
    }
}
