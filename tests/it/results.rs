//! Results on a bus: what the real SDK sends of every sample, taken by a consumer that knows the
//! schema alone; and that no bus ever undoes or hides an enforcement.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_ec2::config::http::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use imds_enforcer::aws::ec2::SdkEc2;
use imds_enforcer::aws::eventbridge::SdkEventBridge;
use imds_enforcer::config::Mode;
use imds_enforcer::enforce::{Enforcer, InvocationError, Options, Settings};
use imds_enforcer::report::{InstanceReport, Report};
use local_ec2::LocalEc2;
use local_ec2::model::Instance;
use serde::Serialize;
use serde_json::{Value, json};

use crate::harness::*;
use crate::in_process::InProcess;
use crate::samples::names;
use crate::stand_in::python;

/// EventBridge without sockets: keeps what it takes, and does to each call what its fault says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bus {
    taken: Arc<Mutex<Vec<Value>>>,
    calls: Arc<Mutex<Vec<usize>>>,
    /// Where each request was sent, and the authorization that it had.
    requests: Arc<Mutex<Vec<(String, String)>>>,
    fault: Option<BusFault>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum BusFault {
    Denies,
    Hangs,
    Drops,
    /// Takes every other entry, whenever it is asked.
    TakesHalf(&'static str),
}

impl Bus {
    fn put(&self, body: &Value) -> (u16, Value) {
        let entries = body["Entries"].as_array().unwrap();
        assert!((1..=10).contains(&entries.len()) && body.to_string().len() < 256 * 1024);
        self.calls.lock().unwrap().push(entries.len());
        let mut answers = Vec::new();
        for (n, entry) in entries.iter().enumerate() {
            match self.fault {
                Some(BusFault::Denies) => {
                    return (400, json!({"__type": "AccessDeniedException", "message": "not allowed"}));
                }
                Some(BusFault::TakesHalf(code)) if n % 2 == 1 => {
                    answers.push(json!({"ErrorCode": code, "ErrorMessage": "no"}));
                }
                Some(BusFault::TakesHalf(_) | BusFault::Hangs | BusFault::Drops) | None => {
                    answers.push(json!({"EventId": n.to_string()}));
                    self.taken.lock().unwrap().push(entry.clone());
                }
            }
        }
        let failed = answers.iter().filter(|it| it.get("ErrorCode").is_some()).count();
        (200, json!({"FailedEntryCount": failed, "Entries": answers}))
    }

    async fn sdk(&self, bus: &str) -> SdkEventBridge {
        let connector = SharedHttpConnector::new(self.clone());
        let config = sdk_config().http_client(http_client_fn(move |_, _| connector.clone())).load().await;
        SdkEventBridge::new(&config, bus.to_owned())
    }

    /// A bus with this fault.
    pub(crate) fn with(fault: BusFault) -> Self {
        Self { fault: Some(fault), ..Self::default() }
    }

    /// The settings of a function that publishes to this bus.
    pub(crate) async fn settings(&self, mode: Mode) -> Settings {
        let settings = settings();
        let options = Options { result_bus: Some(Box::new(self.sdk("security").await)), ..settings.options };
        Settings { mode, options, ..settings }
    }

    async fn enforcer(&self, ec2: &LocalEc2, mode: Mode) -> Enforcer<SdkEc2> {
        enforcer(ec2, self.settings(mode).await).await
    }

    /// What it took.
    pub(crate) fn taken(&self) -> Vec<Value> {
        self.taken.lock().unwrap().clone()
    }
}

impl HttpConnector for Bus {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        assert_eq!(request.headers().get("x-amz-target"), Some("AWSEvents.PutEvents"));
        let authorization = request.headers().get("authorization").unwrap_or_default().to_owned();
        self.requests.lock().unwrap().push((request.uri().to_owned(), authorization));
        if let Some(BusFault::Drops) = self.fault {
            return HttpConnectorFuture::ready(Err(ConnectorError::io("connection closed".into())));
        }
        if let Some(BusFault::Hangs) = self.fault {
            return HttpConnectorFuture::new(std::future::pending());
        }
        let (status, body) = self.put(&serde_json::from_slice(request.body().bytes().unwrap()).unwrap());
        let body = SdkBody::from(body.to_string());
        HttpConnectorFuture::ready(Ok(HttpResponse::new(status.try_into().unwrap(), body)))
    }
}

/// The report on an event, with this bus and in this mode; none on one that is refused.
async fn handled(ec2: &LocalEc2, event: &str, mode: Mode, bus: &Bus) -> Option<Report> {
    match bus.enforcer(ec2, mode).await.handle(event, in_a_minute()).await {
        Err(InvocationError::Event(_)) => None,
        answer => Some(report(answer)),
    }
}

