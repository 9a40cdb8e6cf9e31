//! The watch on refused calls: what CloudWatch counted is reported with its owner and its undo, once,
//! and whatever CloudWatch does, the sweep is what it is without it.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::BoxFuture;
use imds_enforcer::aws::Error;
use imds_enforcer::aws::cloudwatch::{Refusals, RefusedCalls as RefusedCallsPort, Window};
use imds_enforcer::aws::ec2::SdkEc2;
use imds_enforcer::config::Mode;
use imds_enforcer::enforce::{Enforcer, Options, Settings, Watch};
use imds_enforcer::report::{LISTED, RefusedCalls, Report, Watched};
use local_ec2::model::Instance;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cloudwatch::{Fault, MetricsInsights};
use crate::harness::*;
use crate::in_process::InProcess;
use crate::results::{Bus, output_of};

/// The five minutes that a sweep's watch of an hour looks at last; the event is of 09:14.
const LAST: &str = "2026-11-02T08:55:00Z";

fn sweep() -> String {
    sample("ScheduledEvent/rule")
}

/// A function with these settings, and a watch of so many hours on this CloudWatch.
async fn watching(ec2: &InProcess, cloudwatch: &MetricsInsights, hours: u16) -> Enforcer<SdkEc2> {
    ec2.enforcer(cloudwatch.settings(settings(), hours).await).await
}

async fn swept(ec2: &InProcess, cloudwatch: &MetricsInsights, hours: u16) -> Report {
    report(watching(ec2, cloudwatch, hours).await.handle(&sweep(), in_a_minute()).await)
}

/// How many calls each instance of a report refused.
fn refused(report: &Report) -> Vec<(String, u64)> {
    let calls =
        report.instances.iter().filter_map(|it| Some((it.instance_id.clone(), it.details.refused_calls?.count)));
    calls.collect()
}

/// A compliant instance of an Auto Scaling group.
pub(crate) fn of_a_group(id: &str) -> Instance {
    let mut instance = compliant(id);
    instance.tags.insert("aws:autoscaling:groupName".to_owned(), "web-blue".to_owned());
    instance
}

