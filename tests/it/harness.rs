//! What several modules of tests need: the handler on a local EC2, samples, and short waits.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use aws_config::ConfigLoader;
use aws_sdk_ec2::config::{Credentials, Region};
use chrono::{DateTime, Utc};
use imds_enforcer::aws::ec2::SdkEc2;
use imds_enforcer::aws::http::{Roots, sdk_config_loader};
use imds_enforcer::config::Mode;
use imds_enforcer::enforce::{Answer, Enforcer, InvocationError, Options, Settings};
use imds_enforcer::policy::exemption::Exemptions;
use imds_enforcer::report::Report;
use local_ec2::LocalEc2;
use local_ec2::fault::{Fault, Kind};
use local_ec2::model::{Call, Instance, Model};
use serde_json::{Value, json};
use tokio::time::Instant;

/// The Region of all samples but one.
pub(crate) const REGION: &str = "us-east-1";

/// The repository.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the repository, as text.
pub(crate) fn text(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// `events/<name>.json`.
pub(crate) fn sample(name: &str) -> String {
    text(format!("events/{name}.json"))
}

/// A local EC2 with these instances, where options are applied at once.
pub(crate) fn local_ec2(instances: impl IntoIterator<Item = Instance>) -> LocalEc2 {
    let mut model = Model::with_transition(Duration::ZERO);
    for instance in instances {
        model.put(instance);
    }
    LocalEc2::start(0, model).unwrap()
}

/// The instances that the samples name.
pub(crate) fn fleet() -> Vec<Instance> {
    serde_json::from_str(&text("tests/fleet.json")).unwrap()
}

/// The configuration of the SDK, but for the way to EC2.
pub(crate) fn sdk_config() -> ConfigLoader {
    let credentials = Credentials::new("AKIAIOSFODNN7EXAMPLE", "not-a-secret", None, None, "tests");
    sdk_config_loader(Roots::Environment).region(Region::new(REGION)).credentials_provider(credentials)
}

/// What the binary has by default, in this mode.
pub(crate) fn defaults(mode: Mode) -> Settings {
    Settings::new("imds-enforcer".to_owned(), REGION.to_owned(), mode)
}

/// Enforce mode, with the exemption tag of the samples, and little waiting for instances to become
/// visible.
pub(crate) fn settings() -> Settings {
    let exemptions = Some(Exemptions { tag: "imds-exemption".to_owned(), max_days: 90 });
    let options = Options { exemptions, ..Options::default() };
    Settings { waits: vec![Duration::from_millis(20); 4], options, ..defaults(Mode::Enforce) }
}

/// The same in observe mode.
pub(crate) fn observing() -> Settings {
    Settings { mode: Mode::Observe, ..settings() }
}

/// The port to a local EC2.
pub(crate) async fn sdk_ec2(ec2: &LocalEc2) -> SdkEc2 {
    SdkEc2::new(&sdk_config().endpoint_url(ec2.endpoint()).load().await)
}

/// The function on a local EC2.
pub(crate) async fn enforcer(ec2: &LocalEc2, settings: Settings) -> Enforcer<SdkEc2> {
    Enforcer::new(sdk_ec2(ec2).await, clock, settings)
}

/// Three seconds after the events of all samples.
pub(crate) fn clock() -> DateTime<Utc> {
    "2026-11-02T09:14:10Z".parse().unwrap()
}

/// Handles an event with a minute left.
pub(crate) async fn handle(ec2: &LocalEc2, event: &str) -> Result<Answer, InvocationError> {
    enforcer(ec2, settings()).await.handle(event, in_a_minute()).await
}

pub(crate) fn in_a_minute() -> Instant {
    Instant::now() + Duration::from_mins(1)
}

/// The report of an invocation, whether it succeeded or not.
pub(crate) fn report(result: Result<Answer, InvocationError>) -> Report {
    match result {
        Ok(Answer::Report(report) | Answer::Batch { report, .. }) | Err(InvocationError::Incomplete(report)) => *report,
        other => panic!("no report: {other:?}"),
    }
}

/// The outcome of each instance of a report, by id.
pub(crate) fn outcomes(report: &Report) -> Vec<(String, String)> {
    let json = serde_json::to_value(report).unwrap();
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    json["instances"].as_array().unwrap().iter().map(|it| (word(&it["instance_id"]), word(&it["outcome"]))).collect()
}

/// How often a local EC2 was asked for an action.
pub(crate) fn count(ec2: &LocalEc2, action: &str) -> usize {
    ec2.model().counts().get(action).copied().unwrap_or_default()
}

/// A fault that strikes calls of an action, before they take effect.
pub(crate) fn fault(action: &str, instance_id: Option<&str>, times: Option<u32>, kind: Kind) -> Fault {
    Fault { action: action.to_owned(), instance_id: instance_id.map(str::to_owned), times, after_effect: false, kind }
}

pub(crate) fn error(code: &str, status: u16) -> Kind {
    Kind::Error { code: code.to_owned(), status }
}

/// The packages of the Python that `make test` sets up.
pub(crate) fn site_packages() -> PathBuf {
    let libraries = root().join(".venv/lib");
    let mut python = std::fs::read_dir(&libraries)
        .unwrap_or_else(|_| panic!("{} is missing: `make test` sets it up", libraries.display()));
    python.next().unwrap().unwrap().path().join("site-packages")
}

pub(crate) const MODIFY: &str = "ModifyInstanceMetadataOptions";
pub(crate) const DESCRIBE: &str = "DescribeInstances";

/// The calls of `ModifyInstanceMetadataOptions` on one instance.
pub(crate) fn writes_to(ec2: &LocalEc2, id: &str) -> Vec<Call> {
    let is_write = |call: &&Call| call.action == MODIFY && call.parameters.get("InstanceId") == Some(id);
    ec2.model().calls.iter().filter(is_write).cloned().collect()
}

/// The `n`th id of a series of ids.
pub(crate) fn id(n: usize) -> String {
    format!("i-0{n:016x}")
}

/// As many running instances with EC2's default options, tokens optional.
pub(crate) fn violators(count: usize) -> Vec<Instance> {
    (0..count).map(|n| Instance::new(&id(n))).collect()
}

/// The same instance, created years ago and started since.
pub(crate) fn old(mut instance: Instance) -> Instance {
    instance.attach_time = Some("2019-07-01T00:00:00.000Z".to_owned());
    instance
}

/// As many violators, created years ago and started since.
pub(crate) fn old_violators(count: usize) -> Vec<Instance> {
    violators(count).into_iter().map(old).collect()
}

/// An instance that so many writes find in a state that can't be modified.
pub(crate) fn not_ready(mut instance: Instance, for_calls: u32) -> Instance {
    instance.not_ready_for_calls = for_calls;
    instance
}

/// A running instance whose tokens are required.
pub(crate) fn compliant(id: &str) -> Instance {
    let mut instance = Instance::new(id);
    "required".clone_into(&mut instance.metadata_options.http_tokens);
    instance
}

/// A `RunInstances` event as EventBridge delivers it, of these ids.
pub(crate) fn run_instances(ids: impl IntoIterator<Item = String>) -> String {
    let mut event: Value = serde_json::from_str(&sample("RunInstances/one")).unwrap();
    let items: Vec<_> = ids.into_iter().map(|id| json!({"instanceId": id})).collect();
    event["detail"]["responseElements"]["instancesSet"]["items"] = Value::Array(items);
    event.to_string()
}

/// Events whose time is now, for the binary, whose clock is the machine's.
pub(crate) fn at_present(events: &str) -> String {
    let time = Utc::now().format("%FT%TZ").to_string();
    events.replace("2026-11-02T09:14:07Z", &time)
}

/// A state-change event to `running`.
pub(crate) fn running(id: &str) -> String {
    let mut event: Value = serde_json::from_str(&sample("StateChange/running")).unwrap();
    event["detail"]["instance-id"] = id.into();
    event.to_string()
}

/// An SQS event of these messages, each a message id and a body.
pub(crate) fn sqs<'a>(messages: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let record = |(id, body)| json!({"messageId": id, "body": body, "eventSource": "aws:sqs"});
    json!({"Records": messages.into_iter().map(record).collect::<Vec<_>>()}).to_string()
}

