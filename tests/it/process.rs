//! The real binary as a process: under AWS's own Runtime API, the Runtime Interface Emulator.

use std::ffi::OsStr;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use imds_enforcer::report::LISTED;
use local_ec2::fault::{Fault, Kind};
use serde_json::Value;

use crate::harness::*;
use crate::runtime_api;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_imds-enforcer");

/// The function under the Runtime Interface Emulator. It ends when dropped.
pub(crate) struct Function {
    emulator: Child,
    port: u16,
    log: PathBuf,
}

impl Function {
    /// Starts the function with EC2 at `endpoint`.
    pub(crate) fn start(name: &str, endpoint: &str, variables: &[(&str, &str)]) -> Self {
        Self::start_binary(Path::new(BINARY), name, endpoint, variables)
    }

    /// Starts another build of the function.
    pub(crate) fn start_binary(binary: &Path, name: &str, endpoint: &str, variables: &[(&str, &str)]) -> Self {
        let (port, runtime_api) = (free_port(), free_port());
        let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.log"));
        let output = File::create(&log).unwrap();
        let emulator = function_command(emulator(), endpoint)
            .args(["--runtime-interface-emulator-address", &format!("127.0.0.1:{port}")])
            .args(["--runtime-api-address", &format!("127.0.0.1:{runtime_api}")])
            .arg(binary)
            .env("AWS_LAMBDA_FUNCTION_TIMEOUT", "900")
            .envs(variables.iter().copied())
            .stderr(output.try_clone().unwrap())
            .stdout(output)
            .spawn()
            .unwrap();
        let mut function = Self { emulator, port, log };
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = function.emulator.try_wait().unwrap();
            assert!(ended.is_none(), "the emulator listens, {ended:?}: {}", function.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        function
    }

    /// Invokes the function, and answers its answer or its error.
    pub(crate) fn invoke(&self, payload: &str) -> Value {
        let url = format!("http://127.0.0.1:{}/2015-03-31/functions/function/invocations", self.port);
        let mut response = ureq::post(url).send(payload).unwrap();
        let body = response.body_mut().read_to_string().unwrap();
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}\n{}", self.log()))
    }

    /// The process of the function, which the emulator starts with the first event.
    pub(crate) fn pid(&self) -> u32 {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.emulator.id())).unwrap();
        let children =
            threads.map(|it| std::fs::read_to_string(it.unwrap().path().join("children")).unwrap_or_default());
        children.collect::<String>().split_whitespace().next().expect("the function runs").parse().unwrap()
    }

    /// A line of `/proc/…/status` of the function, in KiB: `VmRSS`, or at the most `VmHWM`.
    pub(crate) fn memory_kib(&self, line: &str) -> usize {
        memory_kib(self.pid(), line)
    }

    /// What emulator and function have written so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// The lines of the log that are the function's.
    fn lines(&self) -> Vec<Value> {
        json_lines(&self.log())
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        drop(self.emulator.kill());
        drop(self.emulator.wait());
    }
}

