//! One invocation: read the event, look its instances up, decide, require tokens, report.
//!
//! Generic over the port to EC2. Looking up and writing go on at the same time, joined by a
//! channel, so that an instance found is enforced while another is still waited for. Nothing is
//! remembered between invocations: the described state alone decides.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_lambda_events::event::sqs::SqsBatchResponse;
use futures_util::{StreamExt, stream};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use crate::config::Mode;
use crate::ec2::{Ec2, Ec2Error, IDS_PER_DESCRIBE, Page, Which};
use crate::event::{self, EventError, EventSummary, Invocation, Message, Request, Targets};
use crate::instance::{HttpTokens, Instance, InstanceId, MalformedInstanceId, MetadataOptions};
use crate::policy::{Decision, decide};
use crate::report::{Failure, InstanceReport, Instances, MessageReport, Outcome, Report};
use crate::request_rate::RequestRate;
use crate::telemetry;

/// Most calls of `ModifyInstanceMetadataOptions` in flight: more gain little, since EC2 refills
/// five a second, and the account's own automation needs the same bucket.
const WRITES_IN_FLIGHT: usize = 8;

/// The function, apart from Lambda's runtime.
#[derive(Debug)]
pub struct Enforcer<E> {
    /// The way to EC2.
    pub ec2: E,
    /// The Region whose instances it looks after.
    pub region: String,
    /// Whether it writes.
    pub mode: Mode,
    /// How long to wait before each further look for an instance that EC2 does not know yet, and
    /// before each further call for one that is not ready yet.
    pub waits: Vec<Duration>,
    describe_rate: RequestRate,
    modify_rate: RequestRate,
}

/// Waits for a new instance: 3.75 s in all, which EC2 rarely needs.
const WAITS: [Duration; 4] =
    [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];

/// What an invocation answers when it succeeds.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// Of a bare event: the report.
    Report(Box<Report>),
    /// Of an SQS event.
    Batch {
        /// The messages that go back to the queue: all that is answered.
        #[serde(flatten)]
        response: SqsBatchResponse,
        /// The report, which is only logged.
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
            Self::Event(error) => refusal_type(error),
            Self::Incomplete(_) => "EnforcementIncomplete",
        }
    }
}

fn refusal_type(error: &EventError) -> &'static str {
    match error {
        EventError::Unreadable { .. } => "UnreadableEvent",
        EventError::WrongRegion { .. } => "WrongRegion",
    }
}

/// Until when an invocation may do what.
#[derive(Debug, Clone, Copy)]
struct Deadline {
    /// From here on nothing more is started.
    start_until: Instant,
    /// From here on nothing more is waited for.
    wait_until: Instant,
}

impl Deadline {
    /// Keeps two seconds, at most a quarter of the time left, in which calls in flight may end,
    /// and of these half a second for the answer.
    fn before(end: Instant) -> Self {
        let left = end.saturating_duration_since(Instant::now());
        let keep = |most: Duration| end.checked_sub(most).unwrap_or(end);
        Self {
            start_until: keep(Duration::from_secs(2).min(left / 4)),
            wait_until: keep(Duration::from_millis(500).min(left / 16)),
        }
    }

    /// Waits for the turn of a call. Whether it came while something may be started.
    async fn turn(self, rate: &RequestRate) -> bool {
        Instant::now() < self.start_until && timeout_at(self.start_until, rate.turn()).await.is_ok()
    }

    /// Sleeps, unless nothing could be started afterwards. Whether it did.
    async fn sleep(self, wait: Duration) -> bool {
        let in_time = Instant::now() + wait < self.start_until;
        if in_time {
            sleep(wait).await;
        }
        in_time
    }

    /// A call of EC2, given up when the time is over.
    async fn call<T>(self, call: impl Future<Output = Result<T, Ec2Error>>) -> Result<T, Ec2Error> {
        timeout_at(self.wait_until, call).await.unwrap_or_else(|_| Err(deadline_exceeded("EC2 had not answered")))
    }
}

