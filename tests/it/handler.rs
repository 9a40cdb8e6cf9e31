//! The handler, with the real SDK, on a local EC2 that has nothing to hide.

use imds_enforcer::config::Mode;
use imds_enforcer::enforce::Answer;
use local_ec2::fault::Kind;
use local_ec2::model::{Instance, MetadataOptions};

use crate::harness::*;
use crate::in_process::InProcess;

#[tokio::test]
async fn three_violators_cost_one_describe_and_three_modifies() {
    let ec2 = local_ec2(violators(3));
    let report = report(handle(&ec2, &run_instances((0..3).map(id))).await);
    assert_eq!((report.counts.examined, report.counts.enforced), (3, 3));
    assert_eq!((count(&ec2, DESCRIBE), count(&ec2, MODIFY)), (1, 3));
    assert!(ec2.model().instances.values().all(|it| it.metadata_options.http_tokens == "required"));
}

#[tokio::test]
async fn of_a_thousand_instances_the_ten_violators_are_written_to() {
    let mut instances = violators(1000);
    for (n, instance) in instances.iter_mut().enumerate().filter(|(n, _)| n % 100 != 0) {
        *instance = compliant(&id(n));
    }
    let ec2 = local_ec2(instances);
    let end = in_a_minute();
    let answer = enforcer(&ec2, settings()).await.handle(&run_instances((0..1000).map(id)), end).await;
    let report = report(answer);
    assert_eq!((report.counts.examined, report.counts.enforced, report.counts.compliant), (1000, 10, 990));
    assert!(count(&ec2, DESCRIBE) <= 5, "{:?}", ec2.model().counts());
    assert_eq!(count(&ec2, MODIFY), 10);
    assert!(ec2.model().calls.iter().all(|call| call.error.is_none()), "not one call was throttled");
}

#[tokio::test]
async fn every_option_of_the_owner_stays_as_it_was() {
    let mut instances = Vec::new();
    for hop_limit in [1, 2, 3, 64] {
        for http_protocol_ipv6 in ["enabled", "disabled"] {
            for instance_metadata_tags in ["enabled", "disabled"] {
                for http_tokens in ["optional", "required"] {
                    let metadata_options = MetadataOptions {
                        http_tokens: http_tokens.to_owned(),
                        http_put_response_hop_limit: hop_limit,
                        http_protocol_ipv6: http_protocol_ipv6.to_owned(),
                        instance_metadata_tags: instance_metadata_tags.to_owned(),
                        ..MetadataOptions::default()
                    };
                    let mut instance = Instance::new(&id(instances.len()));
                    instance.metadata_options = metadata_options;
                    instances.push(instance);
                }
            }
        }
    }
    let ec2 = local_ec2(instances.clone());
    let report = report(handle(&ec2, &run_instances((0..instances.len()).map(id))).await);
    assert_eq!(report.counts.failed, 0);
    for before in instances {
        let after = ec2.model().instances[&before.instance_id].metadata_options.clone();
        let expected = MetadataOptions {
            http_tokens: "required".to_owned(),
            state: after.state.clone(),
            ..before.metadata_options
        };
        assert_eq!(after, expected);
    }
}

#[tokio::test]
async fn a_write_names_tokens_and_endpoint_and_nothing_else() {
    let ec2 = local_ec2(violators(1));
    drop(handle(&ec2, &run_instances([id(0)])).await);
    let [write] = &writes_to(&ec2, &id(0))[..] else { panic!("one write") };
    let names: Vec<_> = write.parameters.names().collect();
    assert_eq!(names, ["Action", "HttpEndpoint", "HttpTokens", "InstanceId", "Version"]);
    assert_eq!(write.parameters.get("HttpTokens"), Some("required"));
    assert_eq!(write.parameters.get("HttpEndpoint"), Some("enabled"));
}

#[tokio::test]
async fn an_instance_whose_endpoint_is_disabled_is_never_written_to() {
    let mut instance = Instance::new(&id(0));
    "disabled".clone_into(&mut instance.metadata_options.http_endpoint);
    let ec2 = local_ec2([instance]);
    for (event, looked_at) in [(run_instances([id(0)]), 1), (running(&id(0)), 1), (sample("ScheduledEvent/rule"), 0)] {
        let report = report(handle(&ec2, &event).await);
        assert_eq!(report.counts.endpoint_disabled, looked_at, "the sweep does not even fetch it");
    }
    assert_eq!(count(&ec2, MODIFY), 0);
}

