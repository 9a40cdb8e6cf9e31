//! The log of real invocations: each fact on one line, and the queries of the manual and of the
//! dashboard find there what they ask for.

use std::collections::BTreeSet;

use imds_enforcer::config::Mode;
use imds_enforcer::enforce::{InvocationError, Options, Settings};
use imds_enforcer::report::InstanceReport;
use imds_enforcer::telemetry::LINE_BYTES;
use local_ec2::LocalEc2;
use local_ec2::fault::Kind;
use serde_json::Value;

use crate::cloudwatch::{Fault, MetricsInsights};
use crate::grace::CloudWatch;
use crate::harness::*;
use crate::results::{Bus, BusFault};
use crate::samples::names;
use crate::watch::of_a_group;

/// The lines of one invocation, without those that are metrics.
async fn log_of(settings: Settings, ec2: &LocalEc2, event: &str) -> Vec<Value> {
    let enforcer = enforcer(ec2, settings).await;
    collect_log();
    drop(enforcer.handle(event, in_a_minute()).await);
    let (metrics, lines): (Vec<_>, Vec<_>) =
        log_lines().into_iter().partition(|line| line["target"] == "imds_enforcer::metrics");
    let looked_after = lines.iter().filter(|line| line["message"] == "done").count();
    assert_eq!(metrics.len(), looked_after, "metrics for each invocation that looked after instances");
    lines
}

fn sweep() -> String {
    sample("ScheduledEvent/rule")
}

/// The log of every sample in both modes, of a sweep that spares, of sweeps that watch refused calls, of
/// refusals, and of a bus that takes nothing.
async fn log_of_all() -> Vec<Value> {
    let mut lines = Vec::new();
    for name in names() {
        for settings in [settings(), observing()] {
            lines.extend(log_of(settings, &local_ec2(fleet()), &sample(&name)).await);
        }
    }
    let in_use = CloudWatch::new([id(0)]).settings(settings());
    let mut instances = old_violators(2);
    instances[0].tags.insert("aws:autoscaling:groupName".to_owned(), "web-blue".to_owned());
    lines.extend(log_of(in_use, &local_ec2(instances), &sweep()).await);
    let options = Options { enforce_since: Some(clock().date_naive()), ..Options::default() };
    let since = Settings { options, ..settings() };
    lines.extend(log_of(since, &local_ec2(old_violators(1)), &sweep()).await);
    let ec2 = local_ec2(violators(2));
    ec2.model().deny(MODIFY, Some(&id(0)));
    let denied = local_ec2([]);
    denied.model().deny(DESCRIBE, None);
    lines.extend(log_of(settings(), &denied, &sweep()).await);
    let watched = MetricsInsights::new([(id(2), "2026-11-02T08:55:00Z", 10)]);
    lines.extend(log_of(watched.settings(settings(), 1).await, &local_ec2([of_a_group(&id(2))]), &sweep()).await);
    let unwatched = watched.with(Fault::Denies);
    lines.extend(log_of(unwatched.settings(settings(), 1).await, &local_ec2([]), &sweep()).await);
    let bus = Bus::with(BusFault::Denies);
    lines.extend(log_of(bus.settings(Mode::Enforce).await, &ec2, &run_instances((0..2).map(id))).await);
    lines
}