fn deadline_exceeded(what: &str) -> Ec2Error {
    Ec2Error::Retryable {
        code: "DeadlineExceeded".to_owned(),
        message: format!("the function's time-out was near: {what}"),
    }
}

/// What looking up yields, one by one.
enum Finding {
    Described(Instance),
    Unknown(InstanceId),
    Failed(InstanceId, Failure),
}

/// What one invocation looks after: the targets of its events, merged.
#[derive(Debug, Default)]
struct Work {
    /// By id, whether not finding it is a failure.
    named: BTreeMap<InstanceId, bool>,
    malformed: BTreeSet<MalformedInstanceId>,
    violators: bool,
}

impl Work {
    fn add(&mut self, targets: &Targets) {
        for id in &targets.named {
            *self.named.entry(id.clone()).or_default() |= targets.must_exist;
        }
        self.malformed.extend(targets.malformed.iter().cloned());
        self.violators |= targets.violators;
    }
}

/// What became of the work. It grows with what events named, not with the account.
#[derive(Debug, Default)]
struct Done {
    instances: Instances,
    /// Those that the report has no room for, until there is a line of the log full of them.
    unlisted: Vec<InstanceReport>,
    /// The named instances that failed.
    failed: BTreeSet<InstanceId>,
    /// Whether an instance that was found by filter failed.
    violators_failed: bool,
    /// The failure of the look-up by filter.
    error: Option<Failure>,
}

impl<E: Ec2> Enforcer<E> {
    /// The function for one Region. It calls EC2 at the rates that EC2's documentation on request
    /// throttling gives an account's filtered `DescribeInstances` and its
    /// `ModifyInstanceMetadataOptions` in a Region.
    pub fn new(ec2: E, region: String, mode: Mode) -> Self {
        Self {
            ec2,
            region,
            mode,
            waits: WAITS.to_vec(),
            describe_rate: RequestRate::new(100, 20),
            modify_rate: RequestRate::new(100, 5),
        }
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
        let invocation = event::read(json, &self.region).inspect_err(log_refusal)?;
        match invocation {
            Invocation::Event(request) => self.handle_event(request, deadline).await,
            Invocation::Batch(messages) => Ok(self.handle_batch(messages, deadline).await),
        }
    }

    async fn handle_event(&self, request: Request, deadline: Deadline) -> Result<Answer, InvocationError> {
        let report = match request.targets {
            Err(ignored) => Report::of_ignored(self.mode, request.event, ignored.to_string()),
            Ok(targets) => {
                let mut work = Work::default();
                work.add(&targets);
                let done = self.look_after(&work, deadline).await;
                Report::new(self.mode, request.event, done.instances, done.error)
            }
        };
        telemetry::log_report(&report);
        if report.is_complete() {
            Ok(Answer::Report(Box::new(report)))
        } else {
            Err(InvocationError::Incomplete(Box::new(report)))
        }
    }

    async fn handle_batch(&self, messages: Vec<Message>, deadline: Deadline) -> Answer {
        let mut work = Work::default();
        for message in &messages {
            match &message.request {
                Ok(Request { targets: Ok(targets), .. }) => work.add(targets),
                Ok(Request { targets: Err(_), .. }) => {}
                Err(error) => log_refusal(error),
            }
        }
        let done = self.look_after(&work, deadline).await;
        let messages: Vec<_> = messages.into_iter().map(|message| message_report(message, &done)).collect();

        let event =
            EventSummary { name: "SQS batch".to_owned(), source: "aws:sqs".to_owned(), ..EventSummary::default() };
        let report = Report { messages, ..Report::new(self.mode, event, done.instances, done.error) };
        telemetry::log_report(&report);
        let mut response = SqsBatchResponse::default();
        for message in report.messages.iter().filter(|message| message.failed) {
            response.add_failure(&message.message_id);
        }
        Answer::Batch { response, report: Box::new(report) }
    }