#[tokio::test]
async fn a_second_run_writes_nothing() {
    let ec2 = local_ec2(violators(2));
    let event = run_instances((0..2).map(id));
    assert_eq!(report(handle(&ec2, &event).await).counts.enforced, 2);
    assert_eq!(report(handle(&ec2, &event).await).counts.compliant, 2);
    assert_eq!(count(&ec2, MODIFY), 2);
}

#[tokio::test]
async fn an_id_named_twice_is_looked_at_once() {
    let ec2 = local_ec2(violators(1));
    let report = report(handle(&ec2, &run_instances([id(0), id(0)])).await);
    assert_eq!(report.counts.examined, 1);
    assert_eq!(count(&ec2, MODIFY), 1);
}

#[tokio::test]
async fn a_launch_without_ids_finds_the_violators_by_filter() {
    let mut instances = violators(12);
    instances[3] = compliant(&id(3));
    "terminated".clone_into(&mut instances[4].state);
    let ec2 = local_ec2(instances);
    let report = report(handle(&ec2, &sample("RunInstances/omitted")).await);
    assert_eq!((report.counts.examined, report.counts.enforced), (10, 10));
    assert_eq!(count(&ec2, DESCRIBE), 1);
}

/// A running instance that was created at one time and last started at another.
fn started(id: &str, created: &str, launch_time: &str) -> Instance {
    let mut instance = Instance::new(id);
    (instance.attach_time, instance.launch_time) = (Some(created.to_owned()), launch_time.to_owned());
    instance
}

#[tokio::test]
async fn a_launch_without_ids_is_no_reason_to_write_to_what_is_older() {
    let lately = "2026-11-02T09:13:00.000Z";
    let ec2 = local_ec2([
        started(&id(0), lately, lately),
        started(&id(1), "2026-11-02T09:09:07.000Z", lately),
        started(&id(2), "2026-11-02T09:09:06.000Z", lately),
        started(&id(3), "2023-03-01T00:00:00.000Z", lately),
    ]);
    let launched = report(handle(&ec2, &sample("RunInstances/omitted")).await);
    let enforced = |n| (id(n), "enforced".to_owned());
    assert_eq!(outcomes(&launched), [enforced(0), enforced(1)], "created five minutes before the event at most");
    let timeless = handle(&ec2, &sample("RunInstances/omitted-without-a-readable-time")).await;
    assert!(report(timeless).ignored.is_some());
    let swept = report(handle(&ec2, &sample("ScheduledEvent/rule")).await);
    assert_eq!(outcomes(&swept), [enforced(2), enforced(3)]);
}

#[tokio::test]
async fn the_sweep_reads_every_page() {
    let ec2 = local_ec2(violators(2100));
    ec2.model().buckets.unlimited = true;
    let enforcer = enforcer(&ec2, observing()).await;
    let report = report(enforcer.handle(&sample("ScheduledEvent/rule"), in_a_minute()).await);
    assert_eq!(report.counts.would_enforce, 2100);
    assert_eq!(count(&ec2, DESCRIBE), 3);
}

#[tokio::test]
async fn observe_mode_reports_what_enforce_mode_would_write_and_writes_nothing() {
    let ec2 = local_ec2(violators(3).into_iter().chain([compliant(&id(3))]));
    let enforcer = enforcer(&ec2, observing()).await;
    let report = report(enforcer.handle(&run_instances((0..4).map(id)), in_a_minute()).await);
    assert_eq!((report.counts.would_enforce, report.counts.compliant), (3, 1));
    assert_eq!(count(&ec2, MODIFY), 0);
}

#[tokio::test]
async fn an_ignored_or_refused_event_costs_no_call() {
    let ec2 = local_ec2([]);
    for name in ["RunInstances/failed", "RunInstances/dry-run", "StateChange/terminated", "Other/object-created"] {
        assert!(report(handle(&ec2, &sample(name)).await).ignored.is_some(), "{name}");
    }
    for (name, error_type) in [
        ("Other/another-region", "WrongRegion"),
        ("Other/no-event", "UnreadableEvent"),
        ("Other/no-object", "UnreadableEvent"),
    ] {
        assert_eq!(handle(&ec2, &sample(name)).await.unwrap_err().error_type(), error_type, "{name}");
    }
    assert!(ec2.model().calls.is_empty());
}

#[tokio::test]
async fn a_new_instance_is_waited_for() {
    let mut instance = Instance::new(&id(0));
    instance.invisible_for_calls = 2;
    let ec2 = local_ec2([instance]);
    assert_eq!(report(handle(&ec2, &run_instances([id(0)])).await).counts.enforced, 1);
    assert_eq!(count(&ec2, DESCRIBE), 3);
}

