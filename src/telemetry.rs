//! What goes to the log: JSON through tracing, one line per boundary.
//!
//! Stable keys, so that alarms and queries can rely on them. Never the body of an event.

use std::error::Error;

use serde::Serialize;
use tracing::level_filters::LevelFilter;
use tracing::{Level, error, info, warn};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::cause::Cause;
use crate::config::Config;
use crate::event::EventError;
use crate::instance::{HttpTokens, MetadataOptionsState};
use crate::policy::exemption::Exemption;
use crate::report::metrics::{Measurements, embedded};
use crate::report::{Counts, InstanceReport, MessageReport, Outcome, Published, Report};

/// Sends every line that passes `filter` to standard output, which Lambda takes to CloudWatch Logs.
///
/// # Errors
///
/// If the process has a subscriber already.
pub fn init(filter: Targets) -> Result<(), TryInitError> {
    let json = tracing_subscriber::fmt::layer().json().flatten_event(true).with_span_list(false);
    // A document of the embedded metric format is a line as it is, whatever the filter says.
    let bare = tracing_subscriber::fmt::layer().without_time().with_level(false).with_target(false).with_ansi(false);
    let metrics = Targets::new().with_target(METRICS, Level::INFO);
    let lines = json.with_filter(filter.with_target(METRICS, LevelFilter::OFF));
    tracing_subscriber::registry().with(lines).with(bare.with_filter(metrics)).try_init()
}

/// The target of lines that are documents of the embedded metric format.
const METRICS: &str = "imds_enforcer::report::metrics";

/// After an invocation that looked after instances: its metrics.
pub(crate) fn log_metrics(measured: &Measurements) {
    for document in embedded(measured) {
        info!(target: METRICS, "{document}");
    }
}

/// Of an instance that was to be looked after: what became of it, unless there was nothing to do.
pub(crate) fn log_instance(instance: &InstanceReport) {
    let InstanceReport { instance_id: id, outcome, details } = instance;
    let cause = details.cause.as_deref();
    macro_rules! log {
        ($level:ident, $outcome:literal, $message:literal $(, $($fields:tt)+)?) => {
            $level!(
                instance_id = %id,
                outcome = $outcome,
                cause = cause.map(|it| it.kind.as_str()),
                belongs_to = cause.and_then(Cause::belongs_to),
                actor = cause.map(|it| it.actor.as_str()),
                $($($fields)+,)?
                $message
            )
        };
    }
    match outcome {
        Outcome::Enforced { before, after } => log!(
            info,
            "enforced",
            "tokens required",
            time_to_enforce_ms = details.time_to_enforce_ms,
            undo = details.undo,
            before = json(before),
            http_tokens_before = before.http_tokens.as_ref().map(HttpTokens::as_str),
            http_tokens_after = after.http_tokens.as_ref().map(HttpTokens::as_str),
            state = after.state.as_ref().map(MetadataOptionsState::as_str)
        ),
        Outcome::WouldEnforce { .. } => log!(info, "would_enforce", "tokens would be required"),
        Outcome::Exempt { .. } => log!(
            info,
            "exempt",
            "exempt",
            until = details.exemption.as_ref().map(|it| it.until.to_string()),
            reason = details.exemption.as_ref().map(Exemption::reason)
        ),
        Outcome::InUse { calls_without_token, in_days, .. } => {
            log!(info, "in_use", "in use without tokens", calls_without_token, in_days);
        }
        Outcome::Failed { error, .. } => log!(
            warn,
            "failed",
            "tokens not required",
            code = error.code,
            error = error.message,
            retryable = error.retryable,
            class = if error.retryable { "retryable" } else { "refused" }
        ),
        Outcome::NotFound => info!(instance_id = %id, outcome = "not_found", "EC2 does not know the instance"),
        Outcome::Compliant { .. } | Outcome::EndpointDisabled { .. } | Outcome::Gone { .. } => {}
    }
}