    /// Looks the work's instances up and, as they are found, concludes about each.
    async fn look_after(&self, work: &Work, deadline: Deadline) -> Done {
        let (findings, found) = mpsc::channel(IDS_PER_DESCRIBE);
        let look_up = async {
            let ((), error) = tokio::join!(
                self.look_up_named(work, deadline, findings.clone()),
                self.look_up_violators(work, deadline, findings.clone()),
            );
            drop(findings);
            error
        };
        let found = stream::unfold(found, async |mut found| Some((found.recv().await?, found)));
        let concluded = found.map(|finding| self.conclude(finding, work, deadline)).buffer_unordered(WRITES_IN_FLIGHT);
        let done = concluded.fold(Done::default(), async |done, (id, outcome)| done.with(id, outcome, work));
        let (error, done) = tokio::join!(look_up, done);
        let done = Done { error, ..done };
        let mut done = work.malformed.iter().fold(done, Done::with_malformed);
        done.log_unlisted();
        done
    }

    /// Looks the named instances up, and for a while again those that EC2 does not know yet.
    async fn look_up_named(&self, work: &Work, deadline: Deadline, findings: mpsc::Sender<Finding>) {
        let mut missing: Vec<InstanceId> = work.named.keys().cloned().collect();
        missing = self.describe(missing, deadline, &findings).await;
        for wait in &self.waits {
            if missing.is_empty() || !deadline.sleep(*wait).await {
                break;
            }
            missing = self.describe(missing, deadline, &findings).await;
        }
        for id in missing {
            send(&findings, Finding::Unknown(id)).await;
        }
    }

    /// Describes the instances of these ids, and answers those that EC2 does not know.
    async fn describe(
        &self,
        ids: Vec<InstanceId>,
        deadline: Deadline,
        findings: &mpsc::Sender<Finding>,
    ) -> Vec<InstanceId> {
        let mut missing = Vec::new();
        for chunk in ids.chunks(IDS_PER_DESCRIBE) {
            let mut unanswered: BTreeSet<_> = chunk.iter().cloned().collect();
            let result = self.pages(Which::Named(chunk), deadline, async |instance| {
                if unanswered.remove(&instance.id) {
                    send(findings, Finding::Described(instance)).await;
                }
            });
            match result.await {
                Ok(()) => missing.extend(unanswered),
                Err(error) => {
                    let failure = error.into_failure();
                    for id in unanswered {
                        send(findings, Finding::Failed(id, failure.clone())).await;
                    }
                }
            }
        }
        missing
    }

    /// Looks up every instance of the Region whose tokens are not required, without those that
    /// are named anyway. Answers the failure that ended it, if one did.
    async fn look_up_violators(
        &self,
        work: &Work,
        deadline: Deadline,
        findings: mpsc::Sender<Finding>,
    ) -> Option<Failure> {
        if !work.violators {
            return None;
        }
        let result = self.pages(Which::Violators, deadline, async |instance| {
            if !work.named.contains_key(&instance.id) {
                send(&findings, Finding::Described(instance)).await;
            }
        });
        result.await.err().map(Ec2Error::into_failure)
    }

    /// Hands every instance of every page to `each`.
    async fn pages(
        &self,
        which: Which<'_>,
        deadline: Deadline,
        mut each: impl AsyncFnMut(Instance),
    ) -> Result<(), Ec2Error> {
        let mut next_token = None;
        loop {
            let describe = async || self.ec2.describe_instances(which, next_token.as_deref()).await;
            let page: Page = self.call(&self.describe_rate, deadline, describe).await?;
            for instance in page.instances {
                each(instance).await;
            }
            next_token = page.next_token;
            if next_token.is_none() {
                return Ok(());
            }
        }
    }

