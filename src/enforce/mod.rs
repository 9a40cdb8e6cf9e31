//! One invocation: read the event, look its instances up, decide, require tokens, report.
//!
//! Generic over the port to EC2. Looking up and writing go on at the same time, joined by a
//! channel, so that an instance found is enforced while another is still waited for. Nothing is
//! remembered between invocations: the described state alone decides.

pub mod publish;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_lambda_events::event::sqs::SqsBatchResponse;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt, stream};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use crate::aws::cloudwatch::{INSTANCES_PER_CALL, MetadataUse};
use crate::aws::ec2::{Ec2, Ec2Error, IDS_PER_DESCRIBE, Page, Which};
use crate::aws::eventbridge::ResultBus;
use crate::aws::request_rate::RequestRate;
use crate::cause::cause;
use crate::cause::mend;
use crate::config::Mode;
use crate::enforce::publish::publish;
use crate::event::{self, EventError, EventSummary, Invocation, Message, Origin, Request, Targets};
use crate::instance::{HttpTokens, Instance, InstanceId, MalformedInstanceId, MetadataOptions};
use crate::policy::exemption::{Exemption, Exemptions, NoExemption};
use crate::policy::{Decision, decide, hop_limit_warning};
use crate::report::metrics::Measurements;
use crate::report::result_event::{ResultEvent, result_event};
use crate::report::{Details, Failure, InstanceReport, Instances, MessageReport, Outcome, Published, Report};
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
    /// What is off unless it is configured.
    pub options: Options,
    /// How long to wait before each further look for an instance that EC2 does not know yet, and
    /// before each further call for one that is not ready yet.
    pub waits: Vec<Duration>,
    clock: Clock,
    describe_rate: RequestRate,
    modify_rate: RequestRate,
    /// How many calls EC2 has throttled so far.
    throttles: AtomicUsize,
}

/// The time of day, in UTC.
pub type Clock = fn() -> DateTime<Utc>;

/// What is off unless it is configured.
#[derive(Debug, Default)]
pub struct Options {
    /// The function's name, for its metrics.
    pub function_name: String,
    /// Which tag exempts.
    pub exemptions: Option<Exemptions>,
    /// Whether the sweep spares instances in use.
    pub grace: Option<Grace>,
    /// Where results are sent to.
    pub result_bus: Option<Box<dyn ResultBus>>,
}

/// A sweep that spares instances whose metadata service was lately used without tokens.
#[derive(Debug)]
pub struct Grace {
    /// In how many days before.
    pub days: u16,
    /// Who knows that.
    pub metadata_use: Box<dyn MetadataUse>,
}

/// How much earlier than the event an instance may have been launched to be of its launch.
const BEFORE_EVENT: TimeDelta = TimeDelta::minutes(5);

/// Results that wait to be sent; EC2 allows fewer writes in a minute.
const RESULTS_WAITING: usize = 1000;

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

/// Until when an invocation, which began at `begin`, may do what.
#[derive(Debug, Clone, Copy)]
struct Deadline {
    begin: Instant,
    /// From here on nothing more is started.
    start_until: Instant,
    /// From here on no answer of EC2 is waited for any more.
    wait_until: Instant,
    /// From here on no answer of the bus is waited for any more.
    publish_until: Instant,
}

