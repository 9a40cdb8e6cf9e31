//! The handler on a local EC2 that fails: each error class ends as the contract says.

use std::time::Duration;

use imds_enforcer::config::Mode;
use imds_enforcer::enforce::{Answer, InvocationError};
use imds_enforcer::report::{Failure, Outcome};
use local_ec2::fault::{Fault, Kind};
use local_ec2::model::Instance;
use tokio::time::Instant;

use crate::harness::*;
use crate::in_process::InProcess;

/// Why the instance failed.
fn failure(report: &imds_enforcer::report::Report, id: &str) -> Failure {
    let instance = report.instances.iter().find(|it| it.instance_id == id).unwrap();
    instance.failure().unwrap_or_else(|| panic!("{id} did not fail: {instance:?}")).clone()
}

#[tokio::test]
async fn an_error_that_passes_is_retried_until_it_has_passed() {
    for kind in [
        error("RequestLimitExceeded", 503),
        error("Throttling", 400),
        error("InternalError", 500),
        error("Unavailable", 503),
        Kind::DropConnection,
    ] {
        for action in [DESCRIBE, MODIFY] {
            let ec2 = local_ec2(violators(1));
            ec2.model().faults.add(fault(action, None, Some(2), kind.clone()));
            let report = report(handle(&ec2, &run_instances([id(0)])).await);
            assert_eq!(report.counts.enforced, 1, "{action} {kind:?}: {report}");
            assert_eq!(count(&ec2, action), 3, "{action} {kind:?}");
        }
    }
}

#[tokio::test]
async fn an_error_that_does_not_pass_fails_as_retryable_and_names_the_instance() {
    for code in ["RequestLimitExceeded", "InternalError", "IncorrectInstanceState"] {
        let ec2 = local_ec2(violators(3));
        ec2.model().faults.add(fault(
            MODIFY,
            Some(&id(1)),
            None,
            error(code, if code == "InternalError" { 500 } else { 400 }),
        ));
        let error = handle(&ec2, &run_instances((0..3).map(id))).await.unwrap_err();
        assert_eq!(error.error_type(), "EnforcementIncomplete");
        assert!(error.to_string().contains("1 of 3 instances failed"), "{error}");
        assert!(error.to_string().contains(&id(1)) && error.to_string().contains(code), "{error}");
        let report = report(Err(error));
        assert_eq!(report.counts.enforced, 2, "{code}");
        assert_eq!((failure(&report, &id(1)).code.as_str(), failure(&report, &id(1)).retryable), (code, true));
    }
}

#[tokio::test]
async fn a_refusal_is_not_retried_and_says_what_to_do() {
    for (code, advice) in [
        ("UnauthorizedOperation", "grant ec2:ModifyInstanceMetadataOptions"),
        ("OperationNotPermitted", "ask the service or team"),
        ("UnsupportedOperation", "ask the service or team"),
        ("InvalidParameterValue", "A fault was injected"),
    ] {
        let ec2 = local_ec2(violators(2));
        ec2.model().faults.add(fault(MODIFY, Some(&id(0)), None, error(code, 403)));
        let report = report(handle(&ec2, &run_instances((0..2).map(id))).await);
        assert_eq!((report.counts.enforced, report.counts.failed), (1, 1), "{code}");
        let failure = failure(&report, &id(0));
        assert!(!failure.retryable && failure.code == code, "{failure}");
        assert!(failure.message.contains(advice), "{failure}");
        assert_eq!(writes_to(&ec2, &id(0)).len(), 1, "{code}");
    }
}

/// What an owner does to an instance between the function's look and its write.
type Change = fn(&mut Instance);