/// Of instances that the report has no room for, if there are any: what became of them.
pub(crate) fn log_unlisted(instances: &[InstanceReport]) {
    if !instances.is_empty() {
        info!(report = json(&Part { instances, messages: &[] }), "unlisted");
    }
}

/// After an invocation: its report, the instances on as many lines as CloudWatch Logs needs.
pub(crate) fn log_report(report: &Report) {
    let Report { mode, event, ignored, counts, instances: _, unlisted, error, messages, results } = report;
    if let Some(reason) = ignored {
        info!(event_id = event.id, event_name = event.name, ignored = reason, "event ignored");
        return;
    }
    let mut parts = parts(report).into_iter();
    let Counts {
        examined,
        enforced,
        would_enforce,
        compliant,
        endpoint_disabled,
        exempt,
        in_use,
        gone,
        not_found,
        failed,
    } = *counts;
    let refused_by_bus = results.as_ref().filter(|it| it.unpublished > 0);
    if let Some(Published { published, unpublished, error }) = refused_by_bus {
        let error = error.as_ref().map(ToString::to_string);
        warn!(event_id = event.id, published, unpublished, error, "results not published");
    }
    macro_rules! log {
        ($level:ident, $message:literal) => {
            $level!(
                event_id = event.id,
                event_name = event.name,
                actor = event.actor,
                %mode,
                examined,
                enforced,
                would_enforce,
                compliant,
                endpoint_disabled,
                exempt,
                in_use,
                gone,
                not_found,
                failed,
                messages = messages.len(),
                code = error.as_ref().map(|it| it.code.as_str()),
                error = error.as_ref().map(|it| it.message.as_str()),
                unlisted,
                report = parts.next(),
                $message
            )
        };
    }
    if report.is_complete() {
        log!(info, "done");
    } else {
        log!(error, "incomplete");
    }
    for part in parts {
        info!(event_id = event.id, event_name = event.name, report = part, "continued");
    }
}

/// Most instances on one line: of these fifty, with all that can be said of them, stay below the
/// 256 KiB that a line may have to be kept whole by CloudWatch Logs of any age.
pub(crate) const ON_A_LINE: usize = 50;

/// A part of a report that has a line of its own.
#[derive(Serialize)]
struct Part<'a> {
    instances: &'a [InstanceReport],
    messages: &'a [MessageReport],
}

/// The report as JSON, one text for each line that it takes. The first has all but the further
/// instances and messages, which the others have.
fn parts(report: &Report) -> Vec<String> {
    let Report { instances, messages, .. } = report;
    let lines = instances.len().max(messages.len()).div_ceil(ON_A_LINE);
    if lines <= 1 {
        return vec![json(report)];
    }
    let first = Report {
        instances: part(instances, 0).to_vec(),
        messages: part(messages, 0).to_vec(),
        event: report.event.clone(),
        ignored: report.ignored.clone(),
        error: report.error.clone(),
        results: report.results.clone(),
        ..*report
    };
    let more = (1..lines).map(|n| json(&Part { instances: part(instances, n), messages: part(messages, n) }));
    std::iter::once(json(&first)).chain(more).collect()
}

/// The `n`th line's share of a list.
fn part<T>(list: &[T], n: usize) -> &[T] {
    list.chunks(ON_A_LINE).nth(n).unwrap_or_default()
}