    /// A call of EC2 in its turn: again when it was throttled, and in a while when the instance
    /// is not yet known or not yet ready.
    async fn call<T>(
        &self,
        rate: &RequestRate,
        deadline: Deadline,
        call: impl AsyncFn() -> Result<T, Ec2Error>,
    ) -> Result<T, Ec2Error> {
        let mut error = deadline_exceeded("the call was not begun");
        let mut waits = self.waits.iter();
        while deadline.turn(rate).await {
            error = match deadline.call(call()).await {
                Err(error) => error,
                answer => return answer,
            };
            let wait = match error {
                Ec2Error::Throttled { .. } => {
                    rate.throttled();
                    waits.next().map(|_| Duration::ZERO)
                }
                Ec2Error::NotReady { .. } | Ec2Error::NotFound { .. } => waits.next().copied(),
                Ec2Error::Retryable { .. } | Ec2Error::Refused { .. } => None,
            };
            let Some(wait) = wait else { break };
            if !deadline.sleep(wait).await {
                break;
            }
        }
        Err(error)
    }

    /// What becomes of one finding.
    async fn conclude(&self, finding: Finding, work: &Work, deadline: Deadline) -> (InstanceId, Outcome) {
        match finding {
            Finding::Described(instance) => (instance.id.clone(), self.act(instance, work, deadline).await),
            Finding::Unknown(id) => {
                let outcome = not_found(&id, work, None);
                telemetry::log_write(&id, &outcome);
                (id, outcome)
            }
            Finding::Failed(id, error) => (id, Outcome::Failed { before: None, error }),
        }
    }

    /// Does what is decided about a described instance. No exemption exists in this version.
    async fn act(&self, instance: Instance, work: &Work, deadline: Deadline) -> Outcome {
        match decide(&instance, false) {
            Decision::Gone => Outcome::Gone { before: instance.metadata_options },
            Decision::EndpointDisabled => Outcome::EndpointDisabled { before: instance.metadata_options },
            Decision::Compliant => Outcome::Compliant { before: instance.metadata_options },
            Decision::Exempt => Outcome::Exempt { before: instance.metadata_options },
            Decision::RequireTokens => match self.mode {
                Mode::Observe => Outcome::WouldEnforce { before: instance.metadata_options },
                Mode::Enforce => {
                    let id = instance.id.clone();
                    let outcome = self.require_tokens(instance, work, deadline).await;
                    telemetry::log_write(&id, &outcome);
                    outcome
                }
            },
        }
    }

    async fn require_tokens(&self, instance: Instance, work: &Work, deadline: Deadline) -> Outcome {
        let Instance { id, metadata_options: before, managed_by, state: _, tags: _ } = instance;
        let require_tokens = async || self.ec2.require_tokens(&id).await;
        let error = match self.call(&self.modify_rate, deadline, require_tokens).await {
            Ok(after) if after.http_tokens == Some(HttpTokens::Required) => return Outcome::Enforced { before, after },
            Ok(after) => not_applied(after.http_tokens.as_ref()),
            Err(Ec2Error::NotFound { .. }) => return not_found(&id, work, Some(before)),
            Err(error) => error.into_failure(),
        };
        let error = match managed_by {
            Some(service) if !error.retryable => {
                Failure { message: format!("{} (the instance is managed by {service})", error.message), ..error }
            }
            Some(_) | None => error,
        };
        Outcome::Failed { before: Some(before), error }
    }
}

/// Of an instance that EC2 does not know: a failure if an event says that it must exist.
fn not_found(id: &InstanceId, work: &Work, before: Option<MetadataOptions>) -> Outcome {
    if !work.named.get(id).is_some_and(|must_exist| *must_exist) {
        return Outcome::NotFound;
    }
    let error = Failure {
        code: "InvalidInstanceID.NotFound".to_owned(),
        message: "EC2 does not know the instance yet, although an event says that it exists".to_owned(),
        retryable: true,
    };
    Outcome::Failed { before, error }
}

/// Of a call that EC2 answered without an error and without requiring tokens.
fn not_applied(answered: Option<&HttpTokens>) -> Failure {
    let answered = answered.map_or("nothing", HttpTokens::as_str);
    Failure {
        code: "NotApplied".to_owned(),
        message: format!("EC2 accepted the call but answered http_tokens: {answered}, not required"),
        retryable: true,
    }
}

