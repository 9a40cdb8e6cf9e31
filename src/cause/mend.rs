//! What mends a cause for good, as commands of the AWS CLI that a report suggests to people. The
//! function itself runs none of them.
//!
//! A command is suggested only where it is safe to paste: it changes what it names and nothing else,
//! starts from what is launched today, which it looks up itself, and never makes an older version of a
//! launch template current. What a controller or a stack would undo, what replaces running instances
//! and what can't be undone is told in words alone.

use chrono::NaiveDate;
use serde_json::json;

use super::command::Command;
use super::{Kind, Origins};
use crate::event::LaunchTemplate;
use crate::instance::{HttpEndpoint, HttpTokens, InstanceId, MetadataOptions};

/// Gives an instance the tokens and the endpoint back that it had `before`. Where there are exemptions,
/// their tag comes first, with the last day of one: without it, tokens would be required again at once.
#[must_use]
pub fn undo(id: &InstanceId, before: &MetadataOptions, exemption: Option<(&str, NaiveDate)>, region: &str) -> String {
    let tokens = before.http_tokens.as_ref().unwrap_or(&HttpTokens::Optional);
    let endpoint = before.http_endpoint.as_ref().unwrap_or(&HttpEndpoint::Enabled);
    let command = Command::new("ec2 modify-instance-metadata-options", region).option("--instance-id", id.as_str());
    let command = command.option("--http-tokens", tokens.as_str()).option("--http-endpoint", endpoint.as_str());
    let exempt = exemption.map(|(tag, until)| format!("{} && ", exempt(id, tag, until, region)));
    exempt.unwrap_or_default() + &command.into_text()
}

/// Exempts an instance until a day. A tag's key that the AWS CLI's shorthand would take apart stands in
/// JSON.
fn exempt(id: &InstanceId, tag: &str, until: NaiveDate, region: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '/' | '+' | '@');
    let tags = if tag.chars().all(is_plain) {
        format!("Key={tag},Value={until} undone")
    } else {
        json!([{"Key": tag, "Value": format!("{until} undone")}]).to_string()
    };
    let command = Command::new("ec2 create-tags", region).option("--resources", id.as_str());
    command.option("--tags", &tags).into_text()
}

/// What mends a cause of this kind, as lines of the shell in order. Pasted line by line or as a whole,
/// a line whose predecessor failed changes nothing.
pub(super) fn commands(kind: Kind, origins: &Origins, region: &str) -> Vec<String> {
    let is_declared = origins.stack.is_some();
    match kind {
        Kind::EksNodeGroup => show_node_group(origins, region).into_iter().collect(),
        Kind::AutoScalingGroup | Kind::Ec2Fleet | Kind::Spot | Kind::LaunchTemplate if is_declared => Vec::new(),
        Kind::AutoScalingGroup => for_auto_scaling_group(origins, region),
        Kind::Ec2Fleet | Kind::Spot | Kind::LaunchTemplate => for_template(origins, region),
        Kind::Defaults => vec![require_by_default(region)],
        Kind::Modification
        | Kind::LaunchCall
        | Kind::ElasticBeanstalk
        | Kind::Batch
        | Kind::Emr
        | Kind::Karpenter
        | Kind::CloudFormation
        | Kind::Service
        | Kind::Terraform
        | Kind::Unknown => Vec::new(),
    }
}

fn for_auto_scaling_group(origins: &Origins, region: &str) -> Vec<String> {
    let Some(group) = &origins.auto_scaling_group else { return for_template(origins, region) };
    let Some(template) = origins.template_id() else { return vec![show_auto_scaling_group(group, region)] };
    for_template(origins, region).into_iter().chain(follow_by_number(group, template, region)).collect()
}

fn for_template(origins: &Origins, region: &str) -> Vec<String> {
    let template = origins.launch_template.as_ref().and_then(option_and_name);
    template.map(|(option, name)| require_by_template(option, name, region)).unwrap_or_default()
}

/// Has launches that ask for nothing come up with tokens required.
fn require_by_default(region: &str) -> String {
    Command::new("ec2 modify-instance-metadata-defaults", region).option("--http-tokens", "required").into_text()
}

/// The option that names the template, and its value.
fn option_and_name(template: &LaunchTemplate) -> Option<(&'static str, &str)> {
    let id = template.id.as_deref().map(|id| ("--launch-template-id", id));
    id.or_else(|| template.name.as_deref().map(|name| ("--launch-template-name", name)))
}

/// What a new version changes: it requires tokens, and keeps the other metadata options of the version
/// that it is made from. EC2 drops the snapshots of the block devices unless they are sent again. A
/// version that requires tokens already has nothing to change.
const CHANGE: &str = "LaunchTemplateVersions[?LaunchTemplateData.MetadataOptions.HttpTokens!=`\"required\"`]|[0].\
                      LaunchTemplateData.{MetadataOptions:merge(MetadataOptions||`{}`,{HttpTokens:`\"required\"`}),\
                      BlockDeviceMappings:BlockDeviceMappings||`[]`}";

/// The number of a described version.
const NUMBER: &str = "LaunchTemplateVersions[].VersionNumber";

