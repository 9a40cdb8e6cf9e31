//! What is old and used without tokens is left, however it came up, and nothing else is.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use imds_enforcer::aws::cloudwatch::{Calls, MetadataUse};
use imds_enforcer::aws::ec2::SdkEc2;
use imds_enforcer::aws::{Class, Error};
use imds_enforcer::config::Mode;
use imds_enforcer::enforce::{Enforcer, Grace, Options, Settings};
use imds_enforcer::instance::InstanceId;
use local_ec2::LocalEc2;
use serde_json::Value;
use tokio::time::Instant;

use crate::harness::*;
use crate::in_process::InProcess;

/// CloudWatch, which counted seven calls of each of these instances.
#[derive(Debug, Clone)]
pub(crate) struct CloudWatch {
    used: Vec<String>,
    fails: bool,
    hangs: bool,
    asked: Arc<Mutex<Vec<usize>>>,
}

impl MetadataUse for CloudWatch {
    fn calls_without_token<'a>(
        &'a self,
        ids: &'a [InstanceId],
        days: u16,
        now: DateTime<Utc>,
    ) -> BoxFuture<'a, Result<Calls, Error>> {
        assert_eq!((days, now), (14, clock()));
        self.asked.lock().unwrap().push(ids.len());
        let used = ids.iter().filter(|id| self.used.iter().any(|used| used == id.as_str()));
        let answer = used.map(|id| (id.clone(), 7)).collect();
        let error = Error { class: Class::Retryable, code: "InternalFailure".to_owned(), message: "no".to_owned() };
        Box::pin(async move {
            if self.hangs {
                std::future::pending::<()>().await;
            }
            if self.fails { Err(error) } else { Ok(answer) }
        })
    }
}

impl CloudWatch {
    /// A CloudWatch that never answers.
    fn hanging() -> Self {
        Self { hangs: true, ..Self::new([]) }
    }

    pub(crate) fn new(used: impl IntoIterator<Item = String>) -> Self {
        Self { used: used.into_iter().collect(), fails: false, hangs: false, asked: Arc::default() }
    }

    /// These settings, with a sweep that asks this CloudWatch.
    pub(crate) fn settings(&self, settings: Settings) -> Settings {
        let grace = Some(Grace { days: 14, metadata_use: Box::new(self.clone()) });
        Settings { options: Options { grace, ..settings.options }, ..settings }
    }

    async fn enforcer(&self, ec2: &LocalEc2, settings: Settings) -> Enforcer<SdkEc2> {
        enforcer(ec2, self.settings(settings)).await
    }
}

#[tokio::test]
async fn the_sweep_leaves_what_is_in_use_and_reports_how_much() {
    let ec2 = local_ec2(old_violators(3));
    let enforcer = CloudWatch::new([id(1)]).enforcer(&ec2, settings()).await;
    let report = report(enforcer.handle(&sample("ScheduledEvent/rule"), in_a_minute()).await);
    assert_eq!((report.counts.enforced, report.counts.in_use, count(&ec2, MODIFY)), (2, 1, 2));
    let json: Value = serde_json::to_value(&report.instances[1]).unwrap();
    assert_eq!(
        (&json["outcome"], &json["calls_without_token"], &json["in_days"]),
        (&"in_use".into(), &7.into(), &14.into())
    );
    assert_eq!(json["cause"]["kind"], "unknown");
    assert_eq!(ec2.model().instances[&id(1)].metadata_options.http_tokens, "optional");
}

#[tokio::test]
async fn observe_mode_reports_the_same() {
    let ec2 = local_ec2(old_violators(3));
    let enforcer = CloudWatch::new([id(1)]).enforcer(&ec2, observing()).await;
    let report = report(enforcer.handle(&sample("ScheduledEvent/rule"), in_a_minute()).await);
    assert_eq!((report.counts.would_enforce, report.counts.in_use), (2, 1));
}