/// What became of one message: it failed if it could not be read, or anything it asked for failed.
fn message_report(message: Message, done: &Done) -> MessageReport {
    let Message { message_id, request } = message;
    let report = MessageReport { message_id, event: None, ignored: None, refused: None, failed: true };
    match request {
        Err(error) => MessageReport { refused: Some(error.to_string()), ..report },
        Ok(Request { event, targets: Err(ignored) }) => {
            MessageReport { event: Some(event), ignored: Some(ignored.to_string()), failed: false, ..report }
        }
        Ok(Request { event, targets: Ok(targets) }) => {
            MessageReport { event: Some(event), failed: done.failed_for(&targets), ..report }
        }
    }
}

impl Done {
    /// With what became of one instance.
    fn with(mut self, id: InstanceId, outcome: Outcome, work: &Work) -> Self {
        let instance = InstanceReport { instance_id: id.to_string(), outcome };
        match (instance.failure(), work.named.contains_key(&id)) {
            (Some(_), true) => {
                self.failed.insert(id);
            }
            (Some(_), false) => self.violators_failed = true,
            (None, _) => {}
        }
        self.list(instance);
        self
    }

    fn with_malformed(mut self, id: &MalformedInstanceId) -> Self {
        let error =
            Failure { code: "InvalidInstanceID.Malformed".to_owned(), message: id.to_string(), retryable: false };
        let outcome = Outcome::Failed { before: None, error };
        self.list(InstanceReport { instance_id: id.as_str().to_owned(), outcome });
        self
    }

    fn list(&mut self, instance: InstanceReport) {
        self.unlisted.extend(self.instances.add(instance));
        if self.unlisted.len() == telemetry::ON_A_LINE {
            self.log_unlisted();
        }
    }

    fn log_unlisted(&mut self) {
        telemetry::log_unlisted(&self.unlisted);
        self.unlisted.clear();
    }

    /// Whether anything that these targets asked for failed.
    fn failed_for(&self, targets: &Targets) -> bool {
        !targets.malformed.is_empty()
            || (targets.violators && (self.error.is_some() || self.violators_failed))
            || targets.named.iter().any(|id| self.failed.contains(id))
    }
}

/// The receiver lives as long as the look-up, so a finding always arrives.
async fn send(findings: &mpsc::Sender<Finding>, finding: Finding) {
    debug_assert!(!findings.is_closed(), "findings are received until the look-up ends");
    drop(findings.send(finding).await);
}

fn log_refusal(error: &EventError) {
    telemetry::log_refusal(refusal_type(error), error);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long before the end nothing more is started, and nothing more is waited for.
    fn kept(left: Duration) -> (Duration, Duration) {
        let end = Instant::now() + left;
        let deadline = Deadline::before(end);
        (end - deadline.start_until, end - deadline.wait_until)
    }

    #[test]
    fn a_minute_keeps_two_seconds_and_of_these_half_a_second_for_the_answer() {
        assert_eq!(kept(Duration::from_mins(1)), (Duration::from_secs(2), Duration::from_millis(500)));
    }

    #[test]
    fn a_short_time_out_keeps_a_share_of_itself() {
        let (start, wait) = kept(Duration::from_secs(3));
        assert!(start <= Duration::from_millis(750) && wait <= Duration::from_millis(188));
        assert!(wait > Duration::from_millis(180) && start > wait);
    }

    #[test]
    fn a_deadline_that_has_passed_leaves_no_time() {
        let deadline = Deadline::before(Instant::now());
        assert!(deadline.start_until <= Instant::now());
    }

    #[test]
    fn an_id_of_two_events_must_exist_if_one_says_so() {
        let id: InstanceId = "i-0123456789abcdef0".parse().unwrap();
        let targets = |must_exist| Targets { named: [id.clone()].into(), must_exist, ..Targets::default() };
        for order in [[true, false], [false, true]] {
            let mut work = Work::default();
            order.map(targets).iter().for_each(|it| work.add(it));
            assert_eq!(work.named, [(id.clone(), true)].into());
        }
    }
}
