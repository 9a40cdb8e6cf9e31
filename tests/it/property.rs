//! What holds for any input.

use std::collections::{BTreeMap, BTreeSet};

use imds_enforcer::config::Mode;
use imds_enforcer::enforce::{Answer, Enforcer, InvocationError, Settings};
use imds_enforcer::event;
use imds_enforcer::instance::{HttpEndpoint, HttpTokens, Instance, InstanceId, InstanceState, MetadataOptions};
use imds_enforcer::policy::{Decision, decide};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Map, Value};

use crate::fake::FakeEc2;
use crate::harness::*;
use crate::samples::names;

/// Handles an event on an EC2 in memory, with a minute left and no wait.
fn handle(ec2: FakeEc2, mode: Mode, json: &str) -> (Result<Answer, InvocationError>, FakeEc2) {
    let enforcer = Enforcer::new(&ec2, clock, Settings { waits: Vec::new(), ..defaults(mode) });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let result = runtime.block_on(async { enforcer.handle(json, in_a_minute()).await });
    (result, ec2)
}

fn any_json() -> impl Strategy<Value = Value> {
    let word =
        select(vec!["Records", "detail", "detail-type", "region", "omitted", "items", "i-0123456789abcdef0", ""]);
    let text = prop_oneof![any::<String>(), word.prop_map(str::to_owned)];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            btree_map(text.clone(), inner, 0..6).prop_map(|map| Value::Object(Map::from_iter(map))),
        ]
    })
}

/// A sample, with some of its values replaced by any JSON or removed.
fn mutated_sample() -> impl Strategy<Value = Value> {
    let event =
        select(names().iter().map(|name| serde_json::from_str::<Value>(&sample(name)).unwrap()).collect::<Vec<_>>());
    let change = (any::<Index>(), prop::option::of(any_json()));
    (event, vec(change, 1..4)).prop_map(|(mut event, changes)| {
        for (index, replacement) in changes {
            let pointers = pointers(&event);
            if !pointers.is_empty() {
                let pointer: &String = index.get(&pointers);
                change_at(&mut event, pointer, replacement);
            }
        }
        event
    })
}

/// JSON pointers to all values inside `value`.
fn pointers(value: &Value) -> Vec<String> {
    let inner: Vec<(String, &Value)> = match value {
        Value::Object(map) => {
            map.iter().map(|(key, value)| (key.replace('~', "~0").replace('/', "~1"), value)).collect()
        }
        Value::Array(list) => list.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    };
    let deeper = |(key, value): (String, &Value)| {
        let below = pointers(value).into_iter().map(|below| format!("/{key}{below}")).collect::<Vec<_>>();
        std::iter::once(format!("/{key}")).chain(below)
    };
    inner.into_iter().flat_map(deeper).collect()
}

fn change_at(event: &mut Value, pointer: &str, replacement: Option<Value>) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match (event.pointer_mut(parent).unwrap(), replacement) {
        (Value::Object(map), None) => drop(map.remove(&key.replace("~1", "/").replace("~0", "~"))),
        (_, replacement) => *event.pointer_mut(pointer).unwrap() = replacement.unwrap_or_default(),
    }
}