/// Creates a version of the template that requires tokens, from the latest one: no other version could
/// be the source, since a new version is the latest one from then on. It is the default afterwards only
/// where its source was.
fn require_by_template(option: &str, name: &str, region: &str) -> Vec<String> {
    let of_template = |action: &str| Command::new(action, region).option(option, name);
    let describe = || of_template("ec2 describe-launch-template-versions");
    let number =
        |version: &str| describe().option("--versions", version).option("--query", NUMBER).option("--output", "text");
    let change = describe().raw("--versions", "\"$LATEST\"").option("--query", CHANGE).option("--output", "json");
    let create = of_template("ec2 create-launch-template-version").raw("--source-version", "\"$LATEST\"");
    let create = create.raw("--launch-template-data", "\"${CHANGE:?}\"");
    let create = create.option("--query", "LaunchTemplateVersion.VersionNumber").option("--output", "text");
    let follow = of_template("ec2 modify-launch-template").raw("--default-version", "\"${CREATED:?}\"");
    vec![
        number("$Latest").kept_as("LATEST"),
        number("$Default").kept_as("DEFAULT"),
        // EC2 answers with a state of the options, which a request can't have.
        change.without_lines_of("\"State\"").kept_as("CHANGE"),
        create.kept_as("CREATED"),
        follow.only_if("\"$DEFAULT\" = \"$LATEST\""),
    ]
}

/// Has an Auto Scaling group launch the version that was created, if it launches the version that this
/// one was made from, and names it by its number. A group that names `$Latest` or `$Default` needs no
/// change, and one with a mixed instances policy would lose it.
fn follow_by_number(group: &str, template: &str, region: &str) -> [String; 2] {
    let query = format!(
        "\"AutoScalingGroups[?LaunchTemplate.LaunchTemplateId=='{template}' && LaunchTemplate.Version=='$LATEST']\
         .AutoScalingGroupName\""
    );
    let find = Command::new("autoscaling describe-auto-scaling-groups", region);
    let find = find.option("--auto-scaling-group-names", group).raw("--query", &query).option("--output", "text");
    let update = Command::new("autoscaling update-auto-scaling-group", region);
    let update = update.raw("--auto-scaling-group-name", "\"$GROUP\"");
    let update = update.raw("--launch-template", &format!("LaunchTemplateId={template},Version=\"${{CREATED:?}}\""));
    [find.kept_as("GROUP"), update.only_if("-n \"$GROUP\"")]
}

/// Shows what an Auto Scaling group launches.
fn show_auto_scaling_group(group: &str, region: &str) -> String {
    let command = Command::new("autoscaling describe-auto-scaling-groups", region);
    command.option("--auto-scaling-group-names", group).into_text()
}

