//! A large account: bursts, sweeps and short time-outs, at the request rates that EC2 documents.

use std::cell::Cell;
use std::time::Duration;

use imds_enforcer::config::Mode;
use imds_enforcer::enforce::{Answer, InvocationError, Options, Settings};
use imds_enforcer::report::{LISTED, Report};
use local_ec2::model::Instance;
use serde_json::Value;
use tokio::time::Instant;

use crate::harness::*;
use crate::in_process::InProcess;

/// Invokes until nothing is left, as Lambda's retries and the schedule do, each time with a
/// time-out. The reports, of which the last is complete.
async fn invoke_until_done(ec2: &InProcess, event: &str, time_out: Duration) -> Vec<Report> {
    let enforcer = ec2.enforcer(defaults(Mode::Enforce)).await;
    let mut reports = Vec::new();
    loop {
        let end = Instant::now() + time_out;
        let answer = enforcer.handle(event, end).await;
        assert!(Instant::now() < end, "answered in time");
        let is_complete = answer.is_ok();
        reports.push(report(answer));
        if is_complete {
            return reports;
        }
        assert!(reports.len() < 100, "{}", reports.last().unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_violators_take_what_the_bucket_allows_and_next_to_no_call_is_throttled() {
    let ec2 = InProcess::new(violators(1000));
    let begin = Instant::now();
    let end = begin + Duration::from_mins(10);
    let report =
        report(ec2.enforcer(defaults(Mode::Enforce)).await.handle(&run_instances((0..1000).map(id)), end).await);
    let took = begin.elapsed().as_secs_f64();
    assert_eq!(report.counts.enforced, 1000);
    assert!(took <= 1.15 * (1000.0 - 100.0) / 5.0, "{took} s");
    assert_eq!(ec2.calls(MODIFY), (1000, 0));
    let (describes, throttled) = ec2.calls(DESCRIBE);
    assert!(describes <= 5 + 1000 / 15 && throttled == 0, "{describes} calls: one for fifteen writes");
}

/// Somebody else has emptied the account's bucket and goes on taking two of the five tokens that
/// come back each second.
#[tokio::test(start_paused = true)]
async fn a_bucket_that_others_use_too_is_shared_with_them() {
    let ec2 = InProcess::new(violators(600));
    let take = |ec2: &InProcess| ec2.model().buckets.take(MODIFY, Instant::now().into_std());
    while take(&ec2) {}
    let refused = Cell::new(0);
    let others = async {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            refused.update(|it| it + usize::from(!take(&ec2)));
        }
    };
    let enforcer = ec2.enforcer(defaults(Mode::Enforce)).await;
    let event = run_instances((0..600).map(id));
    let begin = Instant::now();
    let answer = tokio::select! {
        answer = enforcer.handle(&event, begin + Duration::from_mins(15)) => answer,
        () = others => panic!("others never stop"),
    };
    let took = begin.elapsed().as_secs_f64();
    let (calls, throttled) = ec2.calls(MODIFY);
    println!(
        "{calls} calls, {throttled} throttled, {} of others, {took:.0} s where 200 s are the least",
        refused.get()
    );
    assert_eq!(report(answer).counts.enforced, 600);
    assert!(took < 1.15 * 200.0, "{took} s");
    assert!(throttled * 20 < calls, "{throttled} of {calls} calls throttled");
    assert!(refused.get() < 20, "others were throttled {} times", refused.get());
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_a_thousand_state_changes_costs_few_describes() {
    let ec2 = InProcess::new(violators(1000));
    let enforcer = ec2.enforcer(defaults(Mode::Enforce)).await;
    for batch in (0..1000).collect::<Vec<_>>().chunks(100) {
        let names: Vec<_> = batch.iter().map(ToString::to_string).collect();
        let messages = names.iter().zip(batch).map(|(name, n)| (name.as_str(), running(&id(*n))));
        let answer = enforcer.handle(&sqs(messages), Instant::now() + Duration::from_mins(1)).await;
        let Ok(Answer::Batch { response, .. }) = answer else { panic!("a batch is answered") };
        assert!(response.batch_item_failures.is_empty());
    }
    let (describes, throttled) = ec2.calls(DESCRIBE);
    assert!(describes <= 10 + 1000 / 15 && throttled == 0, "{describes} calls: one a batch, one for fifteen writes");
    assert_eq!(ec2.calls(MODIFY), (1000, 0));
}

#[tokio::test(start_paused = true)]
async fn what_a_short_time_out_leaves_its_retries_finish_and_nothing_is_written_twice() {
    let ec2 = InProcess::new(violators(400));
    let reports = invoke_until_done(&ec2, &run_instances((0..400).map(id)), Duration::from_secs(20)).await;
    assert!(reports.len() > 2, "{}", reports.len());
    assert_eq!(reports.iter().map(|it| it.counts.enforced).sum::<usize>(), 400);
    assert!(ec2.violators().is_empty());
    assert!(ec2.writes().iter().all(|(_, times)| *times == 1));
    let first = &reports[0];
    assert!(first.to_string().contains("DeadlineExceeded"), "{first}");
    assert_eq!(first.counts.examined, first.counts.enforced + first.counts.failed);
}

/// Sweeps once an hour, until nothing is left to the next, and answers what each enforced and left.
async fn sweep_until_done(ec2: &InProcess, settings: Settings) -> Vec<(usize, usize)> {
    let enforcer = ec2.enforcer(settings).await;
    let mut sweeps = Vec::new();
    loop {
        let mut event: Value = serde_json::from_str(&sample("ScheduledEvent/rule")).unwrap();
        event["id"] = format!("sweep {}", sweeps.len()).into();
        let answer = enforcer.handle(&event.to_string(), in_a_minute()).await;
        assert!(answer.is_ok(), "what is left over is no failure: {answer:?}");
        let report = report(answer);
        sweeps.push((report.counts.enforced, report.counts.left_over));
        if report.counts.left_over == 0 {
            return sweeps;
        }
        assert!(sweeps.len() < 100, "{sweeps:?}");
        tokio::time::sleep(Duration::from_hours(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_sweep_of_ten_thousand_makes_progress_in_every_run_and_says_how_much_is_left() {
    let ec2 = InProcess::new(violators(10_000));
    let sweeps = sweep_until_done(&ec2, defaults(Mode::Enforce)).await;
    let mut left = 10_000;
    for (enforced, left_over) in sweeps {
        assert!(enforced >= 350 || left_over == 0, "{enforced} enforced, {left_over} left");
        left -= enforced;
        assert_eq!(left_over, left);
    }
    assert!(ec2.writes().iter().all(|(_, times)| *times == 1));
}

#[tokio::test(start_paused = true)]
async fn a_thousand_refused_instances_at_the_front_starve_nobody() {
    let ec2 = InProcess::new(violators(1050));
    (0..1000).for_each(|n| ec2.model().deny(MODIFY, Some(&id(n))));
    let enforcer = ec2.enforcer(defaults(Mode::Enforce)).await;
    for n in 0..12 {
        let mut event: Value = serde_json::from_str(&sample("ScheduledEvent/rule")).unwrap();
        event["id"] = n.to_string().into();
        assert!(enforcer.handle(&event.to_string(), in_a_minute()).await.is_ok());
        tokio::time::sleep(Duration::from_hours(1)).await;
    }
    let open = ec2.violators().len() - 1000;
    assert!(open <= 5, "{open} of 50 are still open after twelve sweeps of which each comes to a third");
}

#[tokio::test(start_paused = true)]
async fn a_sweep_with_a_limit_enforces_so_many_and_leaves_the_rest_and_a_launch_has_no_limit() {
    let ec2 = InProcess::new(violators(25));
    (0..3).for_each(|n| ec2.model().deny(MODIFY, Some(&id(n))));
    let options = Options { sweep_limit: Some(10), ..Options::default() };
    let limited = || Settings {
        options: Options { sweep_limit: options.sweep_limit, ..Options::default() },
        ..defaults(Mode::Enforce)
    };
    let sweeps = sweep_until_done(&ec2, limited()).await;
    assert!(sweeps[..2].iter().all(|(enforced, _)| *enforced == 10), "{sweeps:?}");
    assert_eq!(sweeps.iter().map(|(enforced, _)| enforced).sum::<usize>(), 22);

    let ec2 = InProcess::new(violators(25));
    let enforcer = ec2.enforcer(limited()).await;
    assert_eq!(report(enforcer.handle(&run_instances((0..25).map(id)), in_a_minute()).await).counts.enforced, 25);
}

/// The owner closes endpoints while a sweep or a large launch is under way.
#[tokio::test(start_paused = true)]
async fn whoever_acts_while_others_wait_for_their_turn_is_not_overruled() {
    for event in [sample("ScheduledEvent/rule"), run_instances((0..300).map(id))] {
        let ec2 = InProcess::new(violators(300));
        let enforcer = ec2.enforcer(defaults(Mode::Enforce)).await;
        let owner = async {
            tokio::time::sleep(Duration::from_secs(10)).await;
            close_all_that_are_open(&ec2)
        };
        let (answer, closed) = tokio::join!(enforcer.handle(&event, in_a_minute()), owner);
        assert!(closed.len() > 100, "{}", closed.len());
        let report = report(answer);
        assert!(report.counts.endpoint_disabled + 15 >= closed.len(), "{report}");
        let reopened =
            closed.iter().filter(|id| ec2.model().instances[*id].metadata_options.http_endpoint == "enabled");
        assert!(reopened.count() <= 5 * 5, "of five seconds at five a second at the most");
    }
}

/// Closes the endpoints of all violators, and answers their ids.
fn close_all_that_are_open(ec2: &InProcess) -> Vec<String> {
    let open = |it: &&mut Instance| it.metadata_options.http_tokens == "optional";
    let close = |it: &mut Instance| {
        "disabled".clone_into(&mut it.metadata_options.http_endpoint);
        it.instance_id.clone()
    };
    ec2.model().instances.values_mut().filter(open).map(close).collect()
}

#[tokio::test(start_paused = true)]
async fn a_sweep_lists_no_more_than_a_report_has_room_for_and_logs_every_instance() {
    let ec2 = InProcess::new(violators(2500));
    let enforcer = ec2.enforcer(defaults(Mode::Observe)).await;
    collect_log();
    let report = report(enforcer.handle(&sample("ScheduledEvent/rule"), in_a_minute()).await);
    assert_eq!((report.counts.would_enforce, report.instances.len(), report.unlisted), (2500, LISTED, 2500 - LISTED));

    let of_instances = log_lines().into_iter().filter(|line| line["outcome"] == "would_enforce");
    let mut ids: Vec<_> = of_instances.map(|line| line["instance_id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    assert_eq!(ids.len(), 2500);
    assert!(ids.into_iter().eq((0..2500).map(id)), "every instance stands in the log, and once");
}

/// Whose cause takes the most room: an Auto Scaling group with the longest name.
fn of_a_group(mut instance: Instance) -> Instance {
    let tags = [
        ("aws:autoscaling:groupName", "g".repeat(255)),
        ("aws:ec2launchtemplate:id", "lt-0abcdef1234567890".to_owned()),
        ("aws:ec2launchtemplate:version", "7".to_owned()),
    ];
    instance.tags.extend(tags.map(|(key, value)| (key.to_owned(), value)));
    instance
}

#[tokio::test(start_paused = true)]
async fn a_report_that_lists_all_it_can_fits_into_an_answer_of_lambda() {
    let ec2 = InProcess::new(violators(2 * LISTED + 2).into_iter().map(of_a_group));
    (0..=LISTED).for_each(|n| ec2.model().deny(MODIFY, Some(&id(n))));
    let end = Instant::now() + Duration::from_mins(15);
    let report = report(ec2.enforcer(defaults(Mode::Enforce)).await.handle(&sample("ScheduledEvent/rule"), end).await);
    assert_eq!((report.instances.len(), report.unlisted), (2 * LISTED, 2));
    let bytes = serde_json::to_vec(&report).unwrap().len();
    assert!(bytes < 6_000_000, "{bytes} bytes");
}

/// All of them are ready a second later, but none at the first call: two tokens each are more than a
/// minute has, and the events of their start finish it.
#[tokio::test(start_paused = true)]
async fn a_launch_of_hundreds_that_are_not_ready_yet_costs_two_writes_each_at_the_most() {
    let instances = violators(200).into_iter().map(|it| not_ready(it, 1));
    let ec2 = InProcess::new(instances);
    let enforcer = ec2.enforcer(defaults(Mode::Enforce)).await;
    let first = report(enforcer.handle(&run_instances((0..200).map(id)), in_a_minute()).await);
    assert!(first.counts.enforced >= 150, "those that wait hold nobody up: {first}");
    let starts = (0..200).map(|n| ("start", running(&id(n))));
    let starts = report(enforcer.handle(&sqs(starts), in_a_minute()).await);
    assert_eq!(first.counts.enforced + starts.counts.enforced, 200, "{first}; {starts}");
    let (writes, _) = ec2.calls(MODIFY);
    assert!(writes <= 400, "{writes}");
}

/// A hundred failed calls would use up the SDK's own quota of retries, which only successes fill.
#[tokio::test(start_paused = true)]
async fn after_a_storm_of_errors_the_next_invocation_retries_as_ever() {
    let ec2 = InProcess::new(violators(200));
    let kind = error("InternalError", 500);
    ec2.model().faults.add(fault(MODIFY, None, None, kind.clone()));
    let enforcer = ec2.enforcer(defaults(Mode::Enforce)).await;
    let first = enforcer.handle(&run_instances((0..200).map(id)), Instant::now() + Duration::from_mins(1)).await;
    assert_eq!(first.unwrap_err().error_type(), "EnforcementIncomplete");

    tokio::time::sleep(Duration::from_mins(1)).await;
    ec2.model().faults.clear();
    ec2.model().faults.add(fault(MODIFY, Some(&id(0)), Some(2), kind));
    let next = enforcer.handle(&run_instances([id(0)]), Instant::now() + Duration::from_mins(1)).await;
    assert_eq!(report(next).counts.enforced, 1);
}

/// The error type of an invocation that holds a hundred thousand ids, all unknown to EC2.
#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_ids_are_answered_in_time_with_bounded_lists() {
    let ec2 = InProcess::new([]);
    let end = Instant::now() + Duration::from_mins(1);
    let error = ec2
        .enforcer(defaults(Mode::Enforce))
        .await
        .handle(&run_instances((0..100_000).map(id)), end)
        .await
        .unwrap_err();
    assert!(Instant::now() < end, "answered in time");
    assert!(error.to_string().len() < 100_000, "{}", error.to_string().len());
    let InvocationError::Incomplete(report) = error else { panic!("incomplete") };
    assert_eq!((report.counts.failed, report.instances.len(), report.unlisted), (100_000, LISTED, 100_000 - LISTED));
}
