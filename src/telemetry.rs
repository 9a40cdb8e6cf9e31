//! The log: JSON through tracing, each fact on one line.
//!
//! Its keys are stable, so that alarms and queries can rely on them. It never holds the body of an
//! event, nor the report, which is the answer. No line is longer than [`LINE_BYTES`], whatever an
//! error or a tag says: a field that is too long is cut, and says so.

use std::fmt;
use std::panic::PanicHookInfo;

use tracing::field::{DisplayValue, display};
use tracing::level_filters::LevelFilter;
use tracing::{Level, debug, error, info, warn};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::cause::Cause;
use crate::config::Config;
use crate::event::{EventError, EventSummary, Message, Request};
use crate::report::metrics::{Measurements, embedded};
use crate::report::{Details, Failure, InstanceReport, Outcome, Published, RefusedCalls, Report, Watched};

/// Most bytes that a line of the log has.
pub const LINE_BYTES: usize = 64 * 1024;

/// Most bytes of a field that holds an error: EC2's encoded authorization messages have some
/// thousands, and can be decoded only whole.
const ERROR_BYTES: usize = 24 * 1024;

/// Most bytes of any other field. The longest line has one error and four others.
const FIELD_BYTES: usize = 8 * 1024;

/// The target of lines that are documents of the embedded metric format.
const METRICS: &str = "imds_enforcer::metrics";

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

/// A text that ends early where it is too long for a line of the log.
struct Cut<'a> {
    text: &'a str,
    bytes: usize,
}

impl fmt::Display for Cut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.bytes;
        let end = self.text.char_indices().find(|(_, c)| {
            let fits = bytes_in_json(*c) <= left;
            left = left.saturating_sub(bytes_in_json(*c));
            !fits
        });
        let Some((kept, rest)) = end.and_then(|(end, _)| self.text.split_at_checked(end)) else {
            return f.write_str(self.text);
        };
        write!(f, "{kept}… ({} characters cut)", rest.chars().count())
    }
}

/// How many bytes a character takes in JSON.
fn bytes_in_json(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' => 2,
        c if c.is_control() => 6,
        c => c.len_utf8(),
    }
}

type Field<'a> = DisplayValue<Cut<'a>>;

fn field(text: &str) -> Field<'_> {
    display(Cut { text, bytes: FIELD_BYTES })
}

fn error_field(text: &str) -> Field<'_> {
    display(Cut { text, bytes: ERROR_BYTES })
}

/// Logs a line for an instance: what every such line has, then further fields, then the message.
macro_rules! log_line {
    ($level:ident, $instance:expr, $($fields:tt)+) => {{
        let InstanceReport { instance_id, outcome, details } = $instance;
        let cause = details.cause.as_deref();
        $level!(
            %instance_id,
            outcome = outcome.as_str(),
            cause = cause.map(|it| it.kind.as_str()),
            belongs_to = cause.and_then(Cause::belongs_to).map(field),
            actor = cause.map(|it| field(&it.actor)),
            no_exemption = details.no_exemption.as_ref().map(display),
            warnings = (!details.warnings.is_empty()).then(|| details.warnings.join("; ")),
            $($fields)+
        );
    }};
}

