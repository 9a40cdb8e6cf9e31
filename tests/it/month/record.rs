//! Events as EventBridge delivers them, each made of a sample.

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::account::{Launch, Maker};
use super::clock;
use crate::harness::sample;

thread_local! {
    static SAMPLES: RefCell<BTreeMap<&'static str, Value>> = const { RefCell::new(BTreeMap::new()) };
    static SERIAL: RefCell<u64> = const { RefCell::new(0) };
}

/// A sample with an id of its own, as of an instant.
fn of_sample(name: &'static str, at: Instant) -> Value {
    let mut event = SAMPLES.with_borrow_mut(|samples| {
        samples.entry(name).or_insert_with(|| serde_json::from_str(&sample(name)).unwrap()).clone()
    });
    let serial = SERIAL.with_borrow_mut(|serial| {
        *serial += 1;
        *serial
    });
    let time = clock::time_of(at).format("%FT%TZ").to_string();
    event["id"] = format!("00000000-0000-4000-8000-{serial:012x}").into();
    event["time"] = time.as_str().into();
    if event["detail"].get("eventTime").is_some() {
        event["detail"]["eventTime"] = time.as_str().into();
        event["detail"]["eventID"] = event["id"].clone();
    }
    event
}

/// A state change.
pub(crate) fn state_change(id: &str, state: &str, at: Instant) -> Value {
    let mut event = of_sample("StateChange/running", at);
    event["resources"] = json!([format!("arn:aws:ec2:us-east-1:111122223333:instance/{id}")]);
    event["detail"] = json!({"instance-id": id, "state": state});
    event
}

/// What a schedule sends.
pub(crate) fn scheduled(at: Instant) -> Value {
    of_sample("ScheduledEvent/rule", at)
}

/// More instances than this in a launch, and CloudTrail leaves its answer out.
pub(crate) const RECORDED: usize = 30;

/// A launch, as CloudTrail records it: whole, or without its answer.
pub(crate) fn run_instances(launch: &Launch, at: Instant) -> Value {
    let maker = launch.maker;
    let mut event = of_sample("RunInstances/one", at);
    let item = event["detail"]["responseElements"]["instancesSet"]["items"][0].clone();
    let count = launch.ids.len();
    let detail = &mut event["detail"];
    set_caller(detail, maker);
    detail["requestParameters"] = request(maker, count);
    if count > RECORDED {
        detail["responseElements"] = json!({"omitted": true, "reason": "responseElements exceeds 100 KB"});
    } else {
        let items: Vec<_> = launch.ids.iter().map(|id| launched(item.clone(), id, maker)).collect();
        detail["responseElements"]["instancesSet"]["items"] = items.into();
    }
    event
}

fn set_caller(detail: &mut Value, maker: &Maker) {
    detail["userIdentity"] = json!({"type": "AssumedRole", "arn": maker.arn, "accountId": "111122223333"});
    detail["userAgent"] = maker.user_agent.into();
    detail["sourceIPAddress"] = maker.invoked_by.unwrap_or("192.0.2.44").into();
    if let Some(service) = maker.invoked_by {
        detail["userIdentity"]["invokedBy"] = service.into();
    }
}

fn request(maker: &Maker, count: usize) -> Value {
    let mut request = json!({
        "instancesSet": {"items": [{"imageId": "ami-0abcdef1234567890", "minCount": count, "maxCount": count}]},
        "instanceType": "t3.micro",
    });
    if let Some((id, version)) = maker.template {
        request["launchTemplate"] = json!({"launchTemplateId": id, "version": version});
    }
    if maker.asks {
        request["metadataOptions"] = json!({"httpTokens": maker.http_tokens, "httpEndpoint": "enabled"});
    }
    request
}

/// One instance of a launch's answer.
fn launched(mut item: Value, id: &str, maker: &Maker) -> Value {
    let tags = maker.tags.iter().map(|(key, value)| json!({"key": key, "value": value}));
    item["instanceId"] = id.into();
    item["tagSet"] = json!({"items": tags.collect::<Vec<_>>()});
    item["metadataOptions"]["httpTokens"] = maker.http_tokens.into();
    if let Some(service) = maker.managed_by {
        item["operator"] = json!({"managed": true, "principal": service});
    }
    item
}

/// A change of metadata options: what it named, and the options afterwards.
pub(crate) fn modification(id: &str, named: &[(&str, &str)], after: (&str, &str), by: &str, at: Instant) -> Value {
    let mut event = of_sample("ModifyInstanceMetadataOptions/downgrade-to-optional", at);
    let mut request = json!({"InstanceId": id});
    for (option, value) in named {
        request[*option] = (*value).into();
    }
    let detail = &mut event["detail"];
    detail["userIdentity"] = json!({"type": "AssumedRole", "arn": by, "accountId": "111122223333"});
    detail["requestParameters"] = json!({"ModifyInstanceMetadataOptionsRequest": request});
    let answer = &mut detail["responseElements"]["ModifyInstanceMetadataOptionsResponse"];
    answer["instanceId"] = id.into();
    answer["instanceMetadataOptions"]["httpTokens"] = after.0.into();
    answer["instanceMetadataOptions"]["httpEndpoint"] = after.1.into();
    event
}
