//! Requiring tokens: whose turn it is, the one call, and whether it is made again.
//!
//! Writes take their turns at the account's request rate, a few are in flight at a time, and none is
//! held up by an instance that is not ready yet: that one waits in the queue. What has waited for too
//! long is described again before it is written to, since its owner may have changed it meanwhile. What
//! a policy denies is described again after it, for the same reason.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::deadline::Deadline;
use super::done::{About, Done};
use super::look_up::Finding;
use super::queue::{Candidate, Described, Queue};
use super::work::Work;
use super::{Enforcer, log};
use crate::aws::ec2::{Ec2, IDS_PER_DESCRIBE};
use crate::aws::{Class, Error};
use crate::instance::{HttpTokens, Instance, InstanceId, MetadataOptions};
use crate::report::result_event::{ResultEvent, Setting, result_event};
use crate::report::{Failure, InstanceReport, Outcome};

/// Most calls of `ModifyInstanceMetadataOptions` in flight: more gain little, since EC2 refills
/// five a second, and the account's own automation needs the same bucket.
const WRITES_IN_FLIGHT: usize = 8;

/// How often an instance that is not ready yet, or not known yet, is written to: a later event finds
/// it ready.
const WRITES_IF_NOT_READY: usize = 2;

/// How many writes that failed by a fault of EC2 one invocation tries again, so that a fault of EC2 is
/// not answered with several times the calls.
const RETRIES: usize = 100;

/// What EC2 answers where a policy denies a call, among them the role's own denial of changes to an
/// instance whose endpoint is closed: what the instance has now says whether that is why.
const DENIED: &str = "UnauthorizedOperation";

/// Settles what is found: concludes about it, and requires tokens where that is decided.
pub(super) struct Settling<'a, E> {
    enforcer: &'a Enforcer<E>,
    work: &'a Work,
    deadline: Deadline,
    results: &'a mpsc::Sender<ResultEvent>,
    queue: Queue,
    done: Done,
    /// Attributions by events that were received before.
    attributions: Vec<(InstanceId, InstanceReport)>,
    /// Whether it is the turn of a write that was not sent yet.
    has_turn: bool,
    is_describing: bool,
    retries_left: usize,
    /// What a policy denied, until it is looked at once more, as many at a time as one call names.
    denied: Vec<Denied>,
    /// Writes to instances that only the sweep asks for: in flight, and enforced.
    swept_in_flight: usize,
    swept_enforced: usize,
}

/// A violator that a policy keeps from being changed, how it was described before, and what EC2 answered.
#[derive(Debug)]
struct Denied {
    candidate: Candidate,
    described: Described,
    error: Error,
}

/// What is begun in the turn of a write, or beside it.
#[expect(clippy::large_enum_variant, reason = "a few at a time, most of them writes")]
enum Step {
    Write(Candidate, Described),
    DescribeAgain(Vec<Candidate>),
    LookAtDenied(Vec<Denied>),
}

/// What came of it.
#[expect(clippy::large_enum_variant, reason = "a few at a time, most of them writes")]
enum Stepped {
    Written(Candidate, Described, Result<MetadataOptions, Error>),
    DescribedAgain(Vec<Candidate>, BTreeMap<InstanceId, Described>, Result<(), Error>),
    LookedAtDenied(Vec<Denied>, BTreeMap<InstanceId, Described>),
}

impl<'a, E: Ec2> Settling<'a, E> {
    pub(super) fn new(
        enforcer: &'a Enforcer<E>,
        work: &'a Work,
        deadline: Deadline,
        results: &'a mpsc::Sender<ResultEvent>,
    ) -> Self {
        Self {
            enforcer,
            work,
            deadline,
            results,
            queue: Queue::default(),
            done: Done::default(),
            attributions: Vec::new(),
            has_turn: false,
            is_describing: false,
            retries_left: RETRIES,
            denied: Vec::new(),
            swept_in_flight: 0,
            swept_enforced: 0,
        }
    }

