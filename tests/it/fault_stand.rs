//! The fault stand: every kind of event under every fault, on tokio's clock.
//!
//! Whatever the cell, no instance is lost: each violator is enforced, or stands in a failure of
//! the right class that is tried again; nothing else is written to; the answer comes in time; and
//! without the fault, the same function then enforces what is left. The table of it all is in
//! `tests/README.md`.

use std::collections::BTreeMap;
use std::time::Duration;

use imds_enforcer::config::Mode;
use imds_enforcer::enforce::{Answer, InvocationError};
use imds_enforcer::report::{InstanceReport, Report};
use local_ec2::fault::{Fault, Kind};
use local_ec2::model::{Instance, Model};
use serde_json::Value;
use tokio::time::Instant;

use crate::harness::*;
use crate::in_process::InProcess;

/// What the templates give the function.
const TIME_OUT: Duration = Duration::from_mins(1);

/// How often a fault strikes that passes: fewer times than a call is tried.
const TWICE: Option<u32> = Some(2);

/// The instances of every cell: two violators, one that requires tokens, one with a closed endpoint.
fn instances() -> [Instance; 4] {
    let mut closed = Instance::new(&id(3));
    "disabled".clone_into(&mut closed.metadata_options.http_endpoint);
    [Instance::new(&id(0)), Instance::new(&id(1)), compliant(&id(2)), closed]
}

/// Each kind of event, with the ids that it names, or no ids where it has every violator found.
fn events() -> [(&'static str, String, Vec<String>); 6] {
    let all = || (0..4).map(id).collect::<Vec<_>>();
    let mut modified: Value =
        serde_json::from_str(&sample("ModifyInstanceMetadataOptions/downgrade-to-optional")).unwrap();
    modified["detail"]["requestParameters"]["ModifyInstanceMetadataOptionsRequest"]["InstanceId"] = id(0).into();
    let changes = all();
    let mut messages: Vec<_> = changes.iter().map(|id| (id.as_str(), running(id))).collect();
    messages.push(("poisoned", "{".to_owned()));
    [
        ("RunInstances", run_instances(all()), all()),
        ("RunInstances without ids", sample("RunInstances/omitted"), Vec::new()),
        ("ModifyInstanceMetadataOptions", modified.to_string(), vec![id(0)]),
        ("state change", running(&id(0)), vec![id(0)]),
        ("SQS batch", sqs(messages), all()),
        ("schedule", sample("ScheduledEvent/rule"), Vec::new()),
    ]
}

/// What a fault comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Enforced,
    Retryable,
    Refused,
    /// No such instance is there to be found, and nothing says that it must be.
    Absent,
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Enforced => "enforced",
            Self::Retryable => "failed, retryable",
            Self::Refused => "failed, refused",
            Self::Absent => "not found",
        })
    }
}

/// A fault, the action it strikes, and what it comes to when it strikes for ever.
struct Row {
    name: &'static str,
    action: &'static str,
    for_ever: End,
    inject: Inject,
}

enum Inject {
    /// This fault, as often as it is to strike.
    Call(Fault),
    /// The violators are unknown for as many calls.
    Unknown,
    /// The violators are not modifiable for as many calls.
    NotReady,
}

impl Row {
    fn inject(&self, model: &mut Model, times: Option<u32>) {
        let calls = times.unwrap_or(u32::MAX);
        let violators = model.instances.values_mut().take(2);
        match &self.inject {
            Inject::Unknown => violators.for_each(|it| it.invisible_for_calls = calls),
            Inject::NotReady => violators.for_each(|it| it.not_ready_for_calls = calls),
            Inject::Call(fault) => model.faults.add(Fault { times, ..fault.clone() }),
        }
    }
}

