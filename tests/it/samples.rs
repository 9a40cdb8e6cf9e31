//! Every file in `events/` is a test: handled on a local EC2 that has the instances of
//! `tests/fleet.json`, its answer and its writes are held to a snapshot.

use std::collections::BTreeMap;

use imds_enforcer::enforce::InvocationError;
use imds_enforcer::event::{self, Invocation};
use imds_enforcer::report::Report;
use local_ec2::model::Call;
use serde_json::{Value, json};

use crate::harness::*;

/// Every sample, as `<EventName>/<case>`.
pub(crate) fn names() -> Vec<String> {
    let mut names = Vec::new();
    for folder in std::fs::read_dir(root().join("events")).unwrap() {
        let folder = folder.unwrap();
        if folder.file_name() == "schema" || folder.file_name() == "README.md" {
            continue;
        }
        assert!(folder.path().is_dir(), "events/ holds folders, one a kind of event: {}", folder.path().display());
        for file in std::fs::read_dir(folder.path()).unwrap() {
            let file = file.unwrap().path();
            assert_eq!(file.extension().unwrap(), "json", "{}", file.display());
            let name = format!("{}/{}", folder.file_name().display(), file.file_stem().unwrap().display());
            names.push(name);
        }
    }
    names.sort();
    names
}

#[tokio::test]
async fn every_sample_is_answered_as_its_snapshot_says() {
    for name in names() {
        let ec2 = local_ec2(fleet());
        let result = handle(&ec2, &sample(&name)).await;
        let answer = match &result {
            Ok(answer) => serde_json::to_value(answer).unwrap(),
            Err(error) => {
                json!({"errorType": error.error_type(), "errorMessage": error.to_string(), "report": error_report(error)})
            }
        };
        let writes: Vec<_> = ec2.model().calls.iter().filter(|call| call.action == MODIFY).map(write).collect();
        let snapshot = json!({"answer": answer, "writes": sorted(writes)});
        insta::with_settings!({snapshot_path => "snapshots", prepend_module_to_snapshot => false, omit_expression => true}, {
            insta::assert_json_snapshot!(name.replace('/', "."), snapshot);
        });
    }
}

/// Each instance of a report, by id, without what the write adds.
fn without_writes(report: &Report, write_adds: &[&str]) -> BTreeMap<String, Value> {
    let instances = report.instances.iter().map(|it| serde_json::to_value(it).unwrap());
    let without = |mut instance: Value| {
        let fields = instance.as_object_mut().unwrap();
        fields.retain(|name, _| !write_adds.contains(&name.as_str()));
        (fields["instance_id"].as_str().unwrap().to_owned(), instance)
    };
    instances.map(without).collect()
}

#[tokio::test]
async fn observe_mode_says_of_every_sample_what_enforce_mode_writes_and_writes_nothing() {
    let mut compared = 0;
    for name in names() {
        let (enforced, observed) = (local_ec2(fleet()), local_ec2(fleet()));
        let function = enforcer(&observed, observing()).await;
        let reports = (handle(&enforced, &sample(&name)).await, function.handle(&sample(&name), in_a_minute()).await);
        assert_eq!(count(&observed, MODIFY), 0, "{name}");
        let (Ok(_) | Err(InvocationError::Incomplete(_)), Ok(_) | Err(InvocationError::Incomplete(_))) = &reports
        else {
            assert_eq!(reports.0, reports.1, "{name}");
            continue;
        };
        let (wrote, would) = (report(reports.0), report(reports.1));
        let mut expected = without_writes(&wrote, &["after", "undo", "time_to_enforce_ms"]);
        for instance in expected.values_mut().filter(|it| it["outcome"] == "enforced") {
            instance["outcome"] = "would_enforce".into();
        }
        assert_eq!(without_writes(&would, &[]), expected, "{name}");
        assert_eq!((would.counts.would_enforce, would.ignored), (count(&enforced, MODIFY), wrote.ignored), "{name}");
        compared += would.counts.would_enforce;
    }
    assert!(compared > 30, "{compared}");
}

#[tokio::test]
async fn every_sample_writes_nothing_when_it_is_replayed() {
    for name in names() {
        let ec2 = local_ec2(fleet());
        drop(handle(&ec2, &sample(&name)).await);
        let writes = count(&ec2, MODIFY);
        drop(handle(&ec2, &sample(&name)).await);
        assert_eq!(count(&ec2, MODIFY), writes, "{name}");
    }
}

#[test]
fn every_instance_of_the_fleet_is_in_a_sample() {
    let samples: String = names().iter().map(|name| sample(name)).collect();
    for instance in fleet() {
        assert!(samples.contains(&instance.instance_id), "{} is in no sample", instance.instance_id);
    }
}

#[test]
fn samples_are_complete_events_within_the_size_that_eventbridge_takes() {
    for name in names().iter().filter(|name| !name.starts_with("SqsBatch") && !name.starts_with("Other/no-")) {
        let event: Value = serde_json::from_str(&sample(name)).unwrap();
        for field in ["version", "id", "detail-type", "source", "account", "time", "region", "resources", "detail"] {
            assert!(!event[field].is_null(), "{name} lacks {field}");
        }
        assert!(event.to_string().len() <= 256 * 1024, "{name}");
        let region = event["region"].as_str().unwrap();
        assert!(matches!(event::read(&event.to_string(), region), Ok(Invocation::Event(_))), "{name}");
    }
}

/// The report of an invocation that failed, if there is one.
fn error_report(error: &InvocationError) -> Option<&Report> {
    match error {
        InvocationError::Incomplete(report) => Some(report),
        InvocationError::Event(_) => None,
    }
}

/// A write's parameters, without those that every call of the SDK has.
fn write(call: &Call) -> Value {
    let names = call.parameters.names().filter(|name| !matches!(*name, "Action" | "Version"));
    names.map(|name| (name.to_owned(), Value::from(call.parameters.get(name)))).collect()
}

fn sorted(mut writes: Vec<Value>) -> Vec<Value> {
    writes.sort_by_key(ToString::to_string);
    writes
}