#[tokio::test(start_paused = true)]
async fn while_one_instance_is_waited_for_another_is_enforced() {
    let mut instances = violators(2);
    instances[1].invisible_for_calls = 1;
    let ec2 = InProcess::new(instances);
    let report =
        report(ec2.enforcer(defaults(Mode::Enforce)).await.handle(&run_instances((0..2).map(id)), in_a_minute()).await);
    assert_eq!(report.counts.enforced, 2);
    let model = ec2.model();
    let calls: Vec<_> =
        model.calls.iter().map(|call| (call.action.as_str(), call.parameters.get("InstanceId"))).collect();
    let (first, second) = (id(0), id(1));
    assert_eq!(calls, [(DESCRIBE, None), (MODIFY, Some(&*first)), (DESCRIBE, None), (MODIFY, Some(&*second))]);
}

#[tokio::test]
async fn an_instance_that_is_not_ready_yet_is_tried_once_again_and_then_by_another_event() {
    for (for_calls, enforced) in [(1, 1), (2, 0)] {
        let ec2 = local_ec2([not_ready(Instance::new(&id(0)), for_calls)]);
        assert_eq!(report(handle(&ec2, &run_instances([id(0)])).await).counts.enforced, enforced);
        assert_eq!(count(&ec2, MODIFY), 2);
        assert_eq!(report(handle(&ec2, &running(&id(0))).await).counts.failed, 0);
        assert!(writes_to(&ec2, &id(0)).iter().any(|call| call.error.is_none()));
    }
}

#[tokio::test]
async fn a_batch_is_looked_up_together_and_each_instance_once() {
    let ec2 = local_ec2(violators(3));
    let event = sqs([
        ("a", running(&id(0))),
        ("b", running(&id(1))),
        ("c", running(&id(0))),
        ("d", run_instances((0..3).map(id))),
    ]);
    let Ok(Answer::Batch { response, .. }) = handle(&ec2, &event).await else { panic!("a batch is answered") };
    assert!(response.batch_item_failures.is_empty());
    assert_eq!((count(&ec2, DESCRIBE), count(&ec2, MODIFY)), (1, 3));
}

#[tokio::test]
async fn of_a_batch_the_messages_that_may_be_tried_again_or_read_by_somebody_are_named_and_no_others() {
    let ec2 = local_ec2(violators(2));
    ec2.model().deny(MODIFY, Some(&id(1)));
    let event = sqs([
        ("good", running(&id(0))),
        ("denied", running(&id(1))),
        ("unknown", running(&id(7))),
        ("unreadable", "{".to_owned()),
        ("elsewhere", sample("Other/another-region")),
        ("both", run_instances([id(0), id(1)])),
        ("malformed", run_instances([id(0), "i-nonsense".to_owned()])),
        ("ignored", sample("RunInstances/failed")),
    ]);
    let Ok(Answer::Batch { response, .. }) = handle(&ec2, &event).await else { panic!("a batch is answered") };
    let failed: Vec<_> = response.batch_item_failures.iter().map(|it| it.item_identifier.as_str()).collect();
    assert_eq!(failed, ["unknown", "unreadable", "elsewhere", "malformed"]);
}

#[tokio::test]
async fn who_loosened_what_is_mended_by_now_is_reported() {
    let ec2 = local_ec2([compliant("i-0b100000000000001")]);
    let report = report(handle(&ec2, &sample("ModifyInstanceMetadataOptions/downgrade-to-optional")).await);
    let instance = serde_json::to_value(&report.instances[0]).unwrap();
    assert_eq!((&instance["outcome"], &instance["cause"]["kind"]), (&"compliant".into(), &"modification".into()));
    assert_ne!(instance["cause"]["actor"], "unknown");
    assert_eq!(count(&ec2, MODIFY), 0);
}

#[tokio::test]
async fn what_is_not_ready_may_be_tried_again_however_old_the_event_is() {
    let ec2 = local_ec2([not_ready(Instance::new(&id(0)), 9)]);
    let event = running(&id(0)).replace("2026-11-02T", "2026-11-01T");
    assert_eq!(sent_back(handle(&ec2, &sqs([("start", event)])).await), ["start"]);
}

