//! Commands of the AWS CLI that a report suggests to people. The function itself runs none.
//!
//! What stands in them comes from tags and events, which others write: every word is quoted for
//! the shell it will be pasted into.

use std::borrow::Cow;

use crate::event::LaunchTemplate;
use crate::instance::{HttpEndpoint, HttpTokens, InstanceId, MetadataOptions};

/// A command, word by word.
#[derive(Debug, Clone)]
struct Command(String);

impl Command {
    fn new(service_and_action: &str, region: &str) -> Self {
        Self(format!("aws {service_and_action}")).option("--region", region)
    }

    fn option(self, name: &str, value: &str) -> Self {
        self.raw(name, &quoted(value))
    }

    /// With a value that the shell is to expand.
    fn raw(self, name: &str, value: &str) -> Self {
        Self(format!("{} {name} {value}", self.0))
    }
}

/// A word as the shell takes it; a NUL, which no shell takes, is left out.
fn quoted(word: &str) -> Cow<'_, str> {
    match shlex::try_quote(word) {
        Ok(quoted) => quoted,
        Err(_) => Cow::Owned(quoted(&word.replace('\0', "")).into_owned()),
    }
}

/// Gives an instance the tokens and the endpoint back that it had `before`.
#[must_use]
pub fn undo(id: &InstanceId, before: &MetadataOptions, region: &str) -> String {
    let tokens = before.http_tokens.as_ref().unwrap_or(&HttpTokens::Optional);
    let endpoint = before.http_endpoint.as_ref().unwrap_or(&HttpEndpoint::Enabled);
    let command = Command::new("ec2 modify-instance-metadata-options", region).option("--instance-id", id.as_str());
    command.option("--http-tokens", tokens.as_str()).option("--http-endpoint", endpoint.as_str()).0
}

/// Has launches that ask for nothing come up with tokens required.
pub(crate) fn require_by_default(region: &str) -> String {
    Command::new("ec2 modify-instance-metadata-defaults", region).option("--http-tokens", "required").0
}

/// Has launches and changes that ask for optional tokens fail.
pub(crate) fn refuse_optional(region: &str) -> String {
    Command::new("ec2 modify-instance-metadata-defaults", region).option("--http-tokens-enforced", "enabled").0
}

/// Has launches from an image come up with tokens required.
pub(crate) fn require_by_image(image_id: &str, region: &str) -> String {
    let command = Command::new("ec2 modify-image-attribute", region).option("--image-id", image_id);
    command.option("--imds-support", "Value=v2.0").0
}

/// Makes a version of the template that requires tokens, and makes it the default. All options of
/// the instance are named, so that none falls back to EC2's default.
pub(crate) fn require_by_template(
    template: &LaunchTemplate,
    options: &MetadataOptions,
    region: &str,
) -> Option<String> {
    let (option, name) = named(template)?;
    let source = template.version.as_deref().unwrap_or("$Default");
    let create = new_version(option, &quoted(name), &quoted(source), options, region);
    let command = Command::new("ec2 modify-launch-template", region).option(option, name);
    Some(command.raw("--default-version", &format!("$({create})")).0)
}

fn named(template: &LaunchTemplate) -> Option<(&'static str, &str)> {
    let id = template.id.as_deref().map(|id| ("--launch-template-id", id));
    id.or_else(|| template.name.as_deref().map(|name| ("--launch-template-name", name)))
}

fn new_version(option: &str, template: &str, source: &str, options: &MetadataOptions, region: &str) -> String {
    let command = Command::new("ec2 create-launch-template-version", region).raw(option, template);
    let command = command.raw("--source-version", source).option("--launch-template-data", &launch_data(options));
    command.option("--query", "LaunchTemplateVersion.VersionNumber").option("--output", "text").0
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
pub(crate) fn follow_default_version(group: &str, template: &LaunchTemplate, region: &str) -> Option<String> {
    let (option, name) = named(template)?;
    let key = if option == "--launch-template-id" { "LaunchTemplateId" } else { "LaunchTemplateName" };
    let command = Command::new("autoscaling update-auto-scaling-group", region);
    let command = command.option("--auto-scaling-group-name", group);
    Some(command.option("--launch-template", &format!("{key}={name},Version=$Default")).0)
}

/// Shows what an Auto Scaling group launches.
pub(crate) fn show_auto_scaling_group(group: &str, region: &str) -> String {
    let command = Command::new("autoscaling describe-auto-scaling-groups", region);
    command.option("--auto-scaling-group-names", group).0
}

/// Gives a managed node group a version of its own launch template that requires tokens. EKS makes
/// a further template from it, which is the one that instances are tagged with.
pub(crate) fn require_by_node_group(
    cluster: &str,
    node_group: &str,
    options: &MetadataOptions,
    region: &str,
) -> Vec<String> {
    let of_group = |command: Command| command.option("--cluster-name", cluster).option("--nodegroup-name", node_group);
    let describe = of_group(Command::new("eks describe-nodegroup", region));
    let ask = |field: &str| {
        let command = describe.clone().option("--query", &format!("nodegroup.launchTemplate.{field}"));
        format!("$({})", command.option("--output", "text").0)
    };
    let create = new_version("--launch-template-id", "$TEMPLATE", &ask("version"), options, region);
    let update = of_group(Command::new("eks update-nodegroup-version", region));
    vec![
        format!("TEMPLATE={}", ask("id")),
        format!("VERSION=$({create})"),
        update.raw("--launch-template", "id=$TEMPLATE,version=$VERSION").0,
    ]
}

/// Has an Elastic Beanstalk environment launch instances with tokens required.
pub(crate) fn require_by_environment(environment: &str, region: &str) -> String {
    let setting = "Namespace=aws:autoscaling:launchconfiguration,OptionName=DisableIMDSv1,Value=true";
    let command = Command::new("elasticbeanstalk update-environment", region);
    command.option("--environment-name", environment).option("--option-settings", setting).0
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
    fn what_others_wrote_is_one_word_of_the_shell_and_no_more() {
        for name in ["$(reboot)", "a b", "';reboot;'", "`reboot`", "a\nb", "\"a\"", "", "-n", "ü", "a\0b"] {
            let command = require_by_environment(name, REGION);
            let words = shlex::split(&command).unwrap();
            let at = words.iter().position(|word| word == "--environment-name").unwrap();
            assert_eq!((words[at + 1].as_str(), words.len()), (name.replace('\0', "").as_str(), 9), "{command}");
        }
    }
}
