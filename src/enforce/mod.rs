//! One invocation: read the event, look its instances up, decide, require tokens, report.
//!
//! Generic over the port to EC2. Looking up and settling go on at the same time, joined by a
//! channel, so that an instance found is enforced while another is still waited for. Nothing is
//! remembered between invocations: the described state alone decides.

mod call;
mod conclude;
mod deadline;
mod done;
mod look_up;
pub mod publish;
mod queue;
mod require;
mod watch;
mod work;

use std::time::Duration;

use aws_lambda_events::event::sqs::SqsBatchResponse;
use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::deadline::Deadline;
use self::done::Done;
use self::look_up::Finding;
use self::publish::publish;
use self::require::Settling;
use self::work::Work;
use crate::aws;
use crate::aws::cloudwatch::{MetadataUse, RefusedCalls};
use crate::aws::ec2::{Ec2, IDS_PER_DESCRIBE};
use crate::aws::eventbridge::ResultBus;
use crate::aws::request_rate::RequestRate;
use crate::config::Mode;
use crate::event::{self, EventError, EventSummary, Invocation, Message, Request};
use crate::policy::exemption::Exemptions;
use crate::report::metrics::Measurements;
use crate::report::result_event::{ResultEvent, Setting};
use crate::report::{Failure, InstanceReport, LISTED, Published, Report};
use crate::telemetry;

/// Results that wait to be published; EC2 allows fewer writes in a minute.
const RESULTS_WAITING: usize = 1000;

/// Waits for a new instance: 3.75 s in all, which EC2 rarely needs.
const WAITS: [Duration; 4] =
    [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];

/// The function, apart from Lambda's runtime.
#[derive(Debug)]
pub struct Enforcer<E> {
    ec2: E,
    clock: Clock,
    settings: Settings,
    describe_rate: RequestRate,
    modify_rate: RequestRate,
}

/// The time of day, in UTC.
pub type Clock = fn() -> DateTime<Utc>;

/// How the function works.
#[derive(Debug)]
pub struct Settings {
    /// The function's name, for its metrics.
    pub function_name: String,
    /// The Region whose instances it looks after.
    pub region: String,
    /// Whether it writes.
    pub mode: Mode,
    /// How long to wait before each further look for an instance that EC2 does not know yet, and
    /// before each further call for one that is not ready yet.
    pub waits: Vec<Duration>,
    /// What is off unless it is configured.
    pub options: Options,
}

impl Settings {
    /// The settings of a function in this Region, with every option off.
    #[must_use]
    pub fn new(function_name: String, region: String, mode: Mode) -> Self {
        Self { function_name, region, mode, waits: WAITS.to_vec(), options: Options::default() }
    }
}

/// What is off unless it is configured.
#[derive(Debug, Default)]
pub struct Options {
    /// Which tag exempts.
    pub exemptions: Option<Exemptions>,
    /// The day, in UTC, before which nothing is enforced that was created and not loosened.
    pub enforce_since: Option<NaiveDate>,
    /// Whether old instances in use are left.
    pub grace: Option<Grace>,
    /// How many instances a sweep requires tokens on at the most.
    pub sweep_limit: Option<usize>,
    /// Whether each sweep watches refused calls.
    pub watch: Option<Watch>,
    /// Where results are published.
    pub result_bus: Option<Box<dyn ResultBus>>,
}

/// Leaves old instances whose metadata service was lately used without tokens.
#[derive(Debug)]
pub struct Grace {
    /// In how many days before, and how old at the least.
    pub days: u16,
    /// What knows that.
    pub metadata_use: Box<dyn MetadataUse>,
}

/// A sweep that reports the instances whose metadata service lately refused calls without a token.
#[derive(Debug)]
pub struct Watch {
    /// In how many hours before.
    pub hours: u16,
    /// What knows that.
    pub refused_calls: Box<dyn RefusedCalls>,
}

