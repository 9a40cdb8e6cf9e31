//! Looking instances up: the named ones by id, and all whose tokens are not required by filter.
//!
//! What is found is sent on at once, so that it is enforced while the rest is still looked up.

use std::collections::BTreeSet;

use tokio::sync::mpsc;

use super::call::call;
use super::deadline::Deadline;
use super::work::Work;
use super::{Enforcer, Grace};
use crate::aws::Error;
use crate::aws::cloudwatch::INSTANCES_PER_CALL;
use crate::aws::ec2::{Ec2, IDS_PER_DESCRIBE, Page, Which};
use crate::instance::{Instance, InstanceId};
use crate::policy::Decision;
use crate::report::Failure;

/// What a look-up yields, one by one.
pub(super) enum Finding {
    /// An instance as EC2 describes it.
    Described(Instance),
    /// An instance that the sweep spares, since its metadata service was used without tokens.
    InUse { instance: Instance, calls_without_token: u64, in_days: u16 },
    /// An instance of which CloudWatch did not answer whether it is in use.
    UseUnknown(Instance, Failure),
    /// An id that EC2 does not know.
    Unknown(InstanceId),
    /// An id whose look-up failed.
    Failed(InstanceId, Failure),
}

/// The receiver lives as long as the look-up, so a finding always arrives.
async fn send(findings: &mpsc::Sender<Finding>, finding: Finding) {
    debug_assert!(!findings.is_closed(), "findings are received until the look-up ends");
    drop(findings.send(finding).await);
}

impl<E: Ec2> Enforcer<E> {
    /// Looks up all that the work asks for. Answers the failure of the look-up by filter, if it
    /// failed.
    pub(super) async fn look_up(
        &self,
        work: &Work,
        deadline: Deadline,
        findings: mpsc::Sender<Finding>,
    ) -> Option<Failure> {
        let ((), error) = tokio::join!(
            self.look_up_named(work, deadline, &findings),
            self.look_up_violators(work, deadline, &findings),
        );
        error
    }

    /// Looks the named instances up, and for a while again those that EC2 does not know yet.
    async fn look_up_named(&self, work: &Work, deadline: Deadline, findings: &mpsc::Sender<Finding>) {
        let mut missing: Vec<InstanceId> = work.named().cloned().collect();
        missing = self.describe(missing, deadline, findings).await;
        for wait in &self.settings.waits {
            if missing.is_empty() || !deadline.sleep(*wait).await {
                break;
            }
            missing = self.describe(missing, deadline, findings).await;
        }
        for id in missing {
            send(findings, Finding::Unknown(id)).await;
        }
    }

    /// Describes the instances of these ids, and answers those that EC2 does not know.
    pub(super) async fn describe(
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
    async fn look_up_violators(
        &self,
        work: &Work,
        deadline: Deadline,
        findings: &mpsc::Sender<Finding>,
    ) -> Option<Failure> {
        work.violators?;
        let result = self.pages(Which::Violators, deadline, async |page| {
            let found = page.into_iter().filter(|instance| work.is_violator_to_look_after(instance));
            let (spared, others): (Vec<_>, _) = found.partition(|instance| self.may_be_spared(instance, work));
            for instance in others {
                send(findings, Finding::Described(instance)).await;
            }
            self.spare(spared, deadline, findings).await;
        });
        result.await.err().map(Failure::from)
    }

    /// Hands every page to `each`.
    async fn pages(
        &self,
        which: Which<'_>,
        deadline: Deadline,
        mut each: impl AsyncFnMut(Vec<Instance>),
    ) -> Result<(), Error> {
        let mut next_token = None;
        loop {
            let describe = async || self.ec2.describe_instances(which, next_token.as_deref()).await;
            let page: Page = call(&self.describe_rate, &self.settings.waits, deadline, describe).await?;
            each(page.instances).await;
            next_token = page.next_token;
            if next_token.is_none() {
                return Ok(());
            }
        }
    }

    /// Whether this instance, found by filter, is left as it is if it is used without tokens: not if
    /// it is new.
    fn may_be_spared(&self, instance: &Instance, work: &Work) -> bool {
        self.settings.options.grace.is_some()
            && work.since(instance).is_none()
            && self.judge(instance).decision == Decision::RequireTokens
    }

    /// Finds out which of these instances were lately used without tokens.
    async fn spare(&self, instances: Vec<Instance>, deadline: Deadline, findings: &mpsc::Sender<Finding>) {
        let Some(grace) = &self.settings.options.grace else { return };
        for instances in instances.chunks(INSTANCES_PER_CALL) {
            for finding in self.ask_for_use(grace, instances, deadline).await {
                send(findings, finding).await;
            }
        }
    }

    /// Asks CloudWatch which of these instances were lately used without tokens.
    async fn ask_for_use(&self, grace: &Grace, instances: &[Instance], deadline: Deadline) -> Vec<Finding> {
        let ids: Vec<_> = instances.iter().map(|instance| instance.id.clone()).collect();
        let asked = grace.metadata_use.calls_without_token(&ids, grace.days, (self.clock)());
        let answer = deadline.wait("CloudWatch", asked).await.map_err(Failure::from);
        let finding = |instance: Instance| match &answer {
            Ok(calls) => match calls.get(&instance.id).copied() {
                Some(calls_without_token) => Finding::InUse { instance, calls_without_token, in_days: grace.days },
                None => Finding::Described(instance),
            },
            Err(failure) => Finding::UseUnknown(instance, failure.clone()),
        };
        instances.iter().cloned().map(finding).collect()
    }
}