/// Logs what became of an instance: at `debug` only, where there was nothing to do.
pub(crate) fn log_instance(instance: &InstanceReport) {
    let Details { exemption, time_to_enforce_ms, undo, .. } = &instance.details;
    match &instance.outcome {
        Outcome::Enforced { .. } => {
            log_line!(info, instance, time_to_enforce_ms, undo = undo.as_deref().map(field), "tokens required");
        }
        Outcome::WouldEnforce { .. } => log_line!(info, instance, "tokens would be required"),
        Outcome::Exempt { .. } => {
            let until = exemption.as_ref().map(|it| display(it.until));
            let reason = exemption.as_ref().map(|it| field(it.reason()));
            log_line!(info, instance, until, reason, "exempt");
        }
        Outcome::CreatedBefore { enforce_since, .. } => {
            let enforce_since = display(enforce_since);
            log_line!(info, instance, enforce_since, "created before the day");
        }
        Outcome::InUse { calls_without_token, in_days, .. } => {
            log_line!(info, instance, calls_without_token, in_days, "in use without tokens");
        }
        Outcome::Failed { error: Failure { code, message, retryable }, .. } => {
            let (code, error) = (field(code), error_field(message));
            let class = if *retryable { "retryable" } else { "refused" };
            log_line!(error, instance, code, error, retryable, class, "tokens not required");
        }
        Outcome::Managed { .. } => log_line!(info, instance, "managed by a service"),
        Outcome::NotFound => log_line!(info, instance, "EC2 does not know the instance"),
        Outcome::Compliant { .. } | Outcome::Gone { .. } if instance.details.cause.is_some() => {
            log_line!(info, instance, "tokens were not required");
        }
        Outcome::Compliant { .. } | Outcome::EndpointDisabled { .. } | Outcome::Gone { .. } => {
            log_line!(debug, instance, "nothing to do");
        }
    }
}

/// Logs that an instance refused calls without a token, in place of its other line where it has none.
pub(crate) fn log_refused_calls(instance: &InstanceReport, refused_calls: RefusedCalls) {
    let RefusedCalls { count, in_hours } = refused_calls;
    let undo = instance.details.undo.as_deref().map(field);
    log_line!(warn, instance, refused_calls = count, in_hours, undo, "calls without a token refused");
}

/// Logs what kept a sweep's watch from seeing all refused calls, if anything did.
fn log_unwatched(event: &EventSummary, watch: &Watched) {
    if let Some(Failure { code, message, .. }) = &watch.error {
        let event_id = event.id.as_deref().map(field);
        warn!(event_id, code = field(code), error = error_field(message), "refused calls not known");
    }
}

/// Logs why an event asked for nothing; `message_id` is that of its message in an SQS batch.
pub(crate) fn log_ignored(event: &EventSummary, reason: &str, message_id: Option<&str>) {
    info!(
        event_id = event.id.as_deref().map(field),
        event_name = field(&event.name),
        message_id = message_id.map(field),
        ignored = field(reason),
        "event ignored"
    );
}

/// Logs why an event could not be read or belongs elsewhere; `message_id` is that of its message in
/// an SQS batch.
pub(crate) fn log_refusal(error: &EventError, message_id: Option<&str>) {
    let error_type = error.error_type();
    error!(error_type, error = error_field(&error.to_string()), message_id = message_id.map(field), "event refused");
}

/// Logs a message of an SQS batch, if it asks for nothing or can't be read.
pub(crate) fn log_message(message: &Message) {
    let Message { message_id, receives: _, request } = message;
    match request {
        Ok(Request { targets: Ok(_), .. }) => {}
        Ok(Request { event, targets: Err(ignored), .. }) => {
            log_ignored(event, &ignored.to_string(), Some(message_id));
        }
        Err(error) => log_refusal(error, Some(message_id)),
    }
}

/// Logs the end of an invocation that looked after instances, with its counts, and that results
/// were not published.
pub(crate) fn log_done(report: &Report) {
    let Report { mode, event, counts, error, messages, results, watch, is_complete, .. } = report;
    if let Some(watch) = watch {
        log_unwatched(event, watch);
    }
    if let Some(results) = results {
        log_unpublished(event, results);
    }
    macro_rules! log {
        ($level:ident) => {
            $level!(
                event_id = event.id.as_deref().map(field),
                event_name = field(&event.name),
                event_time = event.time.map(|it| display(it.format("%FT%TZ"))),
                actor = event.actor.as_deref().map(field),
                %mode,
                examined = counts.examined,
                enforced = counts.enforced,
                would_enforce = counts.would_enforce,
                created_before = counts.created_before,
                compliant = counts.compliant,
                endpoint_disabled = counts.endpoint_disabled,
                managed = counts.managed,
                exempt = counts.exempt,
                in_use = counts.in_use,
                gone = counts.gone,
                not_found = counts.not_found,
                failed = counts.failed,
                left_over = counts.left_over,
                messages = (!messages.is_empty()).then_some(messages.len()),
                code = error.as_ref().map(|it| field(&it.code)),
                error = error.as_ref().map(|it| error_field(&it.message)),
                "done"
            )
        };
    }
    if *is_complete {
        log!(info);
    } else {
        log!(error);
    }
}

