//! Metrics, as a line of the log in CloudWatch's embedded metric format, which CloudWatch Logs
//! turns into metrics without a call.
//!
//! Pure. One document of a fixed shape, by CloudWatch's specification of the format; two
//! dimensions with few values, since each combination is a metric that is paid for. CloudWatch
//! charges for a metric in each hour in which it gets a value: what is zero most of the time is
//! written only where it is not zero, and what Lambda measures for nothing is not measured again.

use chrono::{DateTime, Utc};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::config::Mode;
use crate::report::Counts;

/// CloudWatch's namespace of these metrics.
pub const NAMESPACE: &str = "ImdsEnforcer";

/// Most values of one metric in a document: CloudWatch's limit.
const VALUES: usize = 100;

/// What was measured in one invocation.
#[derive(Debug, Clone)]
pub struct Measurements<'a> {
    /// The function's name.
    pub function_name: &'a str,
    /// Its mode.
    pub mode: Mode,
    /// The time of the measurement.
    pub at: DateTime<Utc>,
    /// The instances by outcome.
    pub counts: Counts,
    /// The instances that events report as new, that failed and whose failure does not pass by itself.
    pub refused: usize,
    /// The same of those that a sweep found or that only started again. They are found so each time, so
    /// that they are no news.
    pub refused_again: usize,
    /// Violators that a sweep left to the next.
    pub left_over: usize,
    /// The instances that refused calls without a token, where they are watched.
    pub refusing_calls: usize,
    /// Milliseconds from the event to EC2's answer, for each enforced instance that an event named.
    pub time_to_enforce_ms: &'a [u64],
    /// Requests to EC2, each attempt counted.
    pub ec2_calls: usize,
    /// How many of these EC2 throttled.
    pub ec2_throttles: usize,
    /// Results that the bus did not take.
    pub unpublished: usize,
}

/// The documents, each for one line of the log. More than one where there are more times than one
/// may hold.
#[must_use]
pub fn embedded(measured: &Measurements) -> Vec<String> {
    let mut chunks = measured.time_to_enforce_ms.chunks(VALUES);
    let mut first: Vec<Metric> = counts(measured);
    first.extend(chunks.next().map(times));
    let more = chunks.map(|chunk| document(measured, &[times(chunk)]));
    std::iter::once(document(measured, &first)).chain(more).collect()
}

/// A metric.
#[derive(Debug, Clone, Copy)]
struct Metric<'a> {
    name: &'static str,
    unit: &'static str,
    value: Measured<'a>,
}

/// What was measured: one value, or several.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(untagged)]
enum Measured<'a> {
    One(u64),
    Several(&'a [u64]),
}

fn count(name: &'static str, count: usize) -> Metric<'static> {
    Metric { name, unit: "Count", value: Measured::One(count as u64) }
}

/// Those that tell of each invocation, and of the others those that are not zero.
fn counts(measured: &Measurements) -> Vec<Metric<'static>> {
    let Counts { examined, enforced, would_enforce, created_before, exempt, in_use, failed, .. } = measured.counts;
    // Each failure is counted once: what is refused has metrics of its own.
    let tried_again = failed.saturating_sub(measured.refused + measured.refused_again);
    let always = [count("InstancesExamined", examined), count("Ec2Calls", measured.ec2_calls)];
    let unless_zero = [
        ("InstancesEnforced", enforced),
        ("InstancesWouldEnforce", would_enforce),
        ("InstancesExempt", exempt),
        ("InstancesInUse", in_use),
        ("InstancesCreatedBefore", created_before),
        ("InstancesFailed", tried_again),
        ("InstancesRefused", measured.refused),
        ("SweepInstancesRefused", measured.refused_again),
        ("InstancesLeftOver", measured.left_over),
        ("InstancesRefusingCalls", measured.refusing_calls),
        ("Ec2Throttles", measured.ec2_throttles),
        ("ResultsUnpublished", measured.unpublished),
    ];
    let found = unless_zero.into_iter().filter(|(_, value)| *value > 0);
    always.into_iter().chain(found.map(|(name, value)| count(name, value))).collect()
}

fn times(values: &[u64]) -> Metric<'_> {
    Metric { name: "TimeToEnforce", unit: "Milliseconds", value: Measured::Several(values) }
}

/// One document of the embedded metric format.
struct Document<'a> {
    measured: &'a Measurements<'a>,
    metrics: &'a [Metric<'a>],
}

impl Serialize for Document<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { measured, metrics } = self;
        let mut document = serializer.serialize_map(None)?;
        document.serialize_entry("_aws", &metadata(measured, metrics))?;
        document.serialize_entry("FunctionName", measured.function_name)?;
        document.serialize_entry("Mode", &measured.mode)?;
        for Metric { name, value, .. } in *metrics {
            document.serialize_entry(name, value)?;
        }
        document.end()
    }
}