/// A program that is the function or starts it, with the environment of one whose EC2 is at
/// `endpoint` and whose machine has nothing configured for AWS.
pub(crate) fn function_command(program: impl AsRef<OsStr>, endpoint: &str) -> Command {
    let mut command = Command::new(program);
    command
        .envs([("AWS_REGION", REGION), ("AWS_ENDPOINT_URL_EC2", endpoint)])
        .envs([("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "not-a-secret")])
        .envs([("AWS_CONFIG_FILE", "/dev/null"), ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")])
        .env("NO_PROXY", "127.0.0.1")
        .env_remove("AWS_PROFILE")
        .env_remove("SSL_CERT_DIR")
        .env_remove("SSL_CERT_FILE");
    command
}

/// A line of `/proc/…/status` of a process, in KiB.
pub(crate) fn memory_kib(pid: u32, line: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let value = status.lines().find_map(|it| it.strip_prefix(line)?.strip_prefix(':')).unwrap();
    value.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The lines of a log that are JSON, which leaves out the emulator's.
pub(crate) fn json_lines(log: &str) -> Vec<Value> {
    log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The emulator, as aws-sam-cli brings it.
fn emulator() -> PathBuf {
    let folder = site_packages().join("samcli/local/rapid");
    folder.join(if cfg!(target_arch = "aarch64") { "aws-lambda-rie-arm64" } else { "aws-lambda-rie-x86_64" })
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Runs the binary without a Runtime API that answers, until it ends.
fn run_binary(variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(BINARY);
    command.env_clear().envs(variables.iter().copied()).stdin(Stdio::null());
    command.output().unwrap()
}

#[test]
fn it_enforces_and_reports_and_a_second_run_writes_nothing() {
    let ec2 = local_ec2(fleet());
    let function = Function::start("enforces", &ec2.endpoint(), &[]);
    let first = function.invoke(&sample("RunInstances/three"));
    assert_eq!(first["counts"]["enforced"], 3, "{first}");
    let second = function.invoke(&sample("RunInstances/three"));
    assert_eq!((&second["counts"]["enforced"], &second["counts"]["compliant"]), (&0.into(), &3.into()), "{second}");
    assert_eq!((count(&ec2, DESCRIBE), count(&ec2, MODIFY), count(&ec2, "none")), (2, 3, 1));
}

#[test]
fn the_first_event_uses_the_connection_that_init_opened() {
    let ec2 = local_ec2(fleet());
    let function = Function::start("connection", &ec2.endpoint(), &[]);
    assert_eq!(function.invoke(&sample("RunInstances/already-required"))["counts"]["compliant"], 1);
    let model = ec2.model();
    let actions: Vec<_> = model.calls.iter().map(|call| call.action.as_str()).collect();
    assert_eq!(actions, ["none", DESCRIBE]);
    assert_eq!(model.connections, 1);
}

/// The calls that arrive at EC2's endpoint when every service's endpoint is that.
fn calls_of_every_service(name: &str, variables: &[(&str, &str)]) -> Vec<String> {
    let ec2 = local_ec2(fleet().into_iter().chain(old_violators(1)));
    let endpoint = ec2.endpoint();
    let variables = [&[("AWS_ENDPOINT_URL", endpoint.as_str())], variables].concat();
    let function = Function::start(name, &endpoint, &variables);
    for event in ["RunInstances/three", "ScheduledEvent/rule"] {
        function.invoke(&sample(event));
    }
    ec2.model().calls.iter().map(|call| call.action.clone()).collect()
}

#[test]
fn with_every_option_off_ec2_alone_is_called() {
    let mut calls = calls_of_every_service("options-off", &[]);
    assert_eq!(calls.remove(0), "none", "the warm-up names no action");
    assert!(calls.iter().all(|action| action == DESCRIBE || action == MODIFY), "{calls:?}");
    for option in [("IMDS_RESULT_BUS", "security"), ("IMDS_GRACE_DAYS", "14"), ("IMDS_WATCH_REFUSALS", "1")] {
        let calls = calls_of_every_service(option.0, &[option]);
        assert!(calls[1..].contains(&"none".to_owned()), "a call of another service arrives here too: {calls:?}");
    }
}

#[test]
fn its_log_has_each_fact_once_and_no_event_body() {
    let ec2 = local_ec2(fleet());
    let function = Function::start("log", &ec2.endpoint(), &[]);
    function.invoke(&sample("RunInstances/one"));
    function.invoke(&sample("RunInstances/one-malformed-id"));
    function.invoke(&sample("Other/no-event"));
    let lines = function.lines();
    let (metrics, lines): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| line["_aws"].is_object());
    let messages: Vec<_> = lines.iter().map(|line| line["message"].as_str().unwrap().to_owned()).collect();
    assert_eq!(
        messages,
        ["ready", "tokens required", "done", "tokens required", "tokens not required", "done", "event refused"],
        "{}",
        function.log()
    );
    assert_eq!(metrics.len(), 2, "a document for each event that was looked after");
    for document in metrics {
        assert!(document["InstancesRefused"].is_null(), "EC2 was not asked about what is no id");
        assert_eq!(document["_aws"]["CloudWatchMetrics"][0]["Namespace"], "ImdsEnforcer");
        assert_eq!((&document["InstancesEnforced"], &document["Mode"]), (&1.into(), &"enforce".into()));
        assert_eq!(document["Ec2Calls"], 2);
        assert!(document["TimeToEnforce"][0].as_u64().unwrap() > 1000);
        assert!(document["FunctionName"].is_string());
    }

    assert_eq!(lines[1]["instance_id"], "i-0a100000000000001");
    assert_eq!(lines[2]["enforced"], 1);
    assert!(lines[2]["span"]["requestId"].is_string());
    assert_eq!((&lines[4]["code"], &lines[4]["class"]), (&"InvalidInstanceID.Malformed".into(), &"refused".into()));
    assert_eq!((&lines[5]["level"], &lines[5]["failed"]), (&"ERROR".into(), &1.into()));
    assert!(lines.iter().all(|line| line["report"].is_null()), "the report is the answer, and is not logged");
    for of_the_body in ["userAgent", "vpc-0abcdef1234567890", "greeting"] {
        assert!(!function.log().contains(of_the_body), "{of_the_body} is in the log");
    }
}

#[test]
fn a_failure_has_its_error_type() {
    let ec2 = local_ec2(fleet());
    let function = Function::start("error-types", &ec2.endpoint(), &[]);
    for (payload, error_type) in [
        (sample("RunInstances/one-malformed-id"), "EnforcementIncomplete"),
        (sample("Other/no-event"), "UnreadableEvent"),
        (sample("Other/another-region"), "WrongRegion"),
        ("this is no JSON".to_owned(), "UnreadableEvent"),
        ("[".repeat(10_000), "UnreadableEvent"),
        (format!("{}{}", r#"{"a":"#.repeat(10_000), "}".repeat(10_000)), "UnreadableEvent"),
    ] {
        let answer = function.invoke(&payload);
        assert_eq!(answer["errorType"], error_type, "{answer}");
        assert!(answer["errorMessage"].as_str().is_some_and(|message| !message.is_empty()));
    }
    assert_eq!(function.invoke(&sample("RunInstances/one"))["counts"]["enforced"], 1, "healthy afterwards");
}

#[test]
fn a_batch_is_answered_with_its_failures() {
    let ec2 = local_ec2(fleet());
    let function = Function::start("batch", &ec2.endpoint(), &[]);
    assert_eq!(function.invoke(&sample("SqsBatch/state-changes")), serde_json::json!({"batchItemFailures": []}));
    let answer = function.invoke(&at_present(&sample("SqsBatch/one-unreadable-one-unknown")));
    assert_eq!(answer["batchItemFailures"].as_array().map(Vec::len), Some(2), "{answer}");
}

#[test]
fn observe_mode_writes_nothing() {
    let ec2 = local_ec2(fleet());
    let function = Function::start("observe", &ec2.endpoint(), &[("IMDS_MODE", "observe")]);
    let answer = function.invoke(&sample("RunInstances/three"));
    assert_eq!((&answer["mode"], &answer["counts"]["would_enforce"]), (&"observe".into(), &3.into()));
    assert_eq!(count(&ec2, MODIFY), 0);
}

#[test]
fn a_failed_warm_up_is_logged_and_harmless() {
    let ec2 = local_ec2(fleet());
    ec2.model().faults.add(Fault {
        action: "none".to_owned(),
        instance_id: None,
        times: None,
        after_effect: false,
        kind: Kind::DropConnection,
    });
    let function = Function::start("warm-up", &ec2.endpoint(), &[]);
    assert_eq!(function.invoke(&sample("RunInstances/one"))["counts"]["enforced"], 1);
    let ready = &function.lines()[0];
    assert_eq!(ready["level"], "WARN");
    assert!(ready["error"].as_str().is_some_and(|error| error.contains(": ")), "the whole chain: {ready}");
}

#[test]
fn before_its_deadline_has_passed_it_answers_what_is_not_done() {
    let ec2 = local_ec2(violators(30));
    ec2.model().faults.add(fault(MODIFY, None, None, Kind::Hang { milliseconds: 3_600_000 }));
    let mut function = runtime_api::Function::start("deadline", &ec2.endpoint());
    let event = run_instances((0..30).map(id));
    let answer = function.invoke(&event, Duration::from_secs(4));
    assert_eq!(answer["errorType"], "EnforcementIncomplete", "{answer}");
    let message = answer["errorMessage"].as_str().unwrap();
    assert!(message.contains("30 of 30 instances failed") && message.contains("DeadlineExceeded"), "{answer}");
    ec2.model().faults.clear();
    assert_eq!(function.invoke(&event, Duration::from_hours(1))["counts"]["enforced"], 30);
    assert!((0..30).all(|n| ec2.model().instances[&id(n)].metadata_options.http_tokens == "required"));
}

/// A launch has at most a thousand instances; this is what nobody sends, and a function of 128 MB
/// has to survive. EC2 describes fewer of them a second than there are time for, so the deadline
/// ends it.
#[test]
fn an_event_of_a_hundred_thousand_ids_takes_bounded_memory_log_answer_and_calls() {
    const IDS: usize = 100_000;
    let ec2 = local_ec2([]);
    let mut function = runtime_api::Function::start("hostile", &ec2.endpoint());
    let event = at_present(&run_instances((0..IDS).map(|n| format!("i-{n:08x}"))));
    assert!(event.len() > 1_000_000);
    let answer = function.invoke(&event, Duration::from_secs(4));
    assert_eq!(answer["errorType"], "EnforcementIncomplete", "{answer}");
    assert!(answer["errorMessage"].as_str().unwrap().contains("100000 of 100000 instances failed"));
    assert!(answer.to_string().len() < 100_000, "{} bytes are answered", answer.to_string().len());

    let peak = function.memory_kib("VmHWM");
    assert!(peak < 96 * 1024, "{peak} KiB at the most");
    assert_eq!(count(&ec2, MODIFY), 0);
    assert!(count(&ec2, DESCRIBE) <= IDS.div_ceil(200), "{} calls", count(&ec2, DESCRIBE));

    let log = function.log();
    println!("{} lines, {} bytes, {peak} KiB, {} calls", log.lines().count(), log.len(), count(&ec2, DESCRIBE));
    assert_eq!(function.lines().len(), log.lines().count(), "nothing but lines of JSON");
    assert!(log.lines().count() <= LISTED + 4, "{} lines", log.lines().count());
    assert!(log.len() <= 1000 * LISTED, "{} bytes", log.len());
    let longest = log.lines().map(str::len).max().unwrap();
    assert!(longest <= 64 * 1024, "a line has {longest} bytes");
}

#[test]
fn bad_configuration_keeps_it_from_starting() {
    let api = ("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9");
    for (variable, value, allowed) in [
        ("IMDS_MODE", "loud", "enforce, observe"),
        ("IMDS_LOG", "loud", "error, warn, info"),
        ("IMDS_EXEMPTION_TAG", "aws:imds", "does not begin with aws:"),
        ("IMDS_EXEMPTION_MAX_DAYS", "366", "from 1 to 365"),
        ("IMDS_RESULT_BUS", "my bus", "the name or the ARN"),
        ("IMDS_GRACE_DAYS", "-1", "from 0 to 90"),
        ("IMDS_ENFORCE_SINCE", "yesterday", "a day in UTC as YYYY-MM-DD"),
        ("IMDS_SWEEP_LIMIT", "-1", "from 0 to 100000"),
        ("IMDS_WATCH_REFUSALS", "25", "off, or a number of hours from 1 to 24"),
    ] {
        let output = run_binary(&[api, ("AWS_REGION", REGION), (variable, value)]);
        assert!(!output.status.success());
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!([variable, value, allowed].iter().all(|part| printed.contains(part)), "{printed}");
    }
    let without_api = run_binary(&[("AWS_REGION", REGION)]);
    assert!(
        !without_api.status.success() && String::from_utf8(without_api.stdout).unwrap().contains("cargo lambda watch")
    );
    let without_region = run_binary(&[api]);
    assert!(
        !without_region.status.success() && String::from_utf8(without_region.stdout).unwrap().contains("AWS_REGION")
    );
}