/// Hands JSON to a script as standard input, and answers whether it took them and what it said.
pub(crate) fn output_of(script: &str, entries: &impl Serialize) -> (bool, String) {
    let mut child = Command::new(python())
        .arg(root().join("tests/it").join(script))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(serde_json::to_vec(entries).unwrap().as_slice()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].map(|it| String::from_utf8_lossy(&it).into_owned()).concat();
    (output.status.success(), text)
}

/// One instance for each thing that an instance can belong to.
fn of_every_origin() -> Vec<Instance> {
    let template = [("aws:ec2launchtemplate:id", "lt-0abcdef1234567890"), ("aws:ec2launchtemplate:version", "7")];
    let origins: [&[(&str, &str)]; 7] = [
        &[("elasticbeanstalk:environment-name", "shop")],
        &[("AWSBatchServiceTag", "batch")],
        &[("eks:nodegroup-name", "workers"), ("eks:cluster-name", "blue")],
        &[("aws:autoscaling:groupName", "web blue")],
        &[("aws:ec2:fleet-id", "fleet-1")],
        &[("aws:ec2spot:fleet-request-id", "sfr-1")],
        &[("Name", "nobody's")],
    ];
    let instance = |(n, tags): (usize, Vec<(&str, &str)>)| {
        let mut instance = Instance::new(&id(n));
        instance.tags = tags.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        instance
    };
    let with_template = origins.iter().map(|tags| [*tags, &template].concat());
    let without = origins.iter().map(|tags| tags.to_vec());
    let mut instances: Vec<_> = with_template.chain(without).enumerate().map(instance).collect();
    instances[0].managed_by = Some("eks.amazonaws.com".to_owned());
    instances
}

/// How many results there are of an event: of each instance that was enforced, of those that it named
/// and that are not as they should be, or were not, and of the sweep.
fn expected(report: &Report) -> usize {
    let is_sweep = report.event.name == "Scheduled Event";
    let is_result = |it: &&InstanceReport| {
        let failure = it.failure().filter(|it| !it.retryable && it.code != "InvalidInstanceID.Malformed");
        match it.outcome.as_str() {
            "enforced" => true,
            "would_enforce" | "exempt" | "in_use" | "managed" | "created_before" => !is_sweep,
            "compliant" | "gone" => it.details.cause.is_some(),
            "failed" => failure.is_some() && !is_sweep,
            _ => false,
        }
    };
    report.instances.iter().filter(is_result).count() + usize::from(is_sweep)
}

/// What a bus gets of every sample in this mode, and of state changes of every origin, one of which is
/// refused.
async fn results_of_all(mode: Mode) -> Vec<Value> {
    let bus = Bus::default();
    let mut count = 0;
    for name in names() {
        let report = handled(&local_ec2(fleet()), &sample(&name), mode, &bus).await;
        count += report.as_ref().map_or(0, expected);
        assert_eq!(bus.taken().len(), count, "{name}");
    }
    let instances = of_every_origin();
    let events = instances.iter().map(|it| ("message", running(&it.instance_id)));
    let event = sqs(events);
    let ec2 = local_ec2(instances);
    ec2.model().deny(MODIFY, Some(&id(13)));
    drop(handled(&ec2, &event, mode, &bus).await);
    bus.taken()
}

#[tokio::test]
async fn a_consumer_that_knows_the_schema_takes_every_result() {
    for (mode, types) in [(Mode::Enforce, 6), (Mode::Observe, 5)] {
        let results = results_of_all(mode).await;
        let (took, output) = output_of("consumer.py", &results);
        assert!(took, "{output}");
        let counts: BTreeMap<String, usize> = serde_json::from_str(&output).unwrap();
        assert_eq!(counts.values().sum::<usize>(), results.len());
        assert_eq!(counts.keys().filter(|it| *it != "dropped").count(), types, "{output}");
        assert!(results.iter().all(|it| it["EventBusName"] == "security"));
    }
}

/// The details of results of this type.
fn details(results: &[Value], detail_type: &str) -> Vec<Value> {
    let of_type = results.iter().filter(|it| it["DetailType"] == detail_type);
    of_type.map(|it| serde_json::from_str(it["Detail"].as_str().unwrap()).unwrap()).collect()
}