/// The faults that pass, each with whether it strikes after the call took effect.
fn retryable() -> [(&'static str, Kind, bool); 18] {
    let body = |status, text: &str| Kind::Body { status, text: text.to_owned() };
    let hang = || Kind::Hang { milliseconds: 60_000 };
    [
        ("`RequestLimitExceeded` (503)", error("RequestLimitExceeded", 503), false),
        ("`Throttling` (400)", error("Throttling", 400), false),
        ("`EC2ThrottledException` (400)", error("EC2ThrottledException", 400), false),
        ("`InternalError` (500)", error("InternalError", 500), false),
        ("`InternalFailure` (500)", error("InternalFailure", 500), false),
        ("`Unavailable` (503)", error("Unavailable", 503), false),
        ("`ServiceUnavailable` (503)", error("ServiceUnavailable", 503), false),
        ("500 without a body", body(500, ""), false),
        ("502 with a page of HTML", body(502, "<html><body><h1>Bad Gateway</h1></body></html>"), false),
        ("200 with garbage", body(200, "\u{0}<<garbage"), false),
        ("200 with half an answer", body(200, "<DescribeInstancesResponse><reservationSet><item>"), false),
        ("dropped connection before the effect", Kind::DropConnection, false),
        ("dropped connection after the effect", Kind::DropConnection, true),
        ("no answer before the effect", hang(), false),
        ("no answer after the effect", hang(), true),
        ("`RequestExpired` (clock skew)", error("RequestExpired", 400), false),
        ("`RequestTimeTooSkewed` (clock skew)", error("RequestTimeTooSkewed", 400), false),
        ("`ExpiredToken` (credentials)", error("ExpiredToken", 400), false),
    ]
}

/// The faults that last until somebody changes something.
fn refused() -> [(&'static str, Kind); 5] {
    [
        ("`UnauthorizedOperation` (403)", error("UnauthorizedOperation", 403)),
        ("`AuthFailure` (401)", error("AuthFailure", 401)),
        ("`OperationNotPermitted` (400)", error("OperationNotPermitted", 400)),
        ("`UnsupportedOperation` (400)", error("UnsupportedOperation", 400)),
        ("an unknown code (400)", error("NeverHeardOf", 400)),
    ]
}

fn rows() -> Vec<Row> {
    let row = |name, action, for_ever, inject| Row { name, action, for_ever, inject };
    let mut rows = Vec::new();
    for action in [DESCRIBE, MODIFY] {
        for (name, kind, after_effect) in retryable() {
            // The second look, after a write that nobody answered for five seconds, finds its effect.
            let shows = action == MODIFY && after_effect && matches!(kind, Kind::Hang { .. });
            rows.push(row(
                name,
                action,
                if shows { End::Enforced } else { End::Retryable },
                Inject::Call(Fault { after_effect, ..fault(action, None, None, kind) }),
            ));
        }
        for (name, kind) in refused() {
            rows.push(row(name, action, End::Refused, Inject::Call(fault(action, None, None, kind))));
        }
        let slow = fault(action, None, None, Kind::Delay { milliseconds: 3000 });
        rows.push(row("answers after 3 s", action, End::Enforced, Inject::Call(slow)));
    }
    rows.push(row("not modifiable yet (`IncorrectInstanceState`)", MODIFY, End::Retryable, Inject::NotReady));
    let denied = fault(MODIFY, Some(&id(0)), None, error("UnauthorizedOperation", 403));
    rows.push(row("one instance of several refused", MODIFY, End::Refused, Inject::Call(denied)));
    rows.push(row("instance unknown to EC2", DESCRIBE, End::Retryable, Inject::Unknown));
    rows
}

/// What one invocation did, whether it failed, and which messages went back to the queue.
struct Run {
    report: Report,
    failed: bool,
    messages: Vec<String>,
}

fn run(result: Result<Answer, InvocationError>) -> Run {
    let messages = match &result {
        Ok(Answer::Batch { response, .. }) => {
            response.batch_item_failures.iter().map(|it| it.item_identifier.clone()).collect()
        }
        Ok(Answer::Report(_)) | Err(_) => Vec::new(),
    };
    Run { failed: result.is_err() || !messages.is_empty(), messages, report: report(result) }
}

/// Runs a cell and answers what became of the violators that the event is about.
async fn cell(row: &Row, times: Option<u32>, kind: &str, event: &str, named: &[String]) -> End {
    let cell = format!("{kind}, {}: {} {times:?}", row.action, row.name);
    let ec2 = InProcess::new(instances());
    row.inject(&mut ec2.model(), times);
    let enforcer = ec2.enforcer(defaults(Mode::Enforce)).await;

    let end = Instant::now() + TIME_OUT;
    let first = run(enforcer.handle(event, end).await);
    assert!(Instant::now() < end, "{cell}: answered in time");
    let ends = ends(&cell, &first, &ec2, named);
    assert_only_what_failed_goes_back(&cell, &first);
    assert_only_violators_were_written_to(&cell, &ec2);

    for instance in ec2.model().instances.values_mut() {
        (instance.invisible_for_calls, instance.not_ready_for_calls) = (0, 0);
    }
    ec2.model().faults.clear();
    tokio::time::sleep(Duration::from_mins(1)).await;
    let next = run(enforcer.handle(event, Instant::now() + TIME_OUT).await);
    assert_eq!(next.report.counts.failed, 0, "{cell}: the next invocation is healthy: {}", next.report);
    let left: Vec<_> = ec2.violators().into_iter().filter(|id| named.is_empty() || named.contains(id)).collect();
    assert!(left.is_empty(), "{cell}: {left:?} is lost");
    assert_only_violators_were_written_to(&cell, &ec2);
    if !matches!(row.inject, Inject::Call(Fault { after_effect: true, .. })) {
        assert!(ec2.writes().iter().all(|(_, times)| *times == 1), "{cell}: {:?}", ec2.writes());
    }
    worst(&ends)
}

/// What became of each violator that the event is about, accounted for in report and answer.
fn ends(cell: &str, run: &Run, ec2: &InProcess, named: &[String]) -> Vec<End> {
    let violators = [id(0), id(1)].into_iter().filter(|id| named.is_empty() || named.contains(id));
    violators
        .map(|id| {
            let entry = run.report.instances.iter().find(|it| it.instance_id == id);
            let enforced = !ec2.violators().contains(&id);
            let failure = entry.and_then(|it| it.failure()).or(run.report.error.as_ref());
            let outcome = entry.map(|it| serde_json::to_value(it).unwrap()["outcome"].as_str().unwrap().to_owned());
            match (failure, outcome.as_deref()) {
                (Some(failure), _) => {
                    let is_sweep = cell.starts_with("schedule") && run.report.error.is_none();
                    assert_ne!(run.failed, is_sweep, "{cell}: a failure fails the invocation, but for a sweep's");
                    let is_looked_at = entry.is_some_and(InstanceReport::was_described);
                    assert_goes_back(cell, run, &id, failure.retryable || !is_looked_at);
                    if failure.retryable { End::Retryable } else { End::Refused }
                }
                (None, Some("enforced")) => {
                    assert!(enforced, "{cell}: what is reported as enforced is enforced");
                    assert!(!run.messages.contains(&id), "{cell}: {id} does not go back to the queue");
                    End::Enforced
                }
                (None, Some("not_found")) => End::Absent,
                (None, None) if named.is_empty() => End::Absent,
                (None, other) => panic!("{cell}: {id} is {other:?}"),
            }
        })
        .collect()
}

/// The message of an instance goes back to the queue if trying again can help or it was not looked at,
/// and the poisoned one always.
fn assert_goes_back(cell: &str, run: &Run, id: &str, retryable: bool) {
    if !run.report.messages.is_empty() {
        let goes_back = |it: &str| run.messages.iter().any(|message| message == it);
        assert_eq!((goes_back(id), goes_back("poisoned")), (retryable, true), "{cell}: {id} in {:?}", run.messages);
    }
}

/// No other message goes back to the queue.
fn assert_only_what_failed_goes_back(cell: &str, run: &Run) {
    for message in run.messages.iter().filter(|message| *message != "poisoned") {
        let entry = run.report.instances.iter().find(|it| it.instance_id == *message);
        assert!(entry.is_some_and(|it| it.failure().is_some()), "{cell}: {message} goes back for nothing");
    }
}

fn worst(ends: &[End]) -> End {
    let order = [End::Refused, End::Retryable, End::Absent, End::Enforced];
    order.into_iter().find(|end| ends.contains(end)).unwrap()
}

fn assert_only_violators_were_written_to(cell: &str, ec2: &InProcess) {
    for call in ec2.model().calls.iter().filter(|call| call.action == MODIFY) {
        let parameters: BTreeMap<_, _> =
            call.parameters.names().filter_map(|name| Some((name, call.parameters.get(name)?))).collect();
        assert!([id(0), id(1)].iter().any(|id| parameters["InstanceId"] == id), "{cell}: {parameters:?}");
        assert_eq!((parameters["HttpTokens"], parameters["HttpEndpoint"]), ("required", "enabled"), "{cell}");
        assert_eq!(parameters.len(), 5, "{cell}: {parameters:?}");
    }
    let unchanged = &instances()[2..];
    for before in unchanged {
        assert_eq!(ec2.model().instances[&before.instance_id].metadata_options, before.metadata_options, "{cell}");
    }
}

/// What a row comes to with each kind of event: the same for all, or first what is usual.
fn summary(ends: &[(&str, End)]) -> String {
    let mut by_end: Vec<(End, Vec<&str>)> = Vec::new();
    for (kind, end) in ends {
        match by_end.iter_mut().find(|(other, _)| other == end) {
            Some((_, kinds)) => kinds.push(kind),
            None => by_end.push((*end, vec![kind])),
        }
    }
    by_end.sort_by_key(|(_, kinds)| std::cmp::Reverse(kinds.len()));
    let (usual, others) = by_end.split_first().unwrap();
    let others = others.iter().map(|(end, kinds)| format!("; {end} ({})", kinds.join(", ")));
    std::iter::once(usual.0.to_string()).chain(others).collect()
}

/// The table of `tests/README.md`: the faults by what they come to, in the order of their first.
fn grouped(rows: &[(&Row, [String; 2])]) -> String {
    let mut groups: Vec<(&[String; 2], Vec<String>)> = Vec::new();
    for (row, ends) in rows {
        let of_both = rows.iter().filter(|(other, others)| other.name == row.name && others == ends).count() == 2;
        let label = if of_both { row.name.to_owned() } else { format!("{} (`{}`)", row.name, row.action) };
        match groups.iter_mut().find(|(other, _)| *other == ends) {
            Some((_, labels)) if labels.contains(&label) => {}
            Some((_, labels)) => labels.push(label),
            None => groups.push((ends, vec![label])),
        }
    }
    let lines =
        groups.iter().map(|([twice, for_ever], labels)| format!("| {} | {twice} | {for_ever} |", labels.join(", ")));
    let header = ["| fault | if it strikes twice | if it strikes for ever |".to_owned(), "|---|---|---|".to_owned()];
    header.into_iter().chain(lines).collect::<Vec<_>>().join("\n")
}

#[tokio::test(start_paused = true)]
async fn whatever_fails_nothing_is_lost() {
    let rows = rows();
    let mut results = Vec::new();
    for row in &rows {
        let mut columns = [String::new(), String::new()];
        for (column, times) in columns.iter_mut().zip([TWICE, None]) {
            let mut ends = Vec::new();
            for (kind, event, named) in events() {
                ends.push((kind, cell(row, times, kind, &event, &named).await));
            }
            if times.is_none() && !matches!(row.inject, Inject::Unknown) {
                assert!(ends.iter().all(|(_, end)| *end == row.for_ever), "{}: {ends:?}", row.name);
            }
            *column = summary(&ends);
        }
        println!("{} | {} | {} | {}", row.action, row.name, columns[0], columns[1]);
        results.push((row, columns));
    }
    println!("{} cells", rows.len() * events().len() * 2);
    let table = grouped(&results);
    assert!(text("tests/README.md").contains(&table), "this table belongs in tests/README.md:\n{table}");
}