/// None of these structures can fail to be written as JSON.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// After a certificate that Amazon's roots did not sign.
pub(crate) fn log_other_roots(error: &(dyn Error + 'static)) {
    info!(error = chain(error), "EC2's certificate is not signed by Amazon's roots: trying the environment's");
}

/// An error with all its causes.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// After an event that could not be read or belongs elsewhere.
pub(crate) fn log_refusal(error_type: &str, error: &EventError) {
    error!(error_type, %error, "event refused");
}

/// After the warm-up.
pub fn log_start(config: &Config, region: &str, warm_up: Result<(), String>) {
    let mode = config.mode;
    match warm_up {
        Ok(()) => info!(%mode, region, "ready"),
        Err(error) => warn!(%mode, region, error, "ready, without a connection to EC2: the first event will open it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cause::cause;
    use crate::config::Mode;
    use crate::event::EventSummary;
    use crate::instance::{Instance, InstanceState, MetadataOptions};
    use crate::report::{Details, Failure, Instances};

    /// A cause whose every name is as long as can be, and in need of quotes.
    fn long_cause() -> Cause {
        let long = "a \"long\" name ".repeat(20);
        let keys = ["aws:autoscaling:groupName", "aws:ec2launchtemplate:id", "aws:ec2launchtemplate:version"];
        let id = "i-1a2b3c4d".parse().unwrap();
        let instance = Instance {
            tags: keys.into_iter().map(|key| (key.to_owned(), long.clone())).collect(),
            image_id: Some("ami-0123456789abcdef0".to_owned()),
            ..Instance::new(id, InstanceState::Running, MetadataOptions::default())
        };
        cause(&instance, None, "ap-southeast-5")
    }

    /// A report whose every instance and message is as long as can be.
    fn long_report(count: usize) -> Report {
        let mut instances = Instances::default();
        for n in 0..count {
            let options = MetadataOptions {
                state: Some("pending".into()),
                http_tokens: Some("required".into()),
                http_endpoint: Some("enabled".into()),
                http_put_response_hop_limit: Some(64),
                http_protocol_ipv6: Some("disabled".to_owned()),
                instance_metadata_tags: Some("disabled".to_owned()),
            };
            let outcome = Outcome::Enforced { before: options.clone(), after: options };
            let details = Details {
                cause: Some(Box::new(long_cause())),
                time_to_enforce_ms: Some(86_400_000),
                undo: Some("aws ec2 modify-instance-metadata-options ".repeat(4)),
                warnings: vec![crate::policy::HOP_LIMIT_WARNING],
                ..Details::default()
            };
            let instance = InstanceReport { instance_id: format!("i-{n:017x}"), outcome, details };
            assert!(instances.add(instance).is_none());
        }
        let event = EventSummary {
            id: Some("0cb1e29c-8a6c-4a76-9e5b-0c6f2b1f3d5a".to_owned()),
            name: "EC2 Instance State-change Notification".to_owned(),
            time: Some("2026-11-02T09:14:07Z".parse().unwrap()),
            actor: None,
            source: "aws.ec2".to_owned(),
        };
        let message = |n| MessageReport {
            message_id: format!("0cb1e29c-8a6c-4a76-9e5b-{n:012}"),
            event: Some(event.clone()),
            ignored: None,
            refused: None,
            failed: false,
        };
        let error = Some(Failure { code: "InternalError".to_owned(), message: "no".to_owned(), retryable: true });
        Report {
            messages: (0..count).map(message).collect(),
            ..Report::new(Mode::Enforce, event.clone(), instances, error)
        }
    }

    #[test]
    fn a_report_that_fits_is_one_line() {
        let report = long_report(ON_A_LINE);
        assert_eq!(parts(&report), [json(&report)]);
    }

    #[test]
    fn a_long_report_is_several_lines_which_hold_it_all_and_fit() {
        let report = long_report(999);
        let parts = parts(&report);
        let written_in_a_log_line = |part: &String| json(part).len();
        assert!(parts.iter().map(written_in_a_log_line).all(|length| length < 250 * 1024));
        let parts: Vec<serde_json::Value> = parts.iter().map(|part| serde_json::from_str(part).unwrap()).collect();
        let whole = serde_json::to_value(&report).unwrap();
        for list in ["instances", "messages"] {
            let all: Vec<_> = parts.iter().flat_map(|part| part[list].as_array().unwrap()).collect();
            assert_eq!(all, whole[list].as_array().unwrap().iter().collect::<Vec<_>>());
        }
        assert_eq!((&parts[0]["counts"], &parts[0]["error"]), (&whole["counts"], &whole["error"]));
    }
}