#[tokio::test]
async fn a_sweep_is_one_result_however_many_instances_it_finds_as_they_were() {
    let bus = Bus::default();
    let mut instances = violators(1200);
    for (n, instance) in instances.iter_mut().enumerate() {
        let tag = if n < 200 {
            ("imds-exemption", "2026-11-30".to_owned())
        } else {
            ("aws:autoscaling:groupName", format!("group-{}", n % 70))
        };
        instance.tags.insert(tag.0.to_owned(), tag.1);
    }
    let ec2 = local_ec2(instances);
    ec2.model().buckets.unlimited = true;
    let report = handled(&ec2, &sample("ScheduledEvent/rule"), Mode::Observe, &bus).await.unwrap();
    assert_eq!((report.counts.would_enforce, report.counts.exempt), (1000, 200));
    let [digest] = &details(&bus.taken(), "IMDS Sweep Digest")[..] else { panic!("{:?}", bus.taken().len()) };
    assert_eq!((bus.taken().len(), &digest["counts"]["would_enforce"]), (1, &1000.into()));
    assert_eq!(digest["causes"][0], json!({"kind": "unknown", "count": 200}));
    assert_eq!(digest["causes"].as_array().unwrap().len(), 50);
    assert_eq!((&digest["exemptions"][0]["until"], &digest["other_exemptions"]), (&"2026-11-30".into(), &100.into()));
    assert!(digest["summary"]["what"].as_str().unwrap().contains("1000 would be enforced"), "{digest}");
    assert!(output_of("consumer.py", &bus.taken()).0);
}

#[tokio::test]
async fn a_sweep_that_is_refused_says_so_in_its_digest_and_one_that_cannot_look_has_one_too() {
    let bus = Bus::default();
    let ec2 = local_ec2(violators(8));
    (0..7).for_each(|n| ec2.model().deny(MODIFY, Some(&id(n))));
    drop(handled(&ec2, &sample("ScheduledEvent/rule"), Mode::Enforce, &bus).await);
    ec2.model().deny(DESCRIBE, None);
    drop(handled(&ec2, &sample("ScheduledEvent/scheduler"), Mode::Enforce, &bus).await);
    let (took, output) = output_of("consumer.py", &bus.taken());
    assert!(took, "{output}");
    let [refused, failed] = &details(&bus.taken(), "IMDS Sweep Digest")[..] else { panic!("two: {output}") };
    assert_eq!((bus.taken().len(), &refused["refusals"][0]["count"]), (3, &7.into()), "{output}");
    assert_eq!(refused["refusals"][0]["instance_ids"].as_array().unwrap().len(), 5);
    assert_eq!((&failed["error"]["code"], &failed["counts"]["examined"]), (&"UnauthorizedOperation".into(), &0.into()));
}