/// Handles an event while the owner of the first instance changes it after it was described, and a policy
/// denies writes to it.
async fn handle_while(change: Change, ec2: &InProcess, event: &str) -> Result<Answer, InvocationError> {
    let enforcer = ec2.enforcer(settings()).await;
    let owner = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        change(ec2.model().instances.get_mut(&id(0)).unwrap());
    };
    tokio::join!(enforcer.handle(event, Instant::now() + Duration::from_mins(1)), owner).0
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_closed_before_the_write_is_no_failure_although_a_policy_denies_the_write() {
    let close: Change = |it| "disabled".clone_into(&mut it.metadata_options.http_endpoint);
    for event in [run_instances((0..2).map(id)), sqs([("m", running(&id(0)))]), sample("ScheduledEvent/rule")] {
        let ec2 = InProcess::new(violators(2));
        ec2.model().denies_closed = true;
        let answer = handle_while(close, &ec2, &event).await;
        assert!(answer.is_ok(), "{answer:?}");
        let report = report(answer);
        let outcomes = outcomes(&report);
        assert!(outcomes.contains(&(id(0), "endpoint_disabled".to_owned())), "{outcomes:?}");
        assert_eq!(report.counts.failed, 0, "{report}");
        let denied = ec2.model().calls.iter().filter(|it| it.error.as_deref() == Some("UnauthorizedOperation")).count();
        assert_eq!(denied, 1, "the owner was faster than the write");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_policy_denies_is_concluded_by_what_the_instance_has_then() {
    let exempt = |it: &mut Instance| drop(it.tags.insert("imds-exemption".to_owned(), "2026-11-30 agent".to_owned()));
    let changes: [(Change, &str); 4] = [
        (|it| "required".clone_into(&mut it.metadata_options.http_tokens), "compliant"),
        (|it| "terminated".clone_into(&mut it.state), "gone"),
        (exempt, "exempt"),
        (|it| it.metadata_options.http_put_response_hop_limit = 3, "failed"),
    ];
    for (change, outcome) in changes {
        let ec2 = InProcess::new(violators(1));
        ec2.model().deny(MODIFY, Some(&id(0)));
        let report = report(handle_while(change, &ec2, &run_instances([id(0)])).await);
        assert_eq!(outcomes(&report), [(id(0), outcome.to_owned())]);
        if outcome == "failed" {
            let failure = failure(&report, &id(0));
            assert!(!failure.retryable && failure.code == "UnauthorizedOperation", "{failure}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_call_looks_at_all_that_a_policy_denies_and_none_at_what_is_refused_otherwise() {
    for (count, code, calls) in [
        (5, "UnauthorizedOperation", 2),
        (250, "UnauthorizedOperation", 1 + 2),
        (5, "OperationNotPermitted", 1),
        (5, "UnsupportedOperation", 1),
    ] {
        let ec2 = InProcess::new(violators(count));
        ec2.model().buckets.unlimited = true;
        ec2.model().faults.add(fault(MODIFY, None, None, error(code, 403)));
        let enforcer = ec2.enforcer(settings()).await;
        let answer = enforcer.handle(&sample("ScheduledEvent/rule"), Instant::now() + Duration::from_mins(2)).await;
        assert_eq!(report(answer).counts.failed, count, "{code}");
        let second_looks = ec2.calls(MODIFY).0.saturating_sub(100).div_ceil(15);
        assert!(ec2.calls(DESCRIBE).0 <= calls + second_looks, "{count} {code}: {:?}", ec2.calls(DESCRIBE));
        assert_eq!(ec2.calls(MODIFY).0, count, "{code}");
    }
}

#[tokio::test]
async fn a_denied_look_up_fails_every_instance_it_asked_for() {
    let ec2 = local_ec2(violators(2));
    ec2.model().deny(DESCRIBE, None);
    let report = report(handle(&ec2, &run_instances((0..2).map(id))).await);
    assert_eq!(report.counts.failed, 2);
    assert!(failure(&report, &id(0)).message.contains("grant ec2:DescribeInstances"));
}

#[tokio::test]
async fn a_look_up_that_fails_leaves_the_next_two_hundred_alone() {
    let ec2 = local_ec2(violators(250));
    ec2.model().buckets.unlimited = true;
    ec2.model().faults.add(fault(DESCRIBE, None, Some(1), error("UnauthorizedOperation", 403)));
    let report = report(handle(&ec2, &run_instances((0..250).map(id))).await);
    assert_eq!((report.counts.enforced, report.counts.failed), (50, 200));
}

#[tokio::test]
async fn a_denied_sweep_fails_and_says_why() {
    let ec2 = local_ec2([]);
    ec2.model().deny(DESCRIBE, None);
    let error = handle(&ec2, &sample("ScheduledEvent/rule")).await.unwrap_err();
    assert_eq!(error.error_type(), "EnforcementIncomplete");
    assert!(error.to_string().contains("grant ec2:DescribeInstances"), "{error}");
}

#[tokio::test]
async fn an_instance_unknown_after_a_launch_is_a_failure() {
    for event in [run_instances([id(0), id(1)]), sqs([("m", running(&id(1)))])] {
        let ec2 = local_ec2(violators(1));
        drop(handle(&ec2, &event).await);
        assert_eq!(count(&ec2, DESCRIBE), 5, "looked for once and after each wait");
    }
    let ec2 = local_ec2(violators(1));
    let report = report(handle(&ec2, &run_instances([id(0), id(1)])).await);
    assert_eq!(report.counts.enforced, 1);
    let failure = failure(&report, &id(1));
    assert_eq!((failure.code.as_str(), failure.retryable), ("InvalidInstanceID.NotFound", true));
}

#[tokio::test]
async fn what_ec2_does_not_know_an_hour_after_the_event_is_absent() {
    let at = |time: &str| sqs([("m", running(&id(1)).replace("2026-11-02T09:14:07Z", time))]);
    for (time, failed) in [("2026-11-02T08:14:11Z", 1), ("2026-11-02T08:14:09Z", 0), ("2026-11-01T09:14:07Z", 0)] {
        let ec2 = local_ec2([]);
        let Ok(Answer::Batch { response, report }) = handle(&ec2, &at(time)).await else { panic!("a batch") };
        assert_eq!(response.batch_item_failures.len(), failed, "{time}");
        assert_eq!((report.counts.failed, report.counts.not_found), (failed, 1 - failed), "{time}");
    }
}

#[tokio::test]
async fn an_instance_unknown_after_a_modification_is_absent() {
    let ec2 = local_ec2([]);
    let report = report(handle(&ec2, &sample("ModifyInstanceMetadataOptions/unknown-to-ec2")).await);
    assert_eq!((report.counts.not_found, report.counts.failed), (1, 0));
}

#[tokio::test]
async fn an_instance_that_goes_between_look_up_and_write_is_reported_by_what_the_event_says() {
    let ec2 = local_ec2(violators(1));
    ec2.model().faults.add(fault(MODIFY, None, None, error("InvalidInstanceID.NotFound", 400)));
    let swept = report(handle(&ec2, &sample("ScheduledEvent/rule")).await);
    assert_eq!((swept.counts.not_found, swept.counts.failed), (1, 0));
    let launched = report(handle(&ec2, &run_instances([id(0)])).await);
    assert_eq!((launched.counts.not_found, launched.counts.failed), (0, 1));
}

#[tokio::test]
async fn a_write_that_took_effect_before_the_connection_dropped_is_enforced() {
    let ec2 = local_ec2(violators(1));
    let dropped = Fault { after_effect: true, ..fault(MODIFY, None, Some(1), Kind::DropConnection) };
    ec2.model().faults.add(dropped);
    let report = report(handle(&ec2, &run_instances([id(0)])).await);
    assert_eq!(report.counts.enforced, 1);
    assert_eq!(ec2.model().instances[&id(0)].metadata_options.http_tokens, "required");
}

#[tokio::test]
async fn an_answer_that_does_not_say_required_is_a_failure() {
    let ec2 = local_ec2(violators(2));
    let text = "<ModifyInstanceMetadataOptionsResponse></ModifyInstanceMetadataOptionsResponse>".to_owned();
    ec2.model().faults.add(fault(MODIFY, Some(&id(0)), None, Kind::Body { status: 200, text }));
    let report = report(handle(&ec2, &run_instances((0..2).map(id))).await);
    assert_eq!((report.counts.enforced, report.counts.failed), (1, 1));
    assert_eq!(failure(&report, &id(0)).code, "NotApplied");
}

#[tokio::test]
async fn an_answer_that_is_no_xml_is_a_failure() {
    for action in [DESCRIBE, MODIFY] {
        let ec2 = local_ec2(violators(1));
        ec2.model().faults.add(fault(
            action,
            None,
            None,
            Kind::Body { status: 200, text: "\u{0}<<garbage".to_owned() },
        ));
        let report = report(handle(&ec2, &run_instances([id(0)])).await);
        assert_eq!(report.counts.failed, 1, "{action}: {report}");
        assert!(failure(&report, &id(0)).retryable);
    }
}

#[tokio::test(start_paused = true)]
async fn near_its_deadline_it_answers_and_names_what_is_not_done() {
    let ec2 = InProcess::new(violators(20));
    ec2.model().faults.add(fault(MODIFY, None, None, Kind::Delay { milliseconds: 700 }));
    let begin = Instant::now();
    let end = begin + Duration::from_secs(2);
    let report = report(ec2.enforcer(defaults(Mode::Enforce)).await.handle(&run_instances((0..20).map(id)), end).await);
    assert!(Instant::now() < end, "answered in time");
    assert_eq!((report.counts.enforced, report.counts.failed), (16, 4), "{report}");
    for instance in &report.instances {
        if let Outcome::Failed { error, .. } = &instance.outcome {
            assert_eq!((error.code.as_str(), error.retryable), ("DeadlineExceeded", true));
        }
    }
}

#[tokio::test]
async fn with_no_time_left_nothing_is_begun() {
    let ec2 = local_ec2(violators(1));
    let report = report(enforcer(&ec2, settings()).await.handle(&run_instances([id(0)]), Instant::now()).await);
    assert_eq!(failure(&report, &id(0)).code, "DeadlineExceeded");
    assert!(ec2.model().calls.is_empty());
}

#[tokio::test]
async fn a_warm_up_takes_nothing_from_any_action() {
    let ec2 = local_ec2([]);
    sdk_ec2(&ec2).await.warm_up().await.unwrap();
    assert_eq!(ec2.model().counts().into_iter().collect::<Vec<_>>(), [("none".to_owned(), 1)]);
}

#[tokio::test]
async fn a_warm_up_without_an_answer_says_why() {
    let ec2 = local_ec2([]);
    let port = sdk_ec2(&ec2).await;
    drop(ec2);
    let error = port.warm_up().await.unwrap_err();
    assert!(error.contains("Connection refused"), "{error}");
}
