//! What goes to the log: JSON through tracing, one line per boundary.
//!
//! Stable keys, so that alarms and queries can rely on them. Never the body of an event.

use tracing::{error, info, warn};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::Config;
use crate::event::EventError;
use crate::instance::{HttpTokens, InstanceId, MetadataOptionsState};
use crate::report::{Counts, Outcome, Report};

/// Sends every line that passes `filter` to standard output, which Lambda takes to CloudWatch Logs.
///
/// # Errors
///
/// If the process has a subscriber already.
pub fn init(filter: Targets) -> Result<(), TryInitError> {
    let json = tracing_subscriber::fmt::layer().json().flatten_event(true).with_span_list(false);
    tracing_subscriber::registry().with(json.with_filter(filter)).try_init()
}

/// After a call of `ModifyInstanceMetadataOptions`: what became of it.
pub(crate) fn log_write(id: &InstanceId, outcome: &Outcome) {
    match outcome {
        Outcome::Enforced { before, after } => info!(
            instance_id = %id,
            outcome = "enforced",
            http_tokens_before = before.http_tokens.as_ref().map(HttpTokens::as_str),
            http_tokens_after = after.http_tokens.as_ref().map(HttpTokens::as_str),
            state = after.state.as_ref().map(MetadataOptionsState::as_str),
            "tokens required"
        ),
        Outcome::Failed { error, .. } => warn!(
            instance_id = %id,
            outcome = "failed",
            code = error.code,
            error = error.message,
            retryable = error.retryable,
            "tokens not required"
        ),
        Outcome::NotFound => info!(instance_id = %id, outcome = "not_found", "EC2 does not know the instance"),
        Outcome::WouldEnforce { .. }
        | Outcome::Compliant { .. }
        | Outcome::EndpointDisabled { .. }
        | Outcome::Exempt { .. }
        | Outcome::Gone { .. } => {}
    }
}

/// After an invocation: its report.
pub(crate) fn log_report(report: &Report) {
    let Report { mode, event, ignored, counts, instances: _, error, messages } = report;
    if let Some(reason) = ignored {
        info!(event_id = event.id, event_name = event.name, ignored = reason, "event ignored");
        return;
    }
    let Counts { examined, enforced, would_enforce, compliant, endpoint_disabled, exempt, gone, not_found, failed } =
        *counts;
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
                gone,
                not_found,
                failed,
                messages = messages.len(),
                code = error.as_ref().map(|it| it.code.as_str()),
                error = error.as_ref().map(|it| it.message.as_str()),
                report = serde_json::to_string(report).unwrap_or_default(),
                $message
            )
        };
    }
    if report.is_complete() {
        log!(info, "done");
    } else {
        log!(error, "incomplete");
    }
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