    /// Settles all that is found, until nothing more can be found and nothing is left to be done.
    pub(super) async fn settle(mut self, mut found: mpsc::Receiver<Finding>) -> Done {
        let Self { enforcer, deadline, .. } = self;
        let mut steps = FuturesUnordered::new();
        let mut is_looking_up = true;
        loop {
            while let Some(step) = self.next_step() {
                steps.push(enforcer.step(step, deadline));
            }
            let due = self.queue.first_due();
            tokio::select! {
                biased;
                Some(stepped) = steps.next(), if !steps.is_empty() => self.stepped(stepped).await,
                finding = found.recv(), if is_looking_up => {
                    is_looking_up = finding.is_some();
                    self.found_or_end(finding).await;
                }
                in_time = deadline.turn(&enforcer.modify_rate), if self.needs_turn(steps.len()) => {
                    self.has_turn = in_time;
                    if !in_time {
                        self.give_up().await;
                    }
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.queue.admit_due(),
                else => match self.look_at_denied() {
                    Some(step) => steps.push(enforcer.step(step, deadline)),
                    None => break,
                },
            }
        }
        self.tell_attributions().await;
        self.done
    }

    fn needs_turn(&self, in_flight: usize) -> bool {
        !self.has_turn && in_flight < WRITES_IN_FLIGHT && self.queue.has_next()
    }

    /// One look at all that a policy denied so far.
    fn look_at_denied(&mut self) -> Option<Step> {
        (!self.denied.is_empty()).then(|| Step::LookAtDenied(std::mem::take(&mut self.denied)))
    }

    /// What is begun now: a look at what a policy denied, if that fills a call, and in the turn of a write
    /// the write, or a second look at what waits.
    fn next_step(&mut self) -> Option<Step> {
        if self.denied.len() >= IDS_PER_DESCRIBE {
            return self.look_at_denied();
        }
        // A second look may have taken what was left of the time.
        self.has_turn = self.has_turn && self.deadline.allows(Duration::ZERO);
        if !self.has_turn || self.is_describing {
            return None;
        }
        let limit = self.enforcer.settings.options.sweep_limit;
        if limit.is_some_and(|limit| self.swept_enforced + self.swept_in_flight >= limit) && self.queue.next_is_swept()
        {
            // One that is in flight may yet fail, which leaves its place to another.
            if self.swept_in_flight == 0 {
                self.done.left_over(self.queue.take_swept());
            }
            return None;
        }
        if let Some((candidate, described)) = self.queue.take_recent() {
            self.has_turn = false;
            self.swept_in_flight += usize::from(candidate.is_swept);
            return Some(Step::Write(candidate, described));
        }
        let outdated = self.queue.take_outdated();
        self.is_describing = !outdated.is_empty();
        self.is_describing.then_some(Step::DescribeAgain(outdated))
    }

    /// Takes what was found, or draws the order of what the sweep found when that is all.
    async fn found_or_end(&mut self, finding: Option<Finding>) {
        if let Some(finding) = finding {
            self.found(finding).await;
        } else {
            self.queue.draw(self.work.whole(), (self.enforcer.clock)());
        }
    }

    async fn found(&mut self, finding: Finding) {
        match finding {
            Finding::Described(described) => {
                if let Some(outcome) = self.enforcer.outcome_without_write(&described.instance, self.work) {
                    return self.record_described(&described, outcome).await;
                }
                let is_swept = self.work.only_sweeps(&described.instance);
                self.queue.add(Candidate::new(described.instance.id.clone(), is_swept), described);
            }
            Finding::InUse { described, calls_without_token, in_days } => {
                let before = described.instance.metadata_options.clone();
                self.record_described(&described, Outcome::InUse { before, calls_without_token, in_days }).await;
            }
            Finding::UseUnknown(described, error) => {
                let before = Some(described.instance.metadata_options.clone());
                self.record_described(&described, Outcome::Failed { before, error }).await;
            }
            Finding::Unknown(id) => self.record_unknown(&id, false).await,
            Finding::Failed(id, error) => self.record(&id, Outcome::Failed { before: None, error }, false).await,
        }
    }

    async fn stepped(&mut self, stepped: Stepped) {
        match stepped {
            Stepped::Written(candidate, described, answer) => self.written(candidate, described, answer).await,
            Stepped::DescribedAgain(candidates, described, answer) => {
                self.is_describing = false;
                self.described_again(candidates, described, answer).await;
            }
            Stepped::LookedAtDenied(denied, described) => self.looked_at_denied(denied, described).await,
        }
    }

    async fn written(
        &mut self,
        mut candidate: Candidate,
        described: Described,
        answer: Result<MetadataOptions, Error>,
    ) {
        candidate.writes += 1;
        self.swept_in_flight -= usize::from(candidate.is_swept);
        let before = described.instance.metadata_options.clone();
        let outcome = match answer {
            Ok(after) if after.http_tokens == Some(HttpTokens::Required) => {
                self.swept_enforced += usize::from(candidate.is_swept);
                Outcome::Enforced { before, after }
            }
            Ok(after) => Outcome::Failed { before: Some(before), error: not_applied(after.http_tokens.as_ref()) },
            Err(error) => {
                if let Some(wait) = self.wait_before_another(&error, candidate.writes) {
                    if error.class == Class::Retryable {
                        candidate.unanswered.get_or_insert(before);
                    }
                    return self.queue.add_in(wait, candidate, described);
                }
                if error.code == DENIED {
                    return self.denied.push(Denied { candidate, described, error });
                }
                self.enforcer.write_failed(&candidate.id, before, error, self.work)
            }
        };
        self.record_described(&described, outcome).await;
    }

    /// How long to wait before the write that failed with `error` is tried again, if it is.
    fn wait_before_another(&mut self, error: &Error, writes: usize) -> Option<Duration> {
        let waits = &self.enforcer.settings.waits;
        let wait = match error.class {
            Class::Throttled => {
                self.enforcer.modify_rate.throttled();
                waits.get(writes - 1).map(|_| Duration::ZERO)
            }
            Class::NotReady | Class::NotFound => (writes < WRITES_IF_NOT_READY).then(|| waits.iter().sum()),
            Class::Retryable => waits.get(writes - 1).copied().filter(|_| self.retries_left > 0),
            Class::Refused => None,
        };
        let wait = wait.filter(|wait| self.deadline.allows(*wait))?;
        self.retries_left -= usize::from(error.class == Class::Retryable);
        Some(wait)
    }

    /// Decides anew about those that were described again.
    async fn described_again(
        &mut self,
        candidates: Vec<Candidate>,
        mut described: BTreeMap<InstanceId, Described>,
        answer: Result<(), Error>,
    ) {
        let mut next = Vec::new();
        for candidate in candidates {
            let Some(described) = described.remove(&candidate.id) else {
                match &answer {
                    Ok(()) => self.record_unknown(&candidate.id, candidate.is_swept).await,
                    Err(error) => {
                        let error = Failure::from(error.clone());
                        self.record(&candidate.id, Outcome::Failed { before: None, error }, candidate.is_swept).await;
                    }
                }
                continue;
            };
            match self.enforcer.outcome_without_write(&described.instance, self.work) {
                Some(outcome) => self.left_at_second_look(candidate, described, outcome).await,
                None => next.push((candidate, described)),
            }
        }
        self.queue.add_first(next);
    }

    /// Concludes about what a policy denied by how it is now: what is still open, or was not described,
    /// is refused.
    async fn looked_at_denied(&mut self, denied: Vec<Denied>, mut now: BTreeMap<InstanceId, Described>) {
        for Denied { candidate, described, error } in denied {
            let now = now.remove(&candidate.id);
            let outcome = now.as_ref().and_then(|it| self.enforcer.outcome_without_write(&it.instance, self.work));
            if let Some((now, outcome)) = now.zip(outcome) {
                self.left_at_second_look(candidate, now, outcome).await;
            } else {
                let before = Some(described.instance.metadata_options.clone());
                self.record_described(&described, Outcome::Failed { before, error: Failure::from(error) }).await;
            }
        }
    }

    /// Records what needs no write at the second look: a write without an answer may be the reason.
    async fn left_at_second_look(&mut self, candidate: Candidate, described: Described, outcome: Outcome) {
        match (candidate.unanswered, outcome) {
            (Some(before), Outcome::Compliant { before: after }) => {
                let instance = Instance { metadata_options: before.clone(), ..described.instance };
                let described = Described { instance, ..described };
                self.record_described(&described, Outcome::Enforced { before, after }).await;
            }
            (_, outcome) => self.record_described(&described, outcome).await,
        }
    }

    /// Leaves what is still to be done: to the next sweep what only the sweep asks for, and to another
    /// attempt the rest.
    async fn give_up(&mut self) {
        self.done.left_over(self.queue.take_swept());
        for candidate in self.queue.take_all() {
            let error = Failure::from(Error::deadline_exceeded("the call was not begun"));
            self.record(&candidate.id, Outcome::Failed { before: None, error }, candidate.is_swept).await;
        }
    }

    async fn record_unknown(&mut self, id: &InstanceId, is_swept: bool) {
        let outcome = self.enforcer.not_found(id, self.work, None);
        self.record(id, outcome, is_swept).await;
    }

    async fn record(&mut self, id: &InstanceId, outcome: Outcome, is_swept: bool) {
        self.add(id, InstanceReport::new(id.as_str(), outcome), About::undescribed(is_swept)).await;
    }

    async fn record_described(&mut self, described: &Described, outcome: Outcome) {
        let Described { instance, .. } = described;
        let report = self.enforcer.report(instance, outcome, self.work);
        let is_swept = self.work.only_sweeps(instance);
        let is_new = !is_swept && !self.work.restarted(instance);
        let is_kept_open = self.work.loosened(&instance.id) && self.enforcer.would_be_left(instance);
        self.add(&instance.id, report, About { is_swept, is_new, is_kept_open }).await;
    }

    /// Records what became of an instance. Who left an instance open that is mended by now is told when
    /// the event is received first, and when it is done: not each time that it comes back meanwhile.
    async fn add(&mut self, id: &InstanceId, report: InstanceReport, about: About) {
        if report.is_attribution() && self.work.asked_again(id).is_some() {
            self.attributions.push((id.clone(), report.clone()));
        } else {
            self.tell(id, &report, about).await;
        }
        self.done.add(id, report, about, self.work);
    }

    async fn tell(&mut self, id: &InstanceId, report: &InstanceReport, about: About) {
        log(report, &self.done);
        // A refusal is told once: not with each start, and not when its event comes back.
        let is_refusal = report.failure().is_some();
        let is_told = !is_refusal || (about.is_new && self.work.asked_again(id).is_none());
        let result = |setting: Setting| result_event(report, setting, !about.is_swept && is_told);
        self.enforcer.send_result(self.results, self.work.event(id), result).await;
    }

    /// Tells the attributions of events that do not come back any more.
    async fn tell_attributions(&mut self) {
        for (id, report) in std::mem::take(&mut self.attributions) {
            if self.work.asked_again(&id).is_none_or(|asked| !self.done.failed_for(asked)) {
                self.tell(&id, &report, About { is_swept: false, is_new: true, is_kept_open: false }).await;
            }
        }
    }
}

impl<E: Ec2> Enforcer<E> {
    async fn step(&self, step: Step, deadline: Deadline) -> Stepped {
        match step {
            Step::Write(candidate, described) => {
                let answer = deadline.wait("EC2", self.ec2.require_tokens(&candidate.id)).await;
                Stepped::Written(candidate, described, answer)
            }
            Step::DescribeAgain(candidates) => {
                let ids: Vec<_> = candidates.iter().map(|candidate| candidate.id.clone()).collect();
                let (described, answer) = self.describe_by_id(&ids, deadline).await;
                Stepped::DescribedAgain(candidates, described, answer)
            }
            Step::LookAtDenied(denied) => {
                let ids: Vec<_> = denied.iter().map(|it| it.candidate.id.clone()).collect();
                // Without an answer, what EC2 answered to the write stands.
                let (described, _) = self.describe_by_id(&ids, deadline).await;
                Stepped::LookedAtDenied(denied, described)
            }
        }
    }
}

/// The failure of a call that EC2 answered without an error and without requiring tokens.
fn not_applied(answered: Option<&HttpTokens>) -> Failure {
    let answered = answered.map_or("nothing", HttpTokens::as_str);
    Failure {
        code: "NotApplied".to_owned(),
        message: format!("EC2 accepted the call but answered http_tokens: {answered}, not required"),
        retryable: true,
    }
}