#[tokio::test(start_paused = true)]
async fn who_refused_ten_calls_is_reported_with_its_owner_and_how_it_is_undone() {
    let ec2 = InProcess::new([of_a_group(&id(1)), compliant(&id(2))]);
    let cloudwatch = MetricsInsights::new([(id(1), LAST, 7), (id(1), "2026-11-02T08:00:00Z", 3), (id(2), LAST, 9)]);
    let report = swept(&ec2, &cloudwatch, 1).await;
    assert_eq!(report.watch, Some(Watched { refusing: Some(1), in_hours: 1, error: None }));
    let [instance] = &report.instances[..] else { panic!("one instance: {report}") };
    assert_eq!((instance.instance_id.as_str(), instance.outcome.as_str()), (id(1).as_str(), "compliant"));
    assert_eq!(instance.details.refused_calls, Some(RefusedCalls { count: 10, in_hours: 1 }));
    let cause = instance.details.cause.as_ref().unwrap();
    assert_eq!((cause.kind.as_str(), cause.belongs_to()), ("auto_scaling_group", Some("web-blue")));
    assert!(instance.details.undo.as_ref().unwrap().contains("--http-tokens optional"));
    assert_eq!((report.counts.examined, report.counts.compliant, ec2.writes().len()), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn each_call_is_in_the_window_of_one_sweep() {
    let ec2 = InProcess::new([compliant(&id(1))]);
    let times =
        (7..10).flat_map(|hour| (0..60).step_by(5).map(move |minute| format!("2026-11-02T{hour:02}:{minute:02}:00Z")));
    let times: Vec<_> = times.collect();
    let cloudwatch = MetricsInsights::new(times.iter().map(|time| (id(1), time.as_str(), 1)));
    for (time, hours, counted) in
        [("09:14", 1, 12), ("10:14", 1, 12), ("09:37", 1, 12), ("10:14", 2, 24), ("10:14", 24, 36)]
    {
        let event = sweep().replace("2026-11-02T09:14:07Z", &format!("2026-11-02T{time}:07Z"));
        let report = report(watching(&ec2, &cloudwatch, hours).await.handle(&event, in_a_minute()).await);
        assert_eq!(refused(&report), [(id(1), counted)], "{time} {hours}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_the_sweep_found_has_one_entry_and_one_that_is_forgotten_has_one_too() {
    let mut closed = compliant(&id(2));
    "disabled".clone_into(&mut closed.metadata_options.http_endpoint);
    let ec2 = InProcess::new(violators(2).into_iter().chain([closed]));
    let cloudwatch = MetricsInsights::new((0..4).map(|n| (id(n), LAST, 10)));
    let report = swept(&ec2, &cloudwatch, 1).await;
    let expected = ["enforced", "enforced", "endpoint_disabled", "not_found"];
    assert_eq!(outcomes(&report), (0..4).zip(expected).map(|(n, it)| (id(n), it.to_owned())).collect::<Vec<_>>());
    assert_eq!((refused(&report).len(), report.counts.examined, ec2.writes().len()), (4, 4, 2));
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_a_message_names_beside_a_sweep_has_one_entry() {
    let ec2 = InProcess::new([compliant(&id(1))]);
    let cloudwatch = MetricsInsights::new([(id(1), LAST, 10)]);
    let event = sqs([("a", sweep()), ("b", running(&id(1)))]);
    let report = report(watching(&ec2, &cloudwatch, 1).await.handle(&event, in_a_minute()).await);
    assert_eq!((report.counts.examined, refused(&report)), (1, vec![(id(1), 10)]), "{report}");
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_the_sweep_found_and_could_not_list_is_not_counted_again() {
    let ec2 = InProcess::new(violators(1200).into_iter().map(|mut instance| {
        instance.tags.insert("imds-exemption".to_owned(), "2026-11-30".to_owned());
        instance
    }));
    let cloudwatch = MetricsInsights::new((700..1200).map(|n| (id(n), LAST, 10)));
    collect_log();
    let report = swept(&ec2, &cloudwatch, 1).await;
    let lines = log_lines();
    assert_eq!((report.counts.examined, report.counts.exempt, report.unlisted), (1200, 1200, 1200 - LISTED));
    assert_eq!(lines.iter().filter(|it| it["message"] == "calls without a token refused").count(), 500);
}

#[tokio::test(start_paused = true)]
async fn whatever_cloudwatch_does_the_sweep_enforces_and_says_what_is_not_known() {
    let of_two = || MetricsInsights::new([(id(3), LAST, 10), (id(4), LAST, 10)]);
    for (cloudwatch, refusing, code) in [
        (of_two(), Some(2), None),
        (MetricsInsights::new([]), Some(0), None),
        (of_two().with(Fault::Denies), None, Some("AccessDenied")),
        (of_two().with(Fault::Drops), None, Some("DispatchFailure")),
        (of_two().with(Fault::Hangs), None, Some("TimeoutError")),
        (of_two().with(Fault::IsPartial), Some(2), Some("MaxMetricsExceeded")),
    ] {
        let ec2 = InProcess::new(violators(2).into_iter().chain([compliant(&id(3)), compliant(&id(4))]));
        let begin = Instant::now();
        collect_log();
        let answer = watching(&ec2, &cloudwatch, 1).await.handle(&sweep(), in_a_minute()).await;
        assert!(answer.is_ok() && begin.elapsed() < Duration::from_secs(58), "{cloudwatch:?}: {answer:?}");
        let report = report(answer);
        let lines = log_lines();
        let watch = report.watch.unwrap();
        assert_eq!((watch.refusing, watch.error.map(|it| it.code).as_deref()), (refusing, code));
        assert_eq!((report.counts.enforced, ec2.writes().len()), (2, 2), "{cloudwatch:?}");
        let with = |message: &str| lines.iter().filter(|it| it["message"] == message && it["level"] == "WARN").count();
        assert_eq!(with("refused calls not known"), usize::from(code.is_some()));
        assert_eq!(with("calls without a token refused"), refusing.unwrap_or_default());
        let metrics: Vec<Value> = lines
            .iter()
            .filter(|it| it["target"] == "imds_enforcer::metrics")
            .map(|it| serde_json::from_str(it["message"].as_str().unwrap()).unwrap())
            .collect();
        assert_eq!(metrics[0]["InstancesRefusingCalls"], json!(refusing.filter(|it| *it > 0)), "{cloudwatch:?}");
    }
}

/// A CloudWatch that answers when the sweep has ended, from when on EC2 describes nothing any more.
#[derive(Debug)]
struct AnswersAndDenies(InProcess);

impl RefusedCallsPort for AnswersAndDenies {
    fn refused_calls(&self, _: Window) -> BoxFuture<'_, Result<Refusals, Error>> {
        Box::pin(async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            self.0.model().deny(DESCRIBE, None);
            Ok(Refusals { calls: [(id(1).parse().unwrap(), 10)].into(), incomplete: None })
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_look_up_that_fails_is_told_and_fails_nothing() {
    let ec2 = InProcess::new([compliant(&id(1))]);
    let watch = Some(Watch { hours: 1, refused_calls: Box::new(AnswersAndDenies(ec2.clone())) });
    let settings = settings();
    let settings = Settings { options: Options { watch, ..settings.options }, ..settings };
    let report = report(ec2.enforcer(settings).await.handle(&sweep(), in_a_minute()).await);
    let watch = report.watch.clone().unwrap();
    assert_eq!((watch.refusing, report.counts.examined), (Some(1), 0), "{report}");
    assert_eq!(watch.error.map(|it| it.code).as_deref(), Some("UnauthorizedOperation"));
}

#[tokio::test(start_paused = true)]
async fn five_hundred_take_one_query_in_pages_and_three_describes() {
    let ec2 = InProcess::new((0..500).map(|n| compliant(&id(n))));
    let cloudwatch = MetricsInsights {
        page: Some(200),
        ..MetricsInsights::new((0..600).map(|n| (id(n), LAST, 700 - u32::try_from(n).unwrap())))
    };
    let report = swept(&ec2, &cloudwatch, 1).await;
    assert_eq!((report.watch.clone().unwrap().refusing, refused(&report).len()), (Some(500), 500));
    assert_eq!(refused(&report)[0], (id(0), 700), "those with the most calls");
    let asked = cloudwatch.asked.lock().unwrap();
    let queries: BTreeSet<_> = asked.iter().map(|it| it["MetricDataQueries"].to_string()).collect();
    assert_eq!((asked.len(), queries.len(), ec2.calls(DESCRIBE).0), (3, 1, 4));
}

#[tokio::test(start_paused = true)]
async fn only_a_sweep_asks_cloudwatch() {
    let ec2 = InProcess::new(violators(1));
    let cloudwatch = MetricsInsights::new([(id(0), LAST, 10)]);
    let enforcer = watching(&ec2, &cloudwatch, 1).await;
    for event in [run_instances([id(0)]), running(&id(0)), sample("RunInstances/omitted")] {
        let report = report(enforcer.handle(&event, in_a_minute()).await);
        assert_eq!((report.watch.clone(), refused(&report)), (None, Vec::new()));
    }
    assert!(cloudwatch.asked.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_results_of_refused_calls_fit_the_schema_and_have_ids_of_their_own() {
    let ec2 = InProcess::new(violators(1).into_iter().chain([of_a_group(&id(1))]));
    let cloudwatch = MetricsInsights::new((0..3).map(|n| (id(n), LAST, 10)));
    let bus = Bus::default();
    let settings = cloudwatch.settings(bus.settings(Mode::Enforce).await, 1).await;
    drop(ec2.enforcer(settings).await.handle(&sweep(), in_a_minute()).await);
    let (took, output) = output_of("consumer.py", &bus.taken());
    assert!(took, "{output}");
    let counts: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(counts, json!({"IMDS Tokens Required": 1, "IMDS Calls Refused": 3, "IMDS Sweep Digest": 1}));
    let details: Vec<Value> =
        bus.taken().iter().map(|it| serde_json::from_str(it["Detail"].as_str().unwrap()).unwrap()).collect();
    assert_eq!(details.last().unwrap()["watch"], json!({"refusing": 3, "in_hours": 1}));
    let of_group = details.iter().find(|it| it["instance_id"] == id(1)).unwrap();
    assert!(of_group["summary"]["command"].as_str().unwrap().contains("--http-tokens optional"), "{of_group}");
}
