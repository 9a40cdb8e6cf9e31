//! Looking instances up: the named ones by id, and all whose tokens are not required by filter.
//!
//! What is found is sent on at once, so that it is enforced while the rest is still looked up.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::call::call;
use super::deadline::Deadline;
use super::queue::{Described, lot};
use super::work::Work;
use super::{Enforcer, Grace};
use crate::aws::Error;
use crate::aws::cloudwatch::INSTANCES_PER_CALL;
use crate::aws::ec2::{Ec2, IDS_PER_DESCRIBE, Page, Which};
use crate::config::Mode;
use crate::event::Violators;
use crate::instance::InstanceId;
use crate::report::Failure;

/// What a look-up yields, one by one.
pub(super) enum Finding {
    /// An instance as EC2 describes it.
    Described(Described),
    /// An old instance that is left, since its metadata service was used without tokens.
    InUse { described: Described, calls_without_token: u64, in_days: u16 },
    /// An old instance of which CloudWatch did not answer whether it is in use.
    UseUnknown(Described, Failure),
    /// An id that EC2 does not know.
    Unknown(InstanceId),
    /// An id whose look-up failed.
    Failed(InstanceId, Failure),
}

/// How the look-up by filter went.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Why it did not come to its end.
    pub(super) error: Option<Failure>,
    /// Whether that is no failure: the sweep has begun its list, and goes on with it another time.
    pub(super) goes_on: bool,
}

/// The receiver lives as long as the look-up, so a finding always arrives.
async fn send(findings: &mpsc::Sender<Finding>, finding: Finding) {
    debug_assert!(!findings.is_closed(), "findings are received until the look-up ends");
    drop(findings.send(finding).await);
}

impl<E: Ec2> Enforcer<E> {
    /// Looks up all that the work asks for. Answers how the look-up by filter went.
    pub(super) async fn look_up(&self, work: &Work, deadline: Deadline, findings: mpsc::Sender<Finding>) -> Listing {
        let ((), listing) = tokio::join!(
            self.look_up_named(work, deadline, &findings),
            self.look_up_violators(work, deadline, &findings),
        );
        listing
    }

    /// Looks the named instances up, and for a while again those that EC2 does not know yet. Their order
    /// is drawn anew each time, so that those that are refused keep no other waiting from attempt to attempt.
    async fn look_up_named(&self, work: &Work, deadline: Deadline, findings: &mpsc::Sender<Finding>) {
        let now = (self.clock)();
        let mut missing: Vec<InstanceId> = work.named().cloned().collect();
        missing.sort_by_cached_key(|id| lot(work.whole(), now, id));
        missing = self.describe(missing, work, deadline, findings).await;
        for id in missing.extract_if(.., |id| work.is_forgotten(id, now)) {
            send(findings, Finding::Unknown(id)).await;
        }
        for wait in &self.settings.waits {
            if missing.is_empty() || !deadline.sleep(*wait).await {
                break;
            }
            missing = self.describe(missing, work, deadline, findings).await;
        }
        for id in missing {
            send(findings, Finding::Unknown(id)).await;
        }
    }

    /// Describes the instances of these ids, and answers those that EC2 does not know.
    async fn describe(
        &self,
        ids: Vec<InstanceId>,
        work: &Work,
        deadline: Deadline,
        findings: &mpsc::Sender<Finding>,
    ) -> Vec<InstanceId> {
        let mut missing = Vec::new();
        for chunk in ids.chunks(IDS_PER_DESCRIBE) {
            let mut unanswered: BTreeSet<_> = chunk.iter().cloned().collect();
            let result = self.pages(Which::Named(chunk), deadline, async |page| {
                let new = page.into_iter().filter(|described| unanswered.remove(&described.instance.id));
                self.send_all(new.collect(), work, deadline, findings).await;
            });
            match result.await.map_err(Failure::from) {
                Ok(()) => missing.extend(unanswered),
                Err(failure) => {
                    for id in unanswered {
                        send(findings, Finding::Failed(id, failure.clone())).await;
                    }
                }
            }
        }
        missing
    }