/// What an invocation answers when it succeeds.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// The answer to a bare event: the report.
    Report(Box<Report>),
    /// The answer to an SQS event.
    Batch {
        /// The messages that go back to the queue: all that Lambda is answered.
        #[serde(flatten)]
        response: SqsBatchResponse,
        /// The report, which is no part of the answer.
        #[serde(skip)]
        report: Box<Report>,
    },
}

/// Why an invocation fails. Lambda tries an asynchronous one twice more, then the dead-letter
/// queue keeps the event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvocationError {
    /// The event is refused: trying again does not help, a person must look at it.
    #[error(transparent)]
    Event(#[from] EventError),
    /// Everything that could be done was done; the report says what could not.
    #[error("{0}")]
    Incomplete(Box<Report>),
}

impl InvocationError {
    /// The `errorType` that Lambda records.
    #[must_use]
    pub fn error_type(&self) -> &'static str {
        match self {
            Self::Event(error) => error.error_type(),
            Self::Incomplete(_) => "EnforcementIncomplete",
        }
    }
}

impl From<aws::Error> for Failure {
    fn from(error: aws::Error) -> Self {
        let retryable = error.class.is_retryable();
        Self { code: error.code, message: error.message, retryable }
    }
}

impl<E: Ec2> Enforcer<E> {
    /// The function for one Region. It calls EC2 at the rates that EC2's documentation on request
    /// throttling gives an account's filtered `DescribeInstances` and its
    /// `ModifyInstanceMetadataOptions` in a Region.
    pub fn new(ec2: E, clock: Clock, settings: Settings) -> Self {
        let (describe_rate, modify_rate) = (RequestRate::new(100, 20), RequestRate::new(100, 5));
        Self { ec2, clock, settings, describe_rate, modify_rate }
    }

    /// Handles one invocation, whose payload is `json` and which must be answered before `end`.
    ///
    /// # Errors
    ///
    /// [`InvocationError::Event`] for a bare event that is refused, or an SQS event that can't be
    /// read at all. [`InvocationError::Incomplete`] after everything else is done, if an instance
    /// of a bare event failed. Messages of an SQS event that failed are no error but an answer.
    pub async fn handle(&self, json: &str, end: Instant) -> Result<Answer, InvocationError> {
        let deadline = Deadline::before(end);
        let invocation = event::read(json, &self.settings.region);
        match invocation.inspect_err(|error| telemetry::log_refusal(error, None))? {
            Invocation::Event(request) => self.handle_event(request, deadline).await,
            Invocation::Batch(messages) => Ok(self.handle_batch(messages, deadline).await),
        }
    }

    async fn handle_event(&self, request: Request, deadline: Deadline) -> Result<Answer, InvocationError> {
        let Request { event, targets, origin } = request;
        let mode = self.settings.mode;
        let report = match targets {
            Err(ignored) => {
                let reason = ignored.to_string();
                telemetry::log_ignored(&event, &reason, None);
                Report::of_ignored(mode, event, reason)
            }
            Ok(targets) => {
                let work = Work::of_event(event.clone(), &targets, origin.as_ref());
                let report = self.look_after(&work, deadline).await.into_report(mode, event, Vec::new());
                telemetry::log_done(&report);
                report
            }
        };
        if report.is_complete {
            Ok(Answer::Report(Box::new(report)))
        } else {
            Err(InvocationError::Incomplete(Box::new(report)))
        }
    }

    async fn handle_batch(&self, messages: Vec<Message>, deadline: Deadline) -> Answer {
        messages.iter().for_each(telemetry::log_message);
        let event =
            EventSummary { name: "SQS batch".to_owned(), source: "aws:sqs".to_owned(), ..EventSummary::default() };
        let work = Work::of_batch(event.clone(), &messages);
        let done = self.look_after(&work, deadline).await;
        let messages: Vec<_> = messages.into_iter().map(|message| done.message(message)).collect();
        let mut response = SqsBatchResponse::default();
        for message in messages.iter().filter(|message| message.failed) {
            response.add_failure(&message.message_id);
        }
        let report = done.into_report(self.settings.mode, event, messages);
        telemetry::log_done(&report);
        Answer::Batch { response, report: Box::new(report) }
    }

