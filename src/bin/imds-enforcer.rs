//! The Lambda function's `bootstrap`: wires the environment, the clock and the runtime to the
//! library, and holds no logic of its own.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use chrono::{DateTime, Utc};
use imds_enforcer::aws::cloudwatch::SdkCloudWatch;
use imds_enforcer::aws::ec2::SdkEc2;
use imds_enforcer::aws::eventbridge::{ResultBus, SdkEventBridge};
use imds_enforcer::aws::http::{Roots, sdk_config_loader};
use imds_enforcer::config::Config;
use imds_enforcer::enforce::{Answer, Enforcer, Grace, Options, Settings, Watch};
use imds_enforcer::telemetry;
use lambda_runtime::{Context, Diagnostic, LambdaEvent, service_fn};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use tokio::time::Instant;

/// One thread: a Lambda environment handles one event at a time, and waits most of it.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %error, "the function does not start");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), lambda_runtime::Error> {
    let config = Config::from_vars(var);
    telemetry::init(config.as_ref().map_or_else(|_| Config::default_log(), |config| config.log.clone()))?;
    std::panic::set_hook(Box::new(telemetry::log_panic));
    let config = config?;
    if var("AWS_LAMBDA_RUNTIME_API").is_none() {
        return Err(
            "AWS_LAMBDA_RUNTIME_API is not set: this is a Lambda function; start it with `cargo lambda watch`".into()
        );
    }
    let names_roots = ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().any(|name| var(name).is_some());
    let roots = if names_roots { Roots::Environment } else { Roots::AmazonFirst };
    let mut loader = sdk_config_loader(roots);
    if var("AWS_ACCESS_KEY_ID").is_some() {
        // The first that the default chain asks, which takes a seventh of INIT to set up.
        loader = loader.credentials_provider(EnvironmentVariableCredentialsProvider::new());
    }
    let sdk_config = loader.load().await;
    let region =
        sdk_config.region().ok_or("AWS_REGION is not set: the Region whose instances to look after")?.to_string();
    let ec2 = SdkEc2::new(&sdk_config);
    telemetry::log_start(&config, &region, ec2.warm_up().await);

    let function_name = var("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_else(|| "imds-enforcer".to_owned());
    let settings = Settings::new(function_name, region, config.mode);
    let enforcer = Enforcer::new(ec2, now, Settings { options: options(config, &sdk_config), ..settings });
    lambda_runtime::run(service_fn(|event| handle(&enforcer, event))).await
}

/// What is configured beyond the default: only then is there a client other than EC2's.
fn options(config: Config, sdk_config: &SdkConfig) -> Options {
    Options {
        exemptions: config.exemptions,
        enforce_since: config.enforce_since,
        sweep_limit: config.sweep_limit,
        grace: config.grace_days.map(|days| Grace { days, metadata_use: Box::new(SdkCloudWatch::new(sdk_config)) }),
        watch: config
            .watch_refusals
            .map(|hours| Watch { hours, refused_calls: Box::new(SdkCloudWatch::new(sdk_config)) }),
        result_bus: config.result_bus.map(|bus| Box::new(SdkEventBridge::new(sdk_config, bus)) as Box<dyn ResultBus>),
    }
}

/// The payload as it came, or nothing where it is no JSON: read by the library, so that one error
/// type stands for every event that can't be read.
struct Payload(Option<Box<RawValue>>);

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Box::deserialize(deserializer).ok()))
    }
}

async fn handle(enforcer: &Enforcer<SdkEc2>, event: LambdaEvent<Payload>) -> Result<Answer, Diagnostic> {
    let end = Instant::now() + time_left(&event.context);
    let json = event.payload.0.as_deref().map_or("", RawValue::get);
    enforcer
        .handle(json, end)
        .await
        .map_err(|error| Diagnostic { error_type: error.error_type().to_owned(), error_message: error.to_string() })
}

#[expect(clippy::disallowed_methods, reason = "the edge, where the clock enters")]
fn now() -> DateTime<Utc> {
    SystemTime::now().into()
}

/// How long an invocation may take when no deadline is given.
const DEFAULT_TIME_LEFT: Duration = Duration::from_mins(1);

/// Until the invocation's deadline, which Lambda gives in milliseconds since 1970. Lambda ends a
/// function whose deadline has passed, so a past one is an emulator's way to give none: `cargo
/// lambda watch` says ten minutes past 1970.
fn time_left(context: &Context) -> Duration {
    let now = Duration::from_millis(now().timestamp_millis().try_into().unwrap_or_default());
    Duration::from_millis(context.deadline).checked_sub(now).unwrap_or(DEFAULT_TIME_LEFT)
}

/// A variable's value; what is not UTF-8 is kept with a replacement character, to be refused.
#[expect(clippy::disallowed_methods, reason = "the edge, where the environment enters")]
fn var(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}