    /// Looks up every instance of the Region whose tokens are not required, if the work asks for
    /// it, but for those that are named anyway.
    async fn look_up_violators(&self, work: &Work, deadline: Deadline, findings: &mpsc::Sender<Finding>) -> Listing {
        let Some(violators) = work.violators else { return Listing::default() };
        let sweeps = violators == Violators::All;
        let writes = self.settings.mode == Mode::Enforce;
        let deadline_of_list = if sweeps && writes { deadline.of_list() } else { deadline };
        let mut has_begun = false;
        // An instance may change its place while EC2 goes from page to page.
        let mut seen = BTreeSet::new();
        let result = self.pages(Which::Violators, deadline_of_list, async |page| {
            has_begun = true;
            let found = page.into_iter().filter(|it| work.is_violator_to_look_after(&it.instance));
            let found = found.filter(|it| seen.insert(it.instance.id.clone()));
            self.send_all(found.collect(), work, deadline_of_list, findings).await;
        });
        let error = result.await.err();
        let goes_on = sweeps && has_begun && error.is_some();
        Listing { error: error.map(Failure::from), goes_on }
    }

    /// Describes the instances of at most [`IDS_PER_DESCRIBE`] ids, by id, as far as EC2 answered.
    pub(super) async fn describe_by_id(
        &self,
        ids: &[InstanceId],
        deadline: Deadline,
    ) -> (BTreeMap<InstanceId, Described>, Result<(), Error>) {
        let mut described = BTreeMap::new();
        let answer = self.pages(Which::Named(ids), deadline, async |page| {
            described.extend(page.into_iter().map(|it| (it.instance.id.clone(), it)));
        });
        let answer = answer.await;
        (described, answer)
    }

    /// Hands every page to `each`.
    async fn pages(
        &self,
        which: Which<'_>,
        deadline: Deadline,
        mut each: impl AsyncFnMut(Vec<Described>),
    ) -> Result<(), Error> {
        let mut next_token = None;
        loop {
            let describe = async || {
                let asked = Instant::now();
                let page = self.ec2.describe_instances(which, next_token.as_deref()).await?;
                Ok((asked, page))
            };
            let (asked, page): (_, Page) = call(&self.describe_rate, &self.settings.waits, deadline, describe).await?;
            each(page.instances.into_iter().map(|instance| Described { instance, asked }).collect()).await;
            next_token = page.next_token;
            if next_token.is_none() {
                return Ok(());
            }
        }
    }

    /// Sends instances on, old ones with whether they were lately used without tokens.
    async fn send_all(&self, page: Vec<Described>, work: &Work, deadline: Deadline, findings: &mpsc::Sender<Finding>) {
        let is_old = |described: &Described| self.may_be_in_use(&described.instance, work);
        let (old, others): (Vec<_>, _) = page.into_iter().partition(is_old);
        for described in others {
            send(findings, Finding::Described(described)).await;
        }
        let Some(grace) = &self.settings.options.grace else { return };
        for old in old.chunks(INSTANCES_PER_CALL) {
            for finding in self.ask_for_use(grace, old, deadline).await {
                send(findings, finding).await;
            }
        }
    }

    /// Asks CloudWatch which of these instances were lately used without tokens.
    async fn ask_for_use(&self, grace: &Grace, old: &[Described], deadline: Deadline) -> Vec<Finding> {
        let ids: Vec<_> = old.iter().map(|described| described.instance.id.clone()).collect();
        let asked = grace.metadata_use.calls_without_token(&ids, grace.days, (self.clock)());
        let answer = deadline.wait("CloudWatch", asked).await.map_err(Failure::from);
        let finding = |described: Described| match &answer {
            Ok(calls) => match calls.get(&described.instance.id).copied() {
                Some(calls_without_token) => Finding::InUse { described, calls_without_token, in_days: grace.days },
                None => Finding::Described(described),
            },
            // Whatever keeps CloudWatch from answering, it is not EC2 that refuses.
            Err(failure) => Finding::UseUnknown(described, Failure { retryable: true, ..failure.clone() }),
        };
        old.iter().cloned().map(finding).collect()
    }
}