#[tokio::test]
async fn what_is_new_or_loosened_is_enforced_whatever_its_use() {
    let downgrade = sample("ModifyInstanceMetadataOptions/downgrade-to-optional");
    let loosened = fleet().into_iter().map(old);
    for event in [run_instances([id(0)]), running(&id(0)), downgrade] {
        let ec2 = local_ec2(loosened.clone().chain(violators(1)));
        let cloudwatch = CloudWatch::new(fleet().into_iter().map(|it| it.instance_id).chain([id(0)]));
        let enforcer = cloudwatch.enforcer(&ec2, settings()).await;
        assert_eq!(report(enforcer.handle(&event, in_a_minute()).await).counts.enforced, 1);
        assert!(cloudwatch.asked.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_host_that_is_stopped_every_night_is_left_at_each_start() {
    for event in [running(&id(0)), sqs([("start", running(&id(0)))]), sample("ScheduledEvent/rule")] {
        let ec2 = local_ec2(old_violators(1));
        let enforcer = CloudWatch::new([id(0)]).enforcer(&ec2, settings()).await;
        let report = report(enforcer.handle(&event, in_a_minute()).await);
        assert_eq!((report.counts.in_use, count(&ec2, MODIFY)), (1, 0), "{report}");
    }
}

/// Settings with the day of the samples as the day since when tokens are required.
fn since_today(settings: Settings) -> Settings {
    let enforce_since = Some(clock().date_naive());
    Settings { options: Options { enforce_since, ..settings.options }, ..settings }
}

#[tokio::test]
async fn what_was_created_before_the_day_is_left_however_it_comes_up_and_in_both_modes() {
    for event in [running(&id(0)), run_instances([id(0)]), sample("ScheduledEvent/rule")] {
        for settings in [settings(), observing()] {
            let ec2 = local_ec2(old_violators(1));
            let report = report(enforcer(&ec2, since_today(settings)).await.handle(&event, in_a_minute()).await);
            assert_eq!(outcomes(&report), [(id(0), "created_before".to_owned())]);
            assert_eq!((report.counts.created_before, count(&ec2, MODIFY)), (1, 0));
            let instance = serde_json::to_value(&report.instances[0]).unwrap();
            assert_eq!(instance["enforce_since"], "2026-11-02");
            assert!(instance["cause"]["kind"].is_string(), "its owner is told why it is open: {instance}");
        }
    }
}

#[tokio::test]
async fn what_was_launched_since_the_day_is_enforced_weeks_later_too() {
    let mut instance = violators(1).remove(0);
    "2026-11-02T00:00:00.000Z".clone_into(&mut instance.launch_time);
    let ec2 = local_ec2([instance]);
    let enforcer = enforcer(&ec2, since_today(settings())).await;
    assert_eq!(report(enforcer.handle(&sample("ScheduledEvent/rule"), in_a_minute()).await).counts.enforced, 1);
}

#[tokio::test]
async fn what_is_loosened_is_enforced_however_old_it_is() {
    for case in ["downgrade-to-optional", "endpoint-enabled-without-tokens"] {
        let ec2 = local_ec2(fleet().into_iter().map(old));
        let enforcer = enforcer(&ec2, since_today(settings())).await;
        let event = sample(&format!("ModifyInstanceMetadataOptions/{case}"));
        assert_eq!(report(enforcer.handle(&event, in_a_minute()).await).counts.enforced, 1, "{case}");
    }
}

/// No sweep would find it: to the sweep it is one that was created before the day.
#[tokio::test]
async fn a_refused_write_on_what_was_loosened_comes_back_until_it_is_a_dead_letter() {
    let change = || sample("ModifyInstanceMetadataOptions/downgrade-to-optional");
    for (instances, goes_back) in [(fleet(), false), (fleet().into_iter().map(old).collect(), true)] {
        let ec2 = local_ec2(instances);
        ec2.model().deny(MODIFY, None);
        let enforcer = enforcer(&ec2, since_today(settings())).await;
        let messages = sent_back(enforcer.handle(&sqs([("change", change())]), in_a_minute()).await);
        assert_eq!(messages.len(), usize::from(goes_back));
    }
}

#[tokio::test]
async fn of_a_launch_without_ids_the_new_are_enforced_and_the_old_are_not_looked_at() {
    let mut instances = violators(2);
    "2026-11-02T09:14:05.000Z".clone_into(&mut instances[0].launch_time);
    "2026-10-02T09:14:05.000Z".clone_into(&mut instances[1].launch_time);
    let ec2 = local_ec2(instances);
    let cloudwatch = CloudWatch::new([id(0), id(1)]);
    let enforcer = cloudwatch.enforcer(&ec2, settings()).await;
    let report = report(enforcer.handle(&sample("RunInstances/omitted"), in_a_minute()).await);
    assert_eq!(outcomes(&report), [(id(0), "enforced".to_owned())]);
    assert!(cloudwatch.asked.lock().unwrap().is_empty());
    assert_eq!(report.instances[0].details.time_to_enforce_ms, Some(3000));
}

#[tokio::test]
async fn what_is_compliant_or_exempt_is_not_asked_about_and_at_most_five_hundred_at_once() {
    let mut instances = old_violators(1203);
    "disabled".clone_into(&mut instances[0].metadata_options.http_endpoint);
    instances[1].tags = [("imds-exemption".to_owned(), "2026-11-30".to_owned())].into();
    let ec2 = local_ec2(instances);
    ec2.model().buckets.unlimited = true;
    let cloudwatch = CloudWatch::new([]);
    let enforcer = cloudwatch.enforcer(&ec2, observing()).await;
    let report = report(enforcer.handle(&sample("ScheduledEvent/rule"), in_a_minute()).await);
    assert_eq!((report.counts.would_enforce, report.counts.exempt), (1201, 1));
    assert_eq!(*cloudwatch.asked.lock().unwrap(), [500, 499, 202]);
}

#[tokio::test]
async fn without_an_answer_nothing_that_is_old_is_enforced_and_an_event_is_tried_again_but_no_sweep() {
    let ec2 = local_ec2(old_violators(2));
    let cloudwatch = CloudWatch { fails: true, ..CloudWatch::new([]) };
    let enforcer = cloudwatch.enforcer(&ec2, settings()).await;
    for (event, fails) in [(sample("ScheduledEvent/rule"), false), (running(&id(0)), true)] {
        let answer = enforcer.handle(&event, in_a_minute()).await;
        assert_eq!(answer.is_err(), fails);
        assert!(report(answer).to_string().contains("InternalFailure: no"));
    }
    assert_eq!(count(&ec2, MODIFY), 0);
}

#[tokio::test(start_paused = true)]
async fn new_instances_do_not_wait_for_cloudwatch() {
    let mut instances = violators(2);
    "2026-11-02T09:14:05.000Z".clone_into(&mut instances[0].launch_time);
    "2026-10-02T09:14:05.000Z".clone_into(&mut instances[1].launch_time);
    let ec2 = InProcess::new(instances);
    let enforcer = ec2.enforcer(CloudWatch::hanging().settings(defaults(Mode::Enforce))).await;
    let begin = Instant::now();
    let event = sqs([("launch", sample("RunInstances/omitted")), ("sweep", sample("ScheduledEvent/rule"))]);
    let (answer, left) = tokio::join!(enforcer.handle(&event, in_a_minute()), async {
        while ec2.violators().len() == 2 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
        ec2.violators()
    });
    assert_eq!(left, [id(1)]);
    let report = report(answer);
    assert_eq!((report.counts.enforced, report.counts.failed), (1, 1), "{report}");
}