/// The member `_aws` of a document.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Metadata {
    timestamp: i64,
    cloud_watch_metrics: [Directive; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Directive {
    namespace: &'static str,
    dimensions: [[&'static str; 2]; 1],
    metrics: Vec<Definition>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Definition {
    name: &'static str,
    unit: &'static str,
}

fn metadata(measured: &Measurements, metrics: &[Metric]) -> Metadata {
    let metrics = metrics.iter().map(|Metric { name, unit, .. }| Definition { name, unit }).collect();
    let directive = Directive { namespace: NAMESPACE, dimensions: [["FunctionName", "Mode"]], metrics };
    Metadata { timestamp: measured.at.timestamp_millis(), cloud_watch_metrics: [directive] }
}

/// No part of a document can fail to be written as JSON.
fn document(measured: &Measurements, metrics: &[Metric]) -> String {
    serde_json::to_string(&Document { measured, metrics }).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The documents of an invocation in which whatever can happen did, or nothing did.
    fn measured(all: usize, time_to_enforce_ms: &[u64]) -> Vec<Value> {
        let (would_enforce, created_before, exempt, in_use) = (4 * all, 5 * all, 6 * all, 7 * all);
        let measured = Measurements {
            function_name: "imds-enforcer",
            mode: Mode::Enforce,
            at: "2026-11-02T09:14:10Z".parse().unwrap(),
            counts: Counts {
                examined: 3,
                enforced: 2 * all,
                failed: 4 * all,
                would_enforce,
                created_before,
                exempt,
                in_use,
                ..Counts::default()
            },
            refused: all,
            refused_again: 2 * all,
            left_over: 8 * all,
            refusing_calls: 3 * all,
            time_to_enforce_ms,
            ec2_calls: 4,
            ec2_throttles: all,
            unpublished: all,
        };
        embedded(&measured).iter().map(|it| serde_json::from_str(it).unwrap()).collect()
    }

    /// The metrics that a document declares, each held to have its value or values.
    fn declared(document: &Value) -> Vec<&str> {
        let [directive] = &document["_aws"]["CloudWatchMetrics"].as_array().unwrap()[..] else {
            panic!("one directive")
        };
        assert_eq!(directive["Namespace"], NAMESPACE);
        assert_eq!(directive["Dimensions"], json!([["FunctionName", "Mode"]]));
        let metrics = directive["Metrics"].as_array().unwrap().iter();
        metrics
            .map(|metric| {
                let (name, unit) = (metric["Name"].as_str().unwrap(), metric["Unit"].as_str().unwrap());
                assert!(matches!(unit, "Count" | "Milliseconds"));
                if let Some(values) = document[name].as_array() {
                    assert!((1..=100).contains(&values.len()) && values.iter().all(Value::is_u64));
                } else {
                    assert!(document[name].is_number(), "{name} is {}", document[name]);
                }
                name
            })
            .collect()
    }

    #[test]
    fn a_document_is_in_the_embedded_metric_format() {
        let [document] = &measured(1, &[3000, 4000])[..] else { panic!("one document") };
        assert_eq!(document["_aws"]["Timestamp"], 1_793_610_850_000_u64);
        assert_eq!((&document["FunctionName"], &document["Mode"]), (&json!("imds-enforcer"), &json!("enforce")));
        assert_eq!(declared(document).len(), 15, "{document}");
        assert_eq!((&document["InstancesRefused"], &document["Ec2Calls"]), (&json!(1), &json!(4)));
        assert_eq!((&document["SweepInstancesRefused"], &document["InstancesRefusingCalls"]), (&json!(2), &json!(3)));
        assert_eq!(document["InstancesFailed"], 1, "of four failures, three are refusals");
        assert_eq!(document["TimeToEnforce"], json!([3000, 4000]));
    }

    #[test]
    fn what_is_zero_is_not_measured_since_each_hour_of_a_metric_is_paid_for() {
        let documents = measured(0, &[]);
        assert_eq!(declared(&documents[0]), ["InstancesExamined", "Ec2Calls"]);
        assert!(documents[0].get("InstancesFailed").is_none(), "{}", documents[0]);
    }

    #[test]
    fn more_times_than_a_document_may_hold_take_further_documents_and_nothing_is_counted_twice() {
        let documents = measured(1, &[5; 250]);
        assert_eq!(documents.len(), 3);
        let times: usize = documents.iter().map(|it| it["TimeToEnforce"].as_array().unwrap().len()).sum();
        assert_eq!(times, 250);
        assert!(documents[1..].iter().all(|it| declared(it) == ["TimeToEnforce"]));
    }
}