#[tokio::test]
async fn what_was_not_looked_at_comes_back_whatever_ec2_answered_but_no_sweep() {
    for code in ["UnauthorizedOperation", "AuthFailure", "InternalError"] {
        let ec2 = local_ec2(violators(1));
        ec2.model().faults.add(fault(DESCRIBE, None, None, error(code, 400)));
        let event = sqs([
            ("start", running(&id(0))),
            ("launch without ids", sample("RunInstances/omitted")),
            ("sweep", sample("ScheduledEvent/rule")),
        ]);
        assert_eq!(sent_back(handle(&ec2, &event).await), ["start", "launch without ids"], "{code}");
    }
}

#[tokio::test]
async fn a_sweep_whose_list_breaks_off_says_so_and_is_no_failure() {
    let ec2 = local_ec2(violators(1500));
    ec2.model().buckets.unlimited = true;
    ec2.model().faults.add(fault(DESCRIBE, None, Some(1), Kind::Delay { milliseconds: 0 }));
    ec2.model().faults.add(fault(DESCRIBE, None, None, error("InternalError", 500)));
    let answer = enforcer(&ec2, observing()).await.handle(&sample("ScheduledEvent/rule"), in_a_minute()).await;
    assert!(answer.is_ok(), "{answer:?}");
    let report = report(answer);
    assert_eq!((report.counts.would_enforce, report.error.unwrap().code.as_str()), (1000, "InternalError"));
}

#[tokio::test]
async fn a_batch_with_a_message_that_could_not_be_named_fails_as_a_whole() {
    let ec2 = local_ec2([]);
    for records in [r#"[{"eventSource":"aws:sqs","body":"{}"}]"#, r#"[{"eventSource":"aws:s3","messageId":"a"}]"#, "7"]
    {
        let error = handle(&ec2, &format!(r#"{{"Records":{records}}}"#)).await.unwrap_err();
        assert_eq!(error.error_type(), "UnreadableEvent");
        assert!(error.to_string().contains("Records"), "{error}");
    }
}

/// A violator that EKS manages, which lists leave out unless they ask for managed resources.
fn hidden(id: &str) -> Instance {
    let mut instance = Instance::new(id);
    (instance.managed_by, instance.hidden_by_default) = (Some("eks.amazonaws.com".to_owned()), true);
    instance
}

#[tokio::test]
async fn what_a_service_manages_is_found_although_it_is_hidden_and_never_written_to() {
    let ec2 = local_ec2([hidden(&id(0)), Instance::new(&id(1))]);
    for event in [run_instances((0..2).map(id)), running(&id(0)), sample("ScheduledEvent/rule")] {
        let report = report(handle(&ec2, &event).await);
        assert_eq!((report.counts.managed, report.counts.failed), (1, 0), "{report}");
        let [managed, ..] = &report.instances[..] else { panic!("the managed instance is listed") };
        let cause = managed.details.cause.as_deref().unwrap();
        assert_eq!((cause.kind.as_str(), cause.belongs_to()), ("service", Some("eks.amazonaws.com")));
    }
    assert!(writes_to(&ec2, &id(0)).is_empty());
    assert_eq!(writes_to(&ec2, &id(1)).len(), 1);
}

#[tokio::test]
async fn who_launched_it_is_known_in_the_end_although_it_is_enforced_already() {
    let ec2 = local_ec2(fleet());
    let id = "i-0ac00000000000001";
    let launch = sample("RunInstances/asks-for-optional");
    assert!(launch.contains(id));
    let started = report(handle(&ec2, &running(id)).await);
    assert_eq!((started.counts.enforced, &*started.instances[0].details.cause.as_ref().unwrap().actor), (1, "unknown"));
    for _ in 0..2 {
        let launched = report(handle(&ec2, &launch).await);
        assert_eq!((launched.counts.compliant, launched.counts.enforced), (1, 0));
        let cause = launched.instances[0].details.cause.as_ref().unwrap();
        assert_eq!((cause.kind.as_str(), cause.actor.contains("assumed-role")), ("launch_call", true));
    }
    assert_eq!(count(&ec2, MODIFY), 1);
    ec2.model().instances.get_mut(id).unwrap().state = "terminated".to_owned();
    let gone = report(handle(&ec2, &launch).await);
    assert_eq!((gone.counts.gone, gone.instances[0].details.cause.is_some()), (1, true));
}

#[tokio::test]
async fn what_came_up_with_tokens_required_is_nobody_s_doing() {
    let ec2 = local_ec2(fleet());
    for name in ["RunInstances/already-required", "ModifyInstanceMetadataOptions/our-own-change"] {
        let report = report(handle(&ec2, &sample(name)).await);
        assert!(report.counts.compliant > 0, "{name}");
        assert!(report.instances.iter().all(|instance| instance.details.cause.is_none()), "{name}: {report:?}");
    }
}