fn any_instances() -> impl Strategy<Value = BTreeMap<InstanceId, Instance>> {
    let states = select(vec!["pending", "running", "stopping", "stopped", "shutting-down", "terminated", "new-state"]);
    let words = |known: [&'static str; 3]| prop::option::of(select(known.to_vec()));
    let options = (
        words(["required", "optional", "unknown"]),
        words(["enabled", "disabled", "unknown"]),
        prop::option::of(1..=64),
        words(["enabled", "disabled", "unknown"]),
        words(["enabled", "disabled", "unknown"]),
    );
    vec((states, options), 0..12).prop_map(|instances| {
        let instances =
            instances.into_iter().enumerate().map(|(n, (state, (tokens, endpoint, hop_limit, ipv6, tags)))| {
                let id: InstanceId = id(n).parse().unwrap();
                let metadata_options = MetadataOptions {
                    state: None,
                    http_tokens: tokens.map(Into::into),
                    http_endpoint: endpoint.map(Into::into),
                    http_put_response_hop_limit: hop_limit,
                    http_protocol_ipv6: ipv6.map(Into::into),
                    instance_metadata_tags: tags.map(Into::into),
                };
                (id.clone(), Instance::new(id, state.into(), metadata_options))
            });
        instances.collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_refused_or_ignored(text in any::<String>()) {
        prop_assert!(event::read(&text, REGION).is_err() || serde_json::from_str::<Map<String, Value>>(&text).is_ok());
    }

    #[test]
    fn any_json_is_ignored_with_a_reason_or_refused_with_a_class(json in any_json()) {
        let (result, ec2) = handle(FakeEc2::default(), Mode::Enforce, &json.to_string());
        match result {
            Ok(Answer::Report(report)) => prop_assert!(report.ignored.is_some()),
            Ok(Answer::Batch { response, .. }) => prop_assert!(response.batch_item_failures.is_empty()),
            Err(error) => {
                prop_assert!(["UnreadableEvent", "WrongRegion"].contains(&error.error_type()));
                prop_assert!(!error.to_string().is_empty());
            }
        }
        prop_assert!(ec2.writes.into_inner().unwrap().is_empty());
    }

    #[test]
    fn a_mutated_event_never_panics_and_never_writes_outside_the_table(event in mutated_sample(), instances in any_instances()) {
        let before = instances.clone();
        let ec2 = FakeEc2 { instances: instances.into(), ..FakeEc2::default() };
        let (result, ec2) = handle(ec2, Mode::Enforce, &event.to_string());
        if let Err(error) = result {
            prop_assert!(["UnreadableEvent", "WrongRegion", "EnforcementIncomplete"].contains(&error.error_type()));
        }
        for id in ec2.writes.into_inner().unwrap() {
            prop_assert_eq!(decide(&before[&id], false), Decision::RequireTokens);
        }
    }

    #[test]
    fn deciding_again_after_applying_writes_nothing(instances in any_instances(), sweep in any::<bool>()) {
        let before = instances.clone();
        let event = if sweep { sample("ScheduledEvent/rule") } else { run_instances(before.keys().map(ToString::to_string)) };
        let ec2 = FakeEc2 { instances: instances.into(), ..FakeEc2::default() };
        let (first, ec2) = handle(ec2, Mode::Enforce, &event);
        prop_assert!(first.is_ok());

        let written: BTreeSet<_> = ec2.writes.lock().unwrap().drain(..).collect();
        let optional = |it: &Instance| it.metadata_options.http_tokens == Some(HttpTokens::Optional);
        let must = before.values().filter(|it| decide(it, false) == Decision::RequireTokens && (!sweep || before.is_empty() || optional(it)));
        if !before.is_empty() {
            prop_assert_eq!(&written, &must.map(|it| it.id.clone()).collect());
        }
        for (id, after) in ec2.instances.lock().unwrap().iter() {
            let before = &before[id];
            let expected = MetadataOptions {
                http_tokens: after.metadata_options.http_tokens.clone(),
                http_endpoint: after.metadata_options.http_endpoint.clone(),
                ..before.metadata_options.clone()
            };
            prop_assert_eq!(&after.metadata_options, &expected);
            if before.metadata_options.http_endpoint == Some(HttpEndpoint::Disabled) {
                prop_assert_eq!(before, after);
            }
        }

        let (second, ec2) = handle(ec2, Mode::Enforce, &event);
        prop_assert!(second.is_ok());
        prop_assert!(ec2.writes.into_inner().unwrap().is_empty());
    }

    #[test]
    fn observe_mode_would_enforce_what_enforce_mode_enforces(instances in any_instances()) {
        let event = run_instances(instances.keys().map(ToString::to_string));
        let observed = FakeEc2 { instances: instances.clone().into(), ..FakeEc2::default() };
        let (observed, ec2) = handle(observed, Mode::Observe, &event);
        prop_assert!(ec2.writes.into_inner().unwrap().is_empty());
        let (enforced, _) = handle(FakeEc2 { instances: instances.into(), ..FakeEc2::default() }, Mode::Enforce, &event);
        let as_enforced = |(id, outcome): (String, String)| (id, outcome.replace("would_enforce", "enforced"));
        let observed: Vec<_> = outcomes(&report(observed)).into_iter().map(as_enforced).collect();
        prop_assert_eq!(observed, outcomes(&report(enforced)));
    }

    #[test]
    fn no_refused_instance_keeps_another_from_being_enforced(refused in vec(any::<bool>(), 1..30)) {
        let instances = refused.iter().enumerate().map(|(n, _)| {
            let id: InstanceId = id(n).parse().unwrap();
            let metadata_options = MetadataOptions { http_tokens: Some(HttpTokens::Optional), ..MetadataOptions::default() };
            (id.clone(), Instance::new(id, InstanceState::Running, metadata_options))
        });
        let instances: BTreeMap<_, _> = instances.collect();
        let event = run_instances(instances.keys().map(ToString::to_string));
        let refused_ids: Vec<_> = instances.keys().zip(&refused).filter(|(_, refused)| **refused).map(|(id, _)| id.clone()).collect();
        let ec2 = FakeEc2 { instances: instances.into(), refused: refused_ids.clone(), ..FakeEc2::default() };
        let (result, ec2) = handle(ec2, Mode::Enforce, &event);
        prop_assert_eq!(ec2.in_flight.into_inner().unwrap(), (0, refused.len().min(8)));
        prop_assert_eq!(result.is_err(), !refused_ids.is_empty());
        let message = result.as_ref().map_or_else(ToString::to_string, |_| String::new());
        prop_assert!(refused_ids.iter().all(|id| message.contains(id.as_str())));
        let report = report(result);
        prop_assert_eq!((report.counts.enforced, report.counts.failed), (refused.len() - refused_ids.len(), refused_ids.len()));
    }
}
