//! The commands that causes suggest, and `undo`, run by the real AWS CLI: they do what they say they do,
//! and nothing else.

use std::process::Command;

use imds_enforcer::cause::{Cause, cause};
use imds_enforcer::event::{AtLaunch, Call, Caller, Origin};
use imds_enforcer::instance::{Instance, InstanceState, MetadataOptions};
use local_ec2::model::Instance as Ec2Instance;
use serde_json::json;

use crate::harness::*;
use crate::results::output_of;
use crate::stand_in::python;

const TEMPLATE: [(&str, &str); 2] =
    [("aws:ec2launchtemplate:id", "lt-0abcdef1234567890"), ("aws:ec2launchtemplate:version", "3")];
const GROUP: (&str, &str) = ("aws:autoscaling:groupName", "web blue");

/// The cause of an instance with these tags that a call launched which asked for nothing.
fn cause_of(tags: &[(&str, &str)]) -> Cause {
    let bare = Instance::new(id(0).parse().unwrap(), InstanceState::Running, MetadataOptions::default());
    let tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let at_launch = AtLaunch::default();
    let call = Call::RunInstances { http_tokens: None, launch_template: None, spot: false, is_whole: true, at_launch };
    let origin = Origin { caller: Caller::default(), call };
    cause(&Instance { tags, image_id: Some("ami-1".to_owned()), ..bare }, Some(&origin), REGION)
}

/// The command that a text has in parentheses, for an image of the account.
fn command_in(words: &str) -> String {
    let command = words.split("(aws ").nth(1).and_then(|rest| rest.split(')').next()).unwrap();
    format!("aws {command} --image-id ami-1 --region {REGION}")
}

#[test]
fn what_is_suggested_does_what_was_meant_and_nothing_else_when_it_is_pasted() {
    let defaults = cause_of(&[]);
    let suggested = json!({
        "template": cause_of(&TEMPLATE).commands,
        "group": cause_of(&[&TEMPLATE[..], &[GROUP]].concat()).commands,
        "group without a template": cause_of(&[GROUP]).commands,
        "image": [command_in(defaults.mend)],
        "defaults": defaults.commands,
    });
    let (agrees, output) = output_of("mended.py", &suggested);
    assert!(agrees, "{output}");
    assert_eq!(output.trim(), "28", "accounts and faults");
}

#[tokio::test]
async fn undo_gives_an_instance_back_what_it_had_and_keeps_it_so() {
    let mut before = Ec2Instance::new(&id(0));
    before.metadata_options.http_put_response_hop_limit = 3;
    let ec2 = local_ec2([before.clone()]);
    let enforced = report(handle(&ec2, &run_instances([id(0)])).await);
    assert_eq!(enforced.counts.enforced, 1);
    let undo = enforced.instances[0].details.undo.clone().unwrap();
    let mut shell = Command::new("bash");
    shell.args(["-c", "PATH=\"$0:$PATH\"; eval \"$1\""]).arg(python().parent().unwrap()).arg(undo);
    shell.env("AWS_ENDPOINT_URL_EC2", ec2.endpoint()).env("NO_PROXY", "127.0.0.1");
    shell.env("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE").env("AWS_SECRET_ACCESS_KEY", "not-a-secret");
    let output = shell.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut after = ec2.model().instances[&id(0)].metadata_options.clone();
    before.metadata_options.state.clone_into(&mut after.state);
    assert_eq!(after, before.metadata_options);
    for event in [run_instances([id(0)]), sample("ScheduledEvent/rule")] {
        assert_eq!(outcomes(&report(handle(&ec2, &event).await)), [(id(0), "exempt".to_owned())]);
    }
}