/// The same SQS event, its messages received for the `count`th time.
pub(crate) fn received(sqs: &str, count: u32) -> String {
    let mut event: Value = serde_json::from_str(sqs).unwrap();
    for record in event["Records"].as_array_mut().unwrap() {
        record["attributes"] = json!({"ApproximateReceiveCount": count.to_string()});
    }
    event.to_string()
}

/// The messages that an answer to a batch sends back to the queue.
pub(crate) fn sent_back(answer: Result<Answer, InvocationError>) -> Vec<String> {
    let Ok(Answer::Batch { response, .. }) = answer else { panic!("a batch is answered: {answer:?}") };
    response.batch_item_failures.into_iter().map(|it| it.item_identifier).collect()
}

thread_local! {
    /// What this thread has logged since it began to collect.
    static LOG: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Writes to the log of the thread that logs.
struct ThreadLog;

impl std::io::Write for ThreadLog {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.with_borrow_mut(|log| log.as_mut().map(|log| log.extend_from_slice(bytes)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Collects what this thread logs from here on, until [`log_lines`].
pub(crate) fn collect_log() {
    static SUBSCRIBER: Once = Once::new();
    SUBSCRIBER.call_once(|| {
        let lines = tracing_subscriber::fmt().json().flatten_event(true).with_writer(|| ThreadLog);
        tracing::subscriber::set_global_default(lines.finish()).unwrap();
    });
    LOG.set(Some(Vec::new()));
}

/// What this thread has logged, as text.
pub(crate) fn log_text() -> String {
    String::from_utf8(LOG.take().unwrap()).unwrap()
}

/// What this thread has logged, line by line.
pub(crate) fn log_lines() -> Vec<Value> {
    log_text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