#[tokio::test]
async fn an_event_that_is_handled_twice_has_the_same_ids_and_a_message_its_own_event() {
    let (bus, event) = (Bus::default(), sample("RunInstances/three"));
    for _ in 0..2 {
        drop(handled(&local_ec2(fleet()), &event, Mode::Enforce, &bus).await);
    }
    drop(handled(&local_ec2(fleet()), &sqs([("m", event.clone())]), Mode::Enforce, &bus).await);
    let (took, output) = output_of("consumer.py", &bus.taken());
    assert!(took, "{output}");
    assert_eq!(output.trim(), r#"{"IMDS Tokens Required": 3, "dropped": 6}"#);
    let event: Value = serde_json::from_str(&event).unwrap();
    let result = &details(&bus.taken(), "IMDS Tokens Required")[0];
    let id = format!("{}/{}/enforced", event["id"].as_str().unwrap(), result["instance_id"].as_str().unwrap());
    assert_eq!(result["result_id"], id);
}

/// A launch of which one instance can't be changed yet comes back again and again.
#[tokio::test]
async fn an_event_that_comes_back_attributes_when_it_is_done_and_not_each_time() {
    let (bus, launch) = (Bus::default(), sample("RunInstances/asks-for-optional"));
    let mut event: Value = serde_json::from_str(&launch).unwrap();
    let items = event["detail"]["responseElements"]["instancesSet"]["items"].as_array_mut().unwrap();
    let mut other = items[0].clone();
    other["instanceId"] = id(0).into();
    let first = items[0]["instanceId"].as_str().unwrap().to_owned();
    items.push(other);
    let launch = sqs([("launch", event.to_string())]);
    let ec2 = local_ec2([compliant(&first), not_ready(Instance::new(&id(0)), 4)]);
    for (receive, attributed) in [(1, 1), (2, 1), (3, 2)] {
        drop(handled(&ec2, &received(&launch, receive), Mode::Enforce, &bus).await);
        assert_eq!(details(&bus.taken(), "IMDS Launch Attributed").len(), attributed, "receive {receive}");
    }
    assert_eq!(details(&bus.taken(), "IMDS Tokens Required").len(), 1);
}

#[tokio::test]
async fn a_refusal_is_a_result_once_and_not_with_each_start() {
    for (instance, receive, results) in
        [(Instance::new(&id(0)), 1, 1), (Instance::new(&id(0)), 2, 0), (old(Instance::new(&id(0))), 1, 0)]
    {
        let (bus, ec2) = (Bus::default(), local_ec2([instance]));
        ec2.model().deny(MODIFY, None);
        drop(handled(&ec2, &received(&sqs([("start", running(&id(0)))]), receive), Mode::Enforce, &bus).await);
        assert_eq!(details(&bus.taken(), "IMDS Enforcement Failed").len(), results);
    }
}

#[tokio::test]
async fn in_a_batch_what_a_launch_without_ids_led_to_has_the_id_of_that_event() {
    let bus = Bus::default();
    let mut instances = violators(1);
    "2026-11-02T09:14:05.000Z".clone_into(&mut instances[0].launch_time);
    let ec2 = local_ec2(instances);
    let event = sqs([("a", running(&id(7))), ("b", sample("RunInstances/omitted"))]);
    drop(handled(&ec2, &event, Mode::Observe, &bus).await);
    let [result] = &details(&bus.taken(), "IMDS Tokens Would Be Required")[..] else { panic!("one result") };
    assert_eq!(result["event"]["name"], "RunInstances");
    assert!(result["result_id"].as_str().unwrap().ends_with(&format!("/{}/would_enforce", id(0))), "{result}");
}

#[tokio::test]
async fn a_bus_is_called_in_the_region_of_its_arn() {
    for (name, host, region) in [
        ("security", "events.us-east-1.amazonaws.com", "us-east-1"),
        ("arn:aws:events:us-east-1:111122223333:event-bus/security", "events.us-east-1.amazonaws.com", "us-east-1"),
        ("arn:aws:events:eu-west-1:111122223333:event-bus/security", "events.eu-west-1.amazonaws.com", "eu-west-1"),
        ("arn:aws-cn:events:cn-north-1:111122223333:event-bus/a", "events.cn-north-1.amazonaws.com.cn", "cn-north-1"),
    ] {
        let bus = Bus::default();
        let settings = settings();
        let options = Options { result_bus: Some(Box::new(bus.sdk(name).await)), ..settings.options };
        let ec2 = local_ec2(violators(1));
        let enforcer = enforcer(&ec2, Settings { options, ..settings }).await;
        drop(enforcer.handle(&run_instances([id(0)]), in_a_minute()).await);
        let requests = bus.requests.lock().unwrap();
        let [(uri, authorization)] = &requests[..] else { panic!("one request: {requests:?}") };
        assert!(uri.starts_with(&format!("https://{host}/")), "{name}: {uri}");
        assert!(authorization.contains(&format!("/{region}/events/aws4_request")), "{name}: {authorization}");
        assert_eq!(bus.taken()[0]["EventBusName"], name);
    }
}

/// An instance with an exemption of this reason.
fn exempt(reason: &str) -> Instance {
    let mut instance = Instance::new(&id(0));
    instance.tags.insert("imds-exemption".to_owned(), format!("2026-11-30 {reason}"));
    instance
}

#[tokio::test]
async fn a_message_can_be_made_of_any_result_whatever_an_exemption_says() {
    let reason = "\"legacy\"\n<b>\\u0022 C:\\new \u{202e}end";
    let bus = Bus::default();
    drop(handled(&local_ec2([exempt(reason)]), &running(&id(0)), Mode::Enforce, &bus).await);
    let [result] = &details(&bus.taken(), "IMDS Exemption Used")[..] else { panic!("one result") };
    assert_eq!(result["exemption"]["reason"], reason, "as the tag says");
    let summary = result["summary"].as_object().unwrap();
    for (line, value) in summary {
        // EventBridge puts a value into a text in quotes as it is.
        let value = value.as_str().unwrap().replace('\n', "\\n");
        let text: String = serde_json::from_str(&format!("\"{value}\"")).unwrap();
        assert_eq!(Value::from(text), summary[line]);
    }
    assert!(
        summary["what"].as_str().unwrap().contains("exempt until 2026-11-30 ('legacy' (b)/u0022 C:/new"),
        "{result}"
    );
    assert_eq!(summary["text"].as_str().unwrap().lines().count(), 5);
    assert!(output_of("consumer.py", &bus.taken()).0);
}

#[tokio::test]
async fn a_consumer_refuses_another_version_and_what_the_schema_does_not_say() {
    let bus = Bus::default();
    drop(handled(&local_ec2(violators(1)), &run_instances([id(0)]), Mode::Enforce, &bus).await);
    let [result] = &bus.taken()[..] else { panic!("one result") };
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut detail: Value = serde_json::from_str(result["Detail"].as_str().unwrap()).unwrap();
        change(&mut detail);
        let mut result = result.clone();
        result["Detail"] = detail.to_string().into();
        output_of("consumer.py", &[result])
    };
    assert!(changed(&|_| {}).0);
    for (why, change) in [
        (
            "schema_version '1' is not known",
            &(|it: &mut Value| it["schema_version"] = "1".into()) as &dyn Fn(&mut Value),
        ),
        ("schema_version None is not known", &|it| drop(it.as_object_mut().unwrap().remove("schema_version"))),
        ("'colour' was unexpected", &|it| it["colour"] = "red".into()),
        ("'undo' is a required property", &|it| drop(it.as_object_mut().unwrap().remove("undo"))),
        ("is the result of an instance that is failed", &|it| it["outcome"] = "failed".into()),
        ("has the fields of another result", &|it| it["counts"] = json!({})),
        ("does not match", &|it| it["summary"]["what"] = "a \"quote\"".into()),
        ("is not one of", &|it| it["cause"]["kind"] = "guess".into()),
    ] {
        let (took, output) = changed(change);
        assert!(!took && output.contains(why), "{why}: {output}");
    }
}