fn log_unpublished(event: &EventSummary, results: &Published) {
    let Published { published, unpublished, error } = results;
    if *unpublished > 0 {
        let event_id = event.id.as_deref().map(field);
        let error = error.as_ref().map(ToString::to_string);
        let error = error.as_deref().map(error_field);
        warn!(event_id, published, unpublished, error, "results not published");
    }
}

/// Logs the metrics of an invocation that looked after instances.
pub(crate) fn log_metrics(measured: &Measurements) {
    for document in embedded(measured) {
        info!(target: METRICS, "{document}");
    }
}

/// Logs that an endpoint's certificate is not signed by one of Amazon's roots.
pub(crate) fn log_other_roots(endpoint: &str, error: &str) {
    info!(
        endpoint = field(endpoint),
        error = error_field(error),
        "the certificate is not signed by Amazon's roots: trying the environment's"
    );
}

/// Logs a panic, as the panic hook of the process.
pub fn log_panic(panic: &PanicHookInfo) {
    let location = panic.location().map(display);
    let panic = error_field(panic.payload_as_str().unwrap_or("a panic without a message"));
    error!(panic, location, "the function panicked");
}

/// Logs the start, after the warm-up.
pub fn log_start(config: &Config, region: &str, warm_up: Result<(), String>) {
    let mode = config.mode;
    match warm_up {
        Ok(()) => info!(%mode, region, "ready"),
        Err(error) => {
            let error = error_field(&error);
            warn!(%mode, region, error, "ready, without a connection to EC2: the first event will open it");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::Value;

    use super::*;
    use crate::cause::cause;
    use crate::config::Mode;
    use crate::instance::{Instance, InstanceState, MetadataOptions};
    use crate::policy::exemption::Exemption;
    use crate::report::Instances;
    use crate::report::tests::every_outcome;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// The lines that `log` writes at `level` and above, in the form that the function has them.
    fn logged(level: Level, log: impl FnOnce()) -> Vec<String> {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let lines = tracing_subscriber::fmt().json().flatten_event(true).with_span_list(false);
        let lines = lines.with_max_level(level).with_writer(move || writer.clone());
        tracing::subscriber::with_default(lines.finish(), log);
        let text = String::from_utf8(std::mem::take(&mut buffer.0.lock().unwrap())).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// A text of control characters, which JSON takes six bytes each for.
    fn endless() -> String {
        "\u{1}".repeat(1_000_000)
    }

    fn failure() -> Failure {
        Failure { code: endless(), message: endless(), retryable: false }
    }

    fn event() -> EventSummary {
        EventSummary { id: Some(endless()), name: endless(), time: None, actor: Some(endless()), source: endless() }
    }

    /// An instance whose every text has no end.
    fn instance(outcome: Outcome) -> InstanceReport {
        let tags = ["aws:autoscaling:groupName", "aws:ec2launchtemplate:id", "eks:nodegroup-name"];
        let described = Instance {
            tags: tags.into_iter().map(|key| (key.to_owned(), endless())).collect(),
            image_id: Some(endless()),
            ..Instance::new("i-1a2b3c4d".parse().unwrap(), InstanceState::Running, MetadataOptions::default())
        };
        let cause = Cause { actor: endless(), ..cause(&described, None, "us-east-1") };
        let exemption = Exemption { until: "2026-11-30".parse().unwrap(), reason: Some(endless()) };
        let details = Details {
            cause: Some(Box::new(cause)),
            exemption: Some(exemption),
            time_to_enforce_ms: Some(u64::MAX),
            undo: Some(endless()),
            ..Details::default()
        };
        InstanceReport { details, ..InstanceReport::new("i-1a2b3c4d", outcome) }
    }

    fn outcomes() -> Vec<Outcome> {
        every_outcome(failure())
    }

    #[test]
    fn no_line_is_too_long_whatever_errors_and_tags_say() {
        let report = Report::new(Mode::Enforce, event(), Instances::default(), Some(failure()));
        let results = Some(Published { published: 1, unpublished: 1, error: Some(failure()) });
        let watch = Some(Watched { error: Some(failure()), ..Watched::default() });
        let unreadable = EventError::Unreadable { path: endless(), problem: endless() };
        let lines = logged(Level::TRACE, || {
            for outcome in outcomes() {
                log_instance(&instance(outcome));
            }
            log_ignored(&event(), &endless(), Some(&endless()));
            log_refusal(&unreadable, Some(&endless()));
            log_done(&Report { results, watch, ..report });
            log_refused_calls(&instance(outcomes().remove(0)), RefusedCalls { count: u64::MAX, in_hours: u16::MAX });
            log_other_roots(&endless(), &endless());
        });
        assert_eq!(lines.len(), 11 + 7);
        for line in lines {
            let json: Value = serde_json::from_str(&line).unwrap();
            assert!(line.len() <= LINE_BYTES, "{} bytes: {}", line.len(), json["message"]);
        }
    }

    #[test]
    fn what_is_cut_says_so_and_what_fits_is_whole() {
        let cut = |text: &str, bytes| Cut { text, bytes }.to_string();
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abcd", 3), "abc… (1 characters cut)");
        assert_eq!(cut("ü\"\n\u{1}z", 12), "ü\"\n\u{1}… (1 characters cut)");
        assert_eq!(cut("ü", 1), "… (1 characters cut)");
        assert_eq!(cut("", 0), "");
    }

    #[test]
    fn an_instance_has_one_line_and_at_debug_only_where_there_is_nothing_to_do() {
        for outcome in outcomes() {
            let quiet = matches!(outcome.as_str(), "compliant" | "endpoint_disabled" | "gone");
            let mut report = instance(outcome.clone());
            report.details.cause = report.details.cause.filter(|_| !quiet);
            assert_eq!(logged(Level::INFO, || log_instance(&report)).len(), usize::from(!quiet), "{outcome:?}");
            let lines = logged(Level::DEBUG, || log_instance(&report));
            let [line] = &lines[..] else { panic!("one line: {lines:?}") };
            let line: Value = serde_json::from_str(line).unwrap();
            assert_eq!((&line["instance_id"], &line["outcome"]), (&"i-1a2b3c4d".into(), &outcome.as_str().into()));
        }
    }

    #[test]
    fn who_left_tokens_not_required_is_logged_although_they_are_required_by_now() {
        for outcome in outcomes().into_iter().filter(|it| matches!(it.as_str(), "compliant" | "gone")) {
            let lines = logged(Level::INFO, || log_instance(&instance(outcome)));
            let [line] = &lines[..] else { panic!("one line: {lines:?}") };
            let line: Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["message"], "tokens were not required");
            assert!(line["actor"].is_string() && line["cause"].is_string());
        }
    }

    #[test]
    fn an_invocation_that_failed_ends_in_an_error() {
        let report = |error| Report::new(Mode::Observe, event(), Instances::default(), error);
        for (error, level) in [(None, "INFO"), (Some(failure()), "ERROR")] {
            let lines = logged(Level::INFO, || log_done(&report(error)));
            let [line] = &lines[..] else { panic!("one line: {lines:?}") };
            let line: Value = serde_json::from_str(line).unwrap();
            assert_eq!((&line["message"], &line["level"]), (&"done".into(), &level.into()));
            let counts = serde_json::to_value(report(None).counts).unwrap();
            for (outcome, count) in counts.as_object().unwrap() {
                assert_eq!(&line[outcome], count, "{outcome}");
            }
        }
    }
}