    /// Looks after the work's instances, publishes results beside that, and measures both.
    async fn look_after(&self, work: &Work, deadline: Deadline) -> Done {
        let (requests, throttles) = (self.ec2.requests(), self.throttles());
        let (results, published) = mpsc::channel(RESULTS_WAITING);
        let (mut done, results) =
            tokio::join!(self.work_through(work, deadline, results), self.publish(published, deadline.publish_until));
        done.results = results;
        let Settings { function_name, mode, .. } = &self.settings;
        telemetry::log_metrics(&Measurements {
            function_name,
            mode: *mode,
            at: (self.clock)(),
            counts: done.counts(),
            refused: done.refused,
            refused_again: done.refused_again,
            left_over: done.counts().left_over,
            refusing_calls: done.watch.as_ref().and_then(|it| it.refusing).unwrap_or_default(),
            time_to_enforce_ms: &done.time_to_enforce_ms,
            ec2_calls: self.ec2.requests() - requests,
            ec2_throttles: self.throttles() - throttles,
            unpublished: done.results.as_ref().map_or(0, |it| it.unpublished),
        });
        done
    }

    /// Looks the work's instances up and, as they are found, settles them; at last, what a sweep found
    /// as a whole.
    async fn work_through(&self, work: &Work, deadline: Deadline, results: mpsc::Sender<ResultEvent>) -> Done {
        let (findings, found) = mpsc::channel(IDS_PER_DESCRIBE);
        let (listing, mut done, refusing) = tokio::join!(
            Box::pin(self.look_up(work, deadline, findings)),
            Box::pin(self.settle(found, &results, work, deadline)),
            Box::pin(self.find_refusing(work, deadline)),
        );
        done.listing = listing;
        if let Some(refusing) = refusing {
            self.record_refusing(refusing, work, &mut done, &results).await;
        }
        if work.is_sweep() {
            self.send_result(&results, work.whole(), |setting| done.digest(setting)).await;
        }
        done
    }

    /// Settles all that is found, and what stood in the place of ids.
    async fn settle(
        &self,
        found: mpsc::Receiver<Finding>,
        results: &mpsc::Sender<ResultEvent>,
        work: &Work,
        deadline: Deadline,
    ) -> Done {
        let mut done = Settling::new(self, work, deadline, results).settle(found).await;
        for id in &work.malformed {
            let instance = conclude::malformed(id);
            log(&instance, &done);
            done.add_malformed(instance);
        }
        done
    }

    /// Has a result that `event` led to published, if there is a bus.
    async fn send_result(
        &self,
        results: &mpsc::Sender<ResultEvent>,
        event: &EventSummary,
        result: impl FnOnce(Setting) -> Option<ResultEvent>,
    ) {
        let Settings { mode, region, options, .. } = &self.settings;
        if options.result_bus.is_some()
            && let Some(result) = result(Setting { mode: *mode, region, event })
        {
            drop(results.send(result).await);
        }
    }

    async fn publish(&self, results: mpsc::Receiver<ResultEvent>, until: Instant) -> Option<Published> {
        let bus = self.settings.options.result_bus.as_deref()?;
        Some(publish(bus, results, until).await)
    }

    /// How many calls EC2 has throttled so far.
    fn throttles(&self) -> usize {
        self.describe_rate.throttles() + self.modify_rate.throttles()
    }
}

/// Logs what became of an instance. `done` is what was recorded before.
fn log(instance: &InstanceReport, done: &Done) {
    // A text of any length may name instances that EC2 does not know: writing a line for each
    // could take longer than there is time.
    if instance.was_described() || done.undescribed < LISTED {
        telemetry::log_instance(instance);
    }
}