#[tokio::test]
async fn each_fact_is_logged_once() {
    for name in names() {
        for settings in [settings(), observing()] {
            let ec2 = local_ec2(fleet());
            let report = enforcer(&ec2, observing()).await.handle(&sample(&name), in_a_minute()).await;
            let lines = log_of(settings, &ec2, &sample(&name)).await;
            let with = |message: &str| lines.iter().filter(|line| line["message"] == message).count();
            let (Ok(_) | Err(InvocationError::Incomplete(_))) = &report else {
                assert_eq!((lines.len(), with("event refused")), (1, 1), "{name}: {lines:?}");
                continue;
            };
            let report = self::report(report);
            let counts = report.counts;
            let is_quiet = |it: &&InstanceReport| {
                matches!(it.outcome.as_str(), "compliant" | "endpoint_disabled" | "gone") && it.details.cause.is_none()
            };
            let quiet = report.instances.iter().filter(is_quiet).count();
            let instances: Vec<_> = lines.iter().filter_map(|line| line["instance_id"].as_str()).collect();
            let distinct: BTreeSet<_> = instances.iter().collect();
            assert_eq!(instances.len(), counts.examined - quiet, "{name}: {lines:?}");
            assert_eq!(distinct.len(), instances.len(), "{name}: an instance has one line");
            let ignored = usize::from(report.ignored.is_some())
                + report.messages.iter().filter(|message| message.ignored.is_some()).count();
            let refused = report.messages.iter().filter(|message| message.refused.is_some()).count();
            assert_eq!((with("event ignored"), with("event refused")), (ignored, refused), "{name}");
            assert_eq!(with("done"), usize::from(report.ignored.is_none()), "{name}");
            assert_eq!(lines.len(), instances.len() + ignored + refused + with("done"), "{name}: {lines:?}");
            assert!(lines.iter().all(|line| line["report"].is_null()), "{name}: the report is not logged");
        }
    }
}

#[tokio::test]
async fn what_a_sweep_finds_refused_again_and_again_is_measured_apart_from_what_an_event_named() {
    let ec2 = local_ec2(violators(3));
    (0..2).for_each(|n| ec2.model().deny(MODIFY, Some(&id(n))));
    for (event, refused, in_sweep) in [(run_instances([id(0)]), Some(1), None), (sweep(), None, Some(2))] {
        let enforcer = enforcer(&ec2, settings()).await;
        collect_log();
        drop(enforcer.handle(&event, in_a_minute()).await);
        let lines = log_lines();
        let line = lines.iter().find(|line| line["target"] == "imds_enforcer::metrics").unwrap();
        let metrics: Value = serde_json::from_str(line["message"].as_str().unwrap()).unwrap();
        assert_eq!(metrics["InstancesRefused"], serde_json::json!(refused), "{metrics}");
        assert_eq!(metrics["SweepInstancesRefused"], serde_json::json!(in_sweep), "{metrics}");
    }
}

#[tokio::test]
async fn fifty_refusals_with_long_messages_and_tags_are_fifty_short_lines() {
    let mut instances = violators(50);
    for instance in &mut instances {
        for key in ["aws:autoscaling:groupName", "aws:ec2launchtemplate:id", "Name"] {
            instance.tags.insert(key.to_owned(), "\"ü".repeat(128));
        }
    }
    let ec2 = local_ec2(instances);
    let encoded = format!("You are not authorized. Encoded authorization failure message: {}", "x".repeat(100_000));
    let denial = format!(
        "<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>{encoded}</Message></Error></Errors></Response>"
    );
    let kind = Kind::Body { status: 403, text: denial };
    ec2.model().faults.add(fault(MODIFY, None, None, kind));
    let lines = log_of(settings(), &ec2, &run_instances((0..50).map(id))).await;
    let failed: Vec<_> = lines.iter().filter(|line| line["outcome"] == "failed").collect();
    assert_eq!((failed.len(), lines.len()), (50, 51));
    for line in &lines {
        assert!(line.to_string().len() <= LINE_BYTES, "{} bytes", line.to_string().len());
    }
    let error = failed[0]["error"].as_str().unwrap();
    assert!(error.starts_with("You are not authorized") && error.ends_with(" characters cut)"), "{error}");
}