/// Shows which launch template a managed node group names, which is another than its nodes are tagged
/// with.
fn show_node_group(origins: &Origins, region: &str) -> Option<String> {
    let command =
        Command::new("eks describe-nodegroup", region).option("--cluster-name", origins.eks_cluster.as_ref()?);
    let command = command.option("--nodegroup-name", origins.eks_node_group.as_ref()?);
    Some(command.option("--query", "nodegroup.launchTemplate").into_text())
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGION: &str = "us-east-1";

    #[test]
    fn undo_gives_back_what_was_changed_and_nothing_else() {
        let id = "i-1a2b3c4d".parse().unwrap();
        let options = MetadataOptions { http_put_response_hop_limit: Some(3), ..MetadataOptions::default() };
        let expected = "aws ec2 modify-instance-metadata-options --region us-east-1 --instance-id i-1a2b3c4d \
                        --http-tokens optional --http-endpoint enabled";
        assert_eq!(undo(&id, &options, None, REGION), expected);
        assert_eq!(undo(&id, &MetadataOptions::default(), None, REGION), expected);
        let until = NaiveDate::from_ymd_opt(2026, 11, 16).unwrap();
        for (tag, tags) in [
            ("imds-exemption", "'Key=imds-exemption,Value=2026-11-16 undone'"),
            ("a,b=c", "'[{\"Key\":\"a,b=c\",\"Value\":\"2026-11-16 undone\"}]'"),
        ] {
            let exempt = format!("aws ec2 create-tags --region us-east-1 --resources i-1a2b3c4d --tags {tags} && ");
            assert_eq!(undo(&id, &options, Some((tag, until)), REGION), exempt + expected);
        }
    }

    #[test]
    fn a_new_version_is_made_from_the_latest_whichever_version_the_instance_has() {
        let of_version = |version: Option<&str>| Origins {
            launch_template: Some(LaunchTemplate {
                id: Some("lt-1".to_owned()),
                name: None,
                version: version.map(str::to_owned),
            }),
            ..Origins::default()
        };
        let commands = |version| commands(Kind::LaunchTemplate, &of_version(version), REGION);
        let [latest, default, change, create, follow] = commands(Some("3")).try_into().unwrap();
        for version in [None, Some("12"), Some("$Latest"), Some("$Default")] {
            assert_eq!(commands(version), [&*latest, &default, &change, &create, &follow]);
        }
        assert!(latest.starts_with("LATEST=$(aws ec2 describe-launch-template-versions "), "{latest}");
        assert!(latest.contains("--versions '$Latest'") && default.contains("--versions '$Default'"));
        assert!(change.ends_with(" --output json | grep -v '\"State\"')"), "{change}");
        assert_eq!(
            create,
            "CREATED=$(aws ec2 create-launch-template-version --region us-east-1 --launch-template-id lt-1 \
             --source-version \"$LATEST\" --launch-template-data \"${CHANGE:?}\" \
             --query LaunchTemplateVersion.VersionNumber --output text)"
        );
        assert_eq!(
            follow,
            "[ \"$DEFAULT\" = \"$LATEST\" ] && aws ec2 modify-launch-template --region us-east-1 \
             --launch-template-id lt-1 --default-version \"${CREATED:?}\""
        );
    }

    #[test]
    fn what_others_wrote_stays_one_word_in_every_command() {
        for name in ["$(reboot)", "a b", "';reboot;'", "`reboot`", "\"a\" $LATEST"] {
            for kind in Kind::ALL {
                let words = |name: &str| {
                    let words = commands(kind, &all_named(name), REGION).join(" ");
                    shlex::split(&words).unwrap()
                };
                let expected: Vec<_> = words("benign").iter().map(|word| word.replace("benign", name)).collect();
                assert_eq!(words(name), expected);
                let names = ["auto_scaling_group", "eks_node_group", "ec2_fleet", "spot", "launch_template"];
                let has_name = expected.iter().any(|word| word.contains(name));
                assert_eq!(has_name, names.contains(&kind.as_str()), "{kind:?}");
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
            karpenter_node_class: name(),
            emr_cluster: name(),
            beanstalk_environment: name(),
            image_id: name(),
            ..Origins::default()
        }
    }

    #[test]
    fn an_auto_scaling_group_with_a_template_is_to_follow_it_and_one_without_is_shown() {
        let mut origins = Origins { auto_scaling_group: Some("web".to_owned()), ..Origins::default() };
        let commands = |origins: &Origins| commands(Kind::AutoScalingGroup, origins, REGION);
        let show = "aws autoscaling describe-auto-scaling-groups --region us-east-1 --auto-scaling-group-names web";
        assert_eq!(commands(&origins), [show]);
        origins.launch_template = Some(LaunchTemplate { id: Some("lt-1".to_owned()), name: None, version: None });
        let follow = "[ -n \"$GROUP\" ] && aws autoscaling update-auto-scaling-group --region us-east-1 \
                      --auto-scaling-group-name \"$GROUP\" \
                      --launch-template LaunchTemplateId=lt-1,Version=\"${CREATED:?}\"";
        assert_eq!((commands(&origins).len(), commands(&origins)[6].as_str()), (7, follow));
        origins.auto_scaling_group = None;
        assert_eq!(commands(&origins).len(), 5);
        for no_id in ["lt-1'] || `true`", "lt-\"", "web"] {
            origins.auto_scaling_group = Some("web".to_owned());
            origins.launch_template = Some(LaunchTemplate { id: Some(no_id.to_owned()), name: None, version: None });
            assert_eq!(commands(&origins), [show], "{no_id}");
        }
    }

    #[test]
    fn what_a_stack_declares_or_a_controller_undoes_has_no_command() {
        for kind in Kind::ALL {
            let mut origins = all_named("blue");
            let has_commands = |origins: &Origins| !commands(kind, origins, REGION).is_empty();
            let expected = match kind {
                Kind::AutoScalingGroup | Kind::Ec2Fleet | Kind::Spot | Kind::LaunchTemplate => (true, false),
                Kind::EksNodeGroup | Kind::Defaults => (true, true),
                Kind::Modification
                | Kind::LaunchCall
                | Kind::ElasticBeanstalk
                | Kind::Batch
                | Kind::Emr
                | Kind::Karpenter
                | Kind::CloudFormation
                | Kind::Service
                | Kind::Terraform
                | Kind::Unknown => (false, false),
            };
            let by_hand = has_commands(&origins);
            origins.stack = Some("shop".to_owned());
            assert_eq!((by_hand, has_commands(&origins)), expected, "{kind:?}");
        }
    }

    #[test]
    fn what_can_not_be_undone_is_no_command() {
        let origins = all_named("ami-1");
        let commands = Kind::ALL.into_iter().flat_map(|kind| commands(kind, &origins, REGION));
        assert!(commands.into_iter().all(|it| !it.contains("modify-image-attribute")));
    }

    #[test]
    fn a_node_group_is_shown_only_where_its_cluster_is_known() {
        let mut origins = all_named("blue");
        let commands = |origins: &Origins| commands(Kind::EksNodeGroup, origins, REGION);
        assert_eq!(
            commands(&origins),
            ["aws eks describe-nodegroup --region us-east-1 --cluster-name blue --nodegroup-name blue \
              --query nodegroup.launchTemplate"]
        );
        origins.eks_cluster = None;
        assert!(commands(&origins).is_empty());
    }
}