impl Deadline {
    /// Keeps two seconds, at most a quarter of the time left, in which calls in flight may end,
    /// of these half a second for the results, and of these a fifth for the answer.
    fn before(end: Instant) -> Self {
        let begin = Instant::now();
        let left = end.saturating_duration_since(begin);
        let keep = |most: Duration| end.checked_sub(most).unwrap_or(end);
        Self {
            begin,
            start_until: keep(Duration::from_secs(2).min(left / 4)),
            wait_until: keep(Duration::from_millis(500).min(left / 16)),
            publish_until: keep(Duration::from_millis(200).min(left / 32)),
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
    /// Described, and left as it is: in use without tokens, or not known whether it is.
    Left(Instance, WhyLeft),
    Unknown(InstanceId),
    Failed(InstanceId, Failure),
}

/// Why the sweep leaves an instance as it is.
enum WhyLeft {
    InUse { calls_without_token: u64, in_days: u16 },
    NotKnown(Failure),
}

/// What one invocation looks after: the targets of its events, merged.
#[derive(Debug, Default)]
struct Work {
    /// What it is about where no event names an instance.
    event: Arc<EventSummary>,
    named: BTreeMap<InstanceId, Named>,
    malformed: BTreeSet<MalformedInstanceId>,
    violators: bool,
    /// The earliest launch that named no instances: what was launched since is new.
    launch_time: Option<DateTime<Utc>>,
}

/// An instance that events named.
#[derive(Debug, Clone, Default)]
struct Named {
    /// Whether not finding it is a failure.
    must_exist: bool,
    /// The event that tells the most of it.
    event: Arc<EventSummary>,
    origin: Option<Arc<Origin>>,
    /// The time of the first.
    since: Option<DateTime<Utc>>,
}

impl Named {
    fn hear(&mut self, event: &Arc<EventSummary>, origin: Option<&Arc<Origin>>, must_exist: bool) {
        self.must_exist |= must_exist;
        self.since = self.since.into_iter().chain(event.time).min();
        if self.event.name.is_empty() || tells(origin) >= tells(self.origin.as_ref()) {
            self.event = Arc::clone(event);
            self.origin = origin.cloned();
        }
    }
}

/// How much the call of an event tells of why tokens are not required.
fn tells(origin: Option<&Arc<Origin>>) -> u8 {
    origin.map_or(0, |origin| if origin.call.loosens() { 2 } else { 1 })
}

impl Work {
    fn of(event: EventSummary) -> Self {
        Self { event: Arc::new(event), ..Self::default() }
    }

    fn add(&mut self, targets: &Targets, event: &Arc<EventSummary>, origin: Option<&Arc<Origin>>) {
        for id in &targets.named {
            self.named.entry(id.clone()).or_default().hear(event, origin, targets.must_exist);
        }
        self.malformed.extend(targets.malformed.iter().cloned());
        self.violators |= targets.violators;
        if targets.violators && targets.must_exist {
            self.launch_time = self.launch_time.into_iter().chain(event.time).min();
        }
    }

    /// When what has to do with this instance began, if an event tells: of the sweep, none does.
    fn since(&self, instance: &Instance) -> Option<DateTime<Utc>> {
        self.named.get(&instance.id).map_or_else(
            || self.launch_time.filter(|time| instance.launch_time.is_some_and(|it| it + BEFORE_EVENT >= *time)),
            |named| named.since,
        )
    }

    fn origin(&self, id: &InstanceId) -> Option<&Origin> {
        self.named.get(id)?.origin.as_deref()
    }

    fn event(&self, id: &InstanceId) -> &EventSummary {
        self.named.get(id).map_or(&self.event, |named| &named.event)
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
    /// How many failed whose failure does not pass by itself.
    refused: usize,
    time_to_enforce_ms: Vec<u64>,
    results: Option<Published>,
}

impl<E: Ec2> Enforcer<E> {
    /// The function for one Region. It calls EC2 at the rates that EC2's documentation on request
    /// throttling gives an account's filtered `DescribeInstances` and its
    /// `ModifyInstanceMetadataOptions` in a Region.
    pub fn new(ec2: E, region: String, mode: Mode, clock: Clock) -> Self {
        Self {
            ec2,
            region,
            mode,
            options: Options::default(),
            waits: WAITS.to_vec(),
            clock,
            describe_rate: RequestRate::new(100, 20),
            modify_rate: RequestRate::new(100, 5),
            throttles: AtomicUsize::new(0),
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
                let mut work = Work::of(request.event.clone());
                let event = Arc::clone(&work.event);
                work.add(&targets, &event, request.origin.as_ref());
                let done = self.look_after(&work, deadline).await;
                Report { results: done.results, ..Report::new(self.mode, request.event, done.instances, done.error) }
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
        let event =
            EventSummary { name: "SQS batch".to_owned(), source: "aws:sqs".to_owned(), ..EventSummary::default() };
        let mut work = Work::of(event.clone());
        for message in &messages {
            match &message.request {
                Ok(Request { targets: Ok(targets), event, origin }) => {
                    work.add(targets, &Arc::new(event.clone()), origin.as_ref());
                }
                Ok(Request { targets: Err(_), .. }) => {}
                Err(error) => log_refusal(error),
            }
        }
        let done = self.look_after(&work, deadline).await;
        let messages: Vec<_> = messages.into_iter().map(|message| message_report(message, &done)).collect();
        let report = Report::new(self.mode, event, done.instances, done.error);
        let report = Report { messages, results: done.results, ..report };
        telemetry::log_report(&report);
        let mut response = SqsBatchResponse::default();
        for message in report.messages.iter().filter(|message| message.failed) {
            response.add_failure(&message.message_id);
        }
        Answer::Batch { response, report: Box::new(report) }
    }

    /// Looks the work's instances up and, as they are found, concludes about each and tells of it.
    async fn look_after(&self, work: &Work, deadline: Deadline) -> Done {
        let (requests, throttles) = (self.ec2.requests(), self.throttles.load(Ordering::Relaxed));
        let (findings, found) = mpsc::channel(IDS_PER_DESCRIBE);
        let (results, concluded_results) = mpsc::channel(RESULTS_WAITING);
        let look_up = async {
            let ((), error) = tokio::join!(
                self.look_up_named(work, deadline, findings.clone()),
                self.look_up_violators(work, deadline, findings.clone()),
            );
            drop(findings);
            error
        };
        let conclude = async {
            let found = stream::unfold(found, async |mut found| Some((found.recv().await?, found)));
            let concluded =
                found.map(|finding| self.conclude(finding, work, deadline)).buffer_unordered(WRITES_IN_FLIGHT);
            let done = concluded.fold(Done::default(), async |done, (id, instance)| {
                self.tell(&results, &instance, work.event(&id)).await;
                done.with(&id, instance, work)
            });
            let mut done = done.await;
            for id in &work.malformed {
                let instance = malformed(id);
                self.tell(&results, &instance, &work.event).await;
                done.list(instance);
            }
            drop(results);
            done
        };
        let (error, done, results) =
            tokio::join!(look_up, conclude, self.publish(concluded_results, deadline.publish_until));
        let mut done = Done { error, results, ..done };
        done.log_unlisted();
        telemetry::log_metrics(&Measurements {
            function_name: &self.options.function_name,
            mode: self.mode,
            at: (self.clock)(),
            counts: *done.instances.counts(),
            refused: done.refused,
            time_to_enforce_ms: &done.time_to_enforce_ms,
            duration_ms: milliseconds(deadline.begin.elapsed()),
            ec2_calls: self.ec2.requests() - requests,
            ec2_throttles: self.throttles.load(Ordering::Relaxed) - throttles,
            unpublished: done.results.as_ref().map(|it| it.unpublished),
        });
        done
    }

    /// Has an instance told of on the bus, if there is one.
    async fn tell(&self, results: &mpsc::Sender<ResultEvent>, instance: &InstanceReport, event: &EventSummary) {
        if self.options.result_bus.is_some()
            && let Some(event) = result_event(instance, event, self.mode, &self.region)
        {
            drop(results.send(event).await);
        }
    }

    async fn publish(&self, results: mpsc::Receiver<ResultEvent>, until: Instant) -> Option<Published> {
        match &self.options.result_bus {
            Some(bus) => Some(publish(bus.as_ref(), results, until).await),
            None => None,
        }
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
            let result = self.pages(Which::Named(chunk), deadline, async |page| {
                for instance in page {
                    if unanswered.remove(&instance.id) {
                        send(findings, Finding::Described(instance)).await;
                    }
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
        let result = self.pages(Which::Violators, deadline, async |page| {
            let unnamed = page.into_iter().filter(|instance| !work.named.contains_key(&instance.id));
            let (spared, others): (Vec<_>, _) = unnamed.partition(|instance| self.may_be_spared(instance, work));
            for instance in others {
                send(&findings, Finding::Described(instance)).await;
            }
            for finding in self.ask_for_use(spared, deadline).await {
                send(&findings, finding).await;
            }
        });
        result.await.err().map(Ec2Error::into_failure)
    }

    /// Whether this instance, found by filter, is left as it is if it is used without tokens: not
    /// if it is new.
    fn may_be_spared(&self, instance: &Instance, work: &Work) -> bool {
        self.options.grace.is_some()
            && work.since(instance).is_none()
            && self.judge(instance).0 == Decision::RequireTokens
    }

    /// Finds out which of these instances were lately used without tokens.
    async fn ask_for_use(&self, instances: Vec<Instance>, deadline: Deadline) -> Vec<Finding> {
        let Some(grace) = &self.options.grace else {
            return instances.into_iter().map(Finding::Described).collect();
        };
        let mut findings = Vec::new();
        for instances in instances.chunks(INSTANCES_PER_CALL) {
            let ids: Vec<_> = instances.iter().map(|instance| instance.id.clone()).collect();
            let asked = grace.metadata_use.calls_without_token(&ids, grace.days, (self.clock)());
            let answer = timeout_at(deadline.wait_until, asked).await;
            let answer =
                answer.unwrap_or_else(|_| Err(deadline_exceeded("CloudWatch had not answered").into_failure()));
            findings.extend(instances.iter().cloned().map(|instance| match &answer {
                Ok(calls) => match calls.get(&instance.id).copied() {
                    Some(calls_without_token) => {
                        Finding::Left(instance, WhyLeft::InUse { calls_without_token, in_days: grace.days })
                    }
                    None => Finding::Described(instance),
                },
                Err(error) => Finding::Left(instance, WhyLeft::NotKnown(error.clone())),
            }));
        }
        findings
    }

    /// Hands every page to `each`.
    async fn pages(
        &self,
        which: Which<'_>,
        deadline: Deadline,
        mut each: impl AsyncFnMut(Vec<Instance>),
    ) -> Result<(), Ec2Error> {
        let mut next_token = None;
        loop {
            let describe = async || self.ec2.describe_instances(which, next_token.as_deref()).await;
            let page: Page = self.call(&self.describe_rate, deadline, describe).await?;
            each(page.instances).await;
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
                    self.throttles.fetch_add(1, Ordering::Relaxed);
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
    async fn conclude(&self, finding: Finding, work: &Work, deadline: Deadline) -> (InstanceId, InstanceReport) {
        let (id, (outcome, details)) = match finding {
            Finding::Described(instance) => (instance.id.clone(), self.act(instance, work, deadline).await),
            Finding::Left(instance, why) => {
                let details = self.details(&instance, self.judge(&instance), work);
                let before = instance.metadata_options;
                let outcome = match why {
                    WhyLeft::InUse { calls_without_token, in_days } => {
                        Outcome::InUse { before, calls_without_token, in_days }
                    }
                    WhyLeft::NotKnown(error) => Outcome::Failed { before: Some(before), error },
                };
                (instance.id, (outcome, details))
            }
            // Of what was not described, of which there may be any number, the report is enough.
            Finding::Unknown(id) => {
                let instance = InstanceReport::new(id.as_str(), not_found(&id, work, None));
                return (id, instance);
            }
            Finding::Failed(id, error) => {
                let instance = InstanceReport::new(id.as_str(), Outcome::Failed { before: None, error });
                return (id, instance);
            }
        };
        let instance = InstanceReport { instance_id: id.to_string(), outcome, details };
        telemetry::log_instance(&instance);
        (id, instance)
    }

    /// What is decided about a described instance, and what its exemption tag says.
    fn judge(&self, instance: &Instance) -> (Decision, Result<Option<Exemption>, NoExemption>) {
        let exemptions = self.options.exemptions.as_ref();
        let today = (self.clock)().date_naive();
        let exemption = exemptions.map_or(Ok(None), |it| it.granted_by(&instance.tags, today));
        (decide(instance, matches!(exemption, Ok(Some(_)))), exemption)
    }

    /// Does what is decided about a described instance. Observing and enforcing differ in the write.
    async fn act(&self, instance: Instance, work: &Work, deadline: Deadline) -> (Outcome, Details) {
        let judged = self.judge(&instance);
        let decision = judged.0;
        let details = self.details(&instance, judged, work);
        let before = instance.metadata_options.clone();
        let outcome = match decision {
            Decision::Gone => Outcome::Gone { before },
            Decision::EndpointDisabled => Outcome::EndpointDisabled { before },
            Decision::Compliant => Outcome::Compliant { before },
            Decision::Exempt => Outcome::Exempt { before },
            Decision::RequireTokens => match self.mode {
                Mode::Observe => Outcome::WouldEnforce { before },
                Mode::Enforce => return self.enforce(instance, details, work, deadline).await,
            },
        };
        (outcome, details)
    }

    /// What is to be said of a described instance before anything is done to it.
    fn details(
        &self,
        instance: &Instance,
        (decision, exemption): (Decision, Result<Option<Exemption>, NoExemption>),
        work: &Work,
    ) -> Details {
        let is_violator = matches!(decision, Decision::Exempt | Decision::RequireTokens);
        let cause = || Box::new(cause(instance, work.origin(&instance.id), &self.region));
        let (exemption, no_exemption) = match exemption {
            Ok(exemption) => (exemption, None),
            Err(no_exemption) => (None, Some(no_exemption)),
        };
        Details {
            cause: is_violator.then(cause),
            exemption: exemption.filter(|_| decision == Decision::Exempt),
            no_exemption: no_exemption.filter(|_| decision == Decision::RequireTokens),
            warnings: hop_limit_warning(instance, decision).into_iter().collect(),
            ..Details::default()
        }
    }

    /// Requires tokens, and says how long that took and how it is undone.
    async fn enforce(
        &self,
        instance: Instance,
        details: Details,
        work: &Work,
        deadline: Deadline,
    ) -> (Outcome, Details) {
        let since = work.since(&instance);
        let undo = mend::undo(&instance.id, &instance.metadata_options, &self.region);
        let outcome = self.require_tokens(instance, work, deadline).await;
        if !matches!(outcome, Outcome::Enforced { .. }) {
            return (outcome, details);
        }
        let taken = since.map(|since| (self.clock)().signed_duration_since(since).num_milliseconds());
        let time_to_enforce_ms = taken.map(|milliseconds| u64::try_from(milliseconds).unwrap_or_default());
        (outcome, Details { time_to_enforce_ms, undo: Some(undo), ..details })
    }

    async fn require_tokens(&self, instance: Instance, work: &Work, deadline: Deadline) -> Outcome {
        let Instance { id, metadata_options: before, managed_by, .. } = instance;
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

/// Of what stood in an id's place.
fn malformed(id: &MalformedInstanceId) -> InstanceReport {
    let error = Failure { code: "InvalidInstanceID.Malformed".to_owned(), message: id.to_string(), retryable: false };
    InstanceReport::new(id.as_str(), Outcome::Failed { before: None, error })
}

fn milliseconds(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

/// Of an instance that EC2 does not know: a failure if an event says that it must exist.
fn not_found(id: &InstanceId, work: &Work, before: Option<MetadataOptions>) -> Outcome {
    if !work.named.get(id).is_some_and(|named| named.must_exist) {
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
        Ok(Request { event, targets: Err(ignored), .. }) => {
            MessageReport { event: Some(event), ignored: Some(ignored.to_string()), failed: false, ..report }
        }
        Ok(Request { event, targets: Ok(targets), .. }) => {
            MessageReport { event: Some(event), failed: done.failed_for(&targets), ..report }
        }
    }
}

impl Done {
    /// With what became of one instance.
    fn with(mut self, id: &InstanceId, instance: InstanceReport, work: &Work) -> Self {
        match (instance.failure(), work.named.contains_key(id)) {
            (Some(_), true) => {
                self.failed.insert(id.clone());
            }
            (Some(_), false) => self.violators_failed = true,
            (None, _) => {}
        }
        self.time_to_enforce_ms.extend(instance.details.time_to_enforce_ms);
        self.list(instance);
        self
    }

    fn list(&mut self, instance: InstanceReport) {
        self.refused += usize::from(instance.failure().is_some_and(|failure| !failure.retryable));
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

    fn targets(id: &InstanceId, must_exist: bool) -> Targets {
        Targets { named: [id.clone()].into(), must_exist, ..Targets::default() }
    }

    #[test]
    fn an_id_of_two_events_must_exist_if_one_says_so() {
        let id: InstanceId = "i-0123456789abcdef0".parse().unwrap();
        for order in [[true, false], [false, true]] {
            let mut work = Work::default();
            for must_exist in order {
                work.add(&targets(&id, must_exist), &Arc::default(), None);
            }
            assert!(work.named[&id].must_exist);
        }
    }

    #[test]
    fn of_two_events_the_one_that_tells_more_is_told_and_the_first_counts_for_the_time() {
        let id: InstanceId = "i-0123456789abcdef0".parse().unwrap();
        let event = |name: &str, time: &str| EventSummary {
            name: name.to_owned(),
            time: Some(time.parse().unwrap()),
            ..EventSummary::default()
        };
        let http_tokens = Some("optional".to_owned());
        let call = event::Call::ModifyInstanceMetadataOptions { http_tokens, http_endpoint: None };
        let origin = Arc::new(Origin { caller: event::Caller::default(), call });
        let (state_change, change) =
            (event("running", "2026-11-02T09:14:07Z"), event("Modify", "2026-11-02T09:14:09Z"));
        for order in [[true, false], [false, true]] {
            let mut work = Work::default();
            for is_change in order {
                let (event, origin) = if is_change { (&change, Some(&origin)) } else { (&state_change, None) };
                work.add(&targets(&id, true), &Arc::new(event.clone()), origin);
            }
            assert_eq!((work.event(&id), work.origin(&id)), (&change, Some(&*origin)));
            assert_eq!(work.named[&id].since, state_change.time);
        }
    }
}