/// The cells of each row of the manual's table of lines: message, levels, when, fields.
fn table_of_lines() -> Vec<Vec<String>> {
    let manual = text("events/README.md");
    let table = manual.split("| `message` |").nth(1).unwrap();
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// The names in backticks.
fn names_in(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The fields that a cell of the table names.
fn fields_of(cell: &str) -> BTreeSet<String> {
    let of_an_instance =
        ["instance_id", "outcome", "cause", "belongs_to", "actor", "no_exemption", "warnings"].map(str::to_owned);
    let mut fields = names_in(cell);
    if cell.contains("those of an instance") {
        fields.extend(of_an_instance);
    }
    fields
}

#[tokio::test]
async fn the_manual_has_every_line_with_its_level_and_its_fields() {
    const OF_EVERY_LINE: [&str; 5] = ["timestamp", "level", "message", "target", "span"];
    let rows = table_of_lines();
    let lines = log_of_all().await;
    assert_each_row_is_of_the_code(&rows);
    for line in &lines {
        let message = line["message"].as_str().unwrap();
        let row = rows.iter().find(|row| names_in(&row[0]).contains(message));
        let row = row.unwrap_or_else(|| panic!("{message} is not in the table"));
        assert!(row[1].contains(line["level"].as_str().unwrap()), "{message}: {}", line["level"]);
        let known = fields_of(&row[3]);
        let keys = line.as_object().unwrap().keys().filter(|key| !OF_EVERY_LINE.contains(&key.as_str()));
        let unknown: Vec<_> = keys.filter(|key| !known.contains(*key)).collect();
        assert!(unknown.is_empty(), "the table does not have {unknown:?} of {message}");
    }
    for row in &rows {
        let of_row: Vec<_> =
            lines.iter().filter(|line| names_in(&row[0]).contains(line["message"].as_str().unwrap())).collect();
        for field in fields_of(&row[3]).iter().filter(|_| !of_row.is_empty()) {
            let is_rare = matches!(field.as_str(), "cause" | "belongs_to" | "actor" | "no_exemption" | "warnings");
            let is_there = of_row.iter().any(|line| !line[field].is_null());
            assert!(is_there || is_rare, "no line {} has {field}", row[0]);
        }
    }
    for message in ["tokens required", "exempt", "event refused", "event ignored", "results not published", "done"] {
        assert!(lines.iter().any(|line| line["message"] == message), "{message} is not in the log");
    }
}

/// Each message of the table has a line of code, and one row.
fn assert_each_row_is_of_the_code(rows: &[Vec<String>]) {
    let code = ["src/telemetry.rs", "src/bin/imds-enforcer.rs"].map(text).concat();
    let mut messages = BTreeSet::new();
    for message in rows.iter().flat_map(|row| names_in(&row[0])) {
        assert!(code.contains(&format!("\"{message}\"")), "no line of the log says {message}");
        assert!(messages.insert(message.clone()), "{message} has two rows");
    }
}

/// One stage of a query: its command and the rest.
fn stages(query: &str) -> Vec<(&str, &str)> {
    query.split('|').map(|stage| stage.trim().split_once(' ').unwrap()).collect()
}

/// The words of a stage that are not text in quotes.
fn unquoted(stage: &str) -> Vec<String> {
    let outside: String = stage.split(['"', '\'']).step_by(2).collect::<Vec<_>>().join(" ");
    let words = outside.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '@')));
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Whether a line passes a filter: conditions joined by `and`, each `ispresent(field)`,
/// `field = "value"`, `field != "value"` or `field in ["value", …]`.
fn passes(filter: &str, line: &Value) -> bool {
    filter.split(" and ").map(str::trim).all(|condition| {
        let values: Vec<_> = condition.split(['"', '\'']).skip(1).step_by(2).collect();
        let words = unquoted(condition);
        match &words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["ispresent", field] => !line[*field].is_null(),
            [field] if condition.contains("!=") => line[*field].as_str().is_some_and(|value| !values.contains(&value)),
            [field] | [field, "in"] => line[*field].as_str().is_some_and(|value| values.contains(&value)),
            _ => panic!("a condition that is not known here: {condition}"),
        }
    })
}