#[tokio::test]
async fn every_command_that_is_suggested_fits_the_apis_of_aws() {
    let results = [results_of_all(Mode::Enforce).await, results_of_all(Mode::Observe).await].concat();
    let (fits, output) = output_of("commands.py", &results);
    assert!(fits, "{output}");
    let checked: BTreeMap<String, usize> = serde_json::from_str(&output).unwrap();
    for action in [
        "ec2 modify-instance-metadata-options",
        "ec2 modify-instance-metadata-defaults",
        "ec2 describe-launch-template-versions",
        "ec2 create-launch-template-version",
        "ec2 modify-launch-template",
        "autoscaling update-auto-scaling-group",
        "autoscaling describe-auto-scaling-groups",
        "eks describe-nodegroup",
    ] {
        assert!(checked.contains_key(action), "{action} was not among {output}");
    }
}

#[tokio::test]
async fn twenty_three_results_take_three_calls() {
    let bus = Bus::default();
    let ec2 = local_ec2(violators(23));
    let report = handled(&ec2, &run_instances((0..23).map(id)), Mode::Enforce, &bus).await;
    let results = report.unwrap().results.unwrap();
    assert_eq!((results.published, results.unpublished), (23, 0));
    assert_eq!(*bus.calls.lock().unwrap(), [10, 10, 3]);
}

#[tokio::test]
async fn no_bus_undoes_or_hides_an_enforcement() {
    for (fault, code, published) in [
        (BusFault::Denies, "AccessDeniedException", 0),
        (BusFault::Drops, "DispatchFailure", 0),
        (BusFault::TakesHalf("InvalidAccountIdException"), "InvalidAccountIdException", 2),
        (BusFault::TakesHalf("ThrottlingException"), "", 3),
    ] {
        let bus = Bus::with(fault);
        let ec2 = local_ec2(violators(3));
        let enforcer = bus.enforcer(&ec2, Mode::Enforce).await;
        let answer = enforcer.handle(&run_instances((0..3).map(id)), in_a_minute()).await;
        assert!(answer.is_ok(), "{fault:?}");
        let report = report(answer);
        assert_eq!((report.counts.enforced, count(&ec2, MODIFY)), (3, 3), "{fault:?}");
        let results = report.results.clone().unwrap();
        assert_eq!((results.published, results.unpublished), (published, 3 - published), "{fault:?}");
        assert_eq!(results.error.map_or_else(String::new, |error| error.code), code);
    }
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_hangs_does_not_keep_the_answer() {
    let bus = Bus::with(BusFault::Hangs);
    let ec2 = InProcess::new(violators(3));
    let enforcer = ec2.enforcer(bus.settings(Mode::Enforce).await).await;
    let end = tokio::time::Instant::now() + Duration::from_secs(2);
    let report = report(enforcer.handle(&run_instances((0..3).map(id)), end).await);
    assert!(tokio::time::Instant::now() < end);
    assert_eq!((report.counts.enforced, report.results.unwrap().unpublished), (3, 3));
}