/// The fields that the stages behind the filter use: neither syntax, nor what a stage names itself.
fn fields(stages: &[(&str, &str)]) -> BTreeSet<String> {
    const SYNTAX: [&str; 12] =
        ["as", "by", "asc", "desc", "count_distinct", "count", "latest", "sum", "pct", "max", "bin", "strcontains"];
    let mut named = BTreeSet::new();
    let mut fields = BTreeSet::new();
    for (command, rest) in stages {
        assert!(["fields", "filter", "stats", "sort", "limit", "display"].contains(command), "{command}");
        let words = unquoted(rest);
        named.extend(words.windows(2).filter(|pair| pair[0] == "as").map(|pair| pair[1].clone()));
        let is_field = |word: &String| {
            !SYNTAX.contains(&word.as_str()) && !word.starts_with(|c: char| c.is_ascii_digit() || c == '@')
        };
        fields.extend(words.into_iter().filter(is_field));
    }
    fields.difference(&named).cloned().collect()
}

/// The queries of the manual.
fn queries_of_the_manual() -> Vec<String> {
    text("events/README.md").lines().filter(|line| line.starts_with("filter ")).map(str::to_owned).collect()
}

/// The queries of the dashboard, whose text is JSON.
fn queries_of_the_dashboard() -> Vec<String> {
    let template = text("infra/template.yaml");
    let queries = template.split("SOURCE '${LogGroup}' | ").skip(1);
    queries.map(|rest| rest.split("\"}").next().unwrap().replace("\\\"", "\"")).collect()
}

#[test]
fn the_dashboard_shows_the_first_two_queries_of_the_manual() {
    let manual = queries_of_the_manual();
    assert_eq!(manual.len(), 9);
    assert_eq!(queries_of_the_dashboard(), manual[..2]);
}

#[tokio::test]
async fn the_caller_that_an_event_knew_is_found_although_a_sweep_comes_after_it() {
    let ec2 = local_ec2(fleet());
    let by_event = log_of(observing(), &ec2, &sample("RunInstances/auto-scaling")).await;
    let by_sweep = log_of(observing(), &ec2, &sweep()).await;
    let of = |instance: &'static str| {
        let lines = by_event.iter().chain(&by_sweep).filter(move |line| line["instance_id"] == instance);
        lines.filter(|line| line["cause"].is_string())
    };
    let manual = queries_of_the_manual();
    let stages = stages(&manual[0]);
    let [("filter", filter), ..] = &stages[..] else { panic!("{} begins with a filter", manual[0]) };
    let named: Vec<_> = of("i-0a400000000000001").collect();
    assert_eq!(named.len(), 2);
    assert_eq!(named[1]["actor"], "unknown");
    let known: Vec<_> = named.iter().filter(|line| passes(filter, line)).collect();
    assert_eq!(known.len(), 1);
    assert_eq!(known[0]["actor"], "arn:aws:sts::111122223333:assumed-role/AWSServiceRoleForAutoScaling/Autoscaling");
    // The second query counts those whose every line has an unknown caller.
    assert!(manual[1].contains("sum(strcontains(actor, \"unknown\")) as unknown_callers"));
    let unnamed: Vec<_> = of("i-0a200000000000001").collect();
    assert!(!unnamed.is_empty() && unnamed.iter().all(|line| line["actor"] == "unknown" && !passes(filter, line)));
}

#[tokio::test]
async fn every_query_finds_its_fields_in_a_real_log() {
    let lines = log_of_all().await;
    for query in queries_of_the_manual().into_iter().chain(queries_of_the_dashboard()) {
        let stages = stages(&query);
        let [("filter", filter), rest @ ..] = &stages[..] else { panic!("{query} begins with a filter") };
        // The instance that one query names stands for any.
        let filter = filter.replace("i-0a200000000000001", "i-0a100000000000001");
        let found: Vec<_> = lines.iter().filter(|line| passes(&filter, line)).collect();
        assert!(!found.is_empty(), "no line passes: {query}");
        for field in fields(rest) {
            let is_there = found.iter().any(|line| !line[&field].is_null());
            assert!(is_there, "{field} of {query} is in no line that passes its filter");
        }
        for value in filter.split(['"', '\'']).skip(1).step_by(2) {
            let has =
                |line: &Value| ["outcome", "class", "instance_id", "actor"].iter().any(|field| line[field] == value);
            assert!(lines.iter().any(has), "{value} of {query}");
        }
    }
}
