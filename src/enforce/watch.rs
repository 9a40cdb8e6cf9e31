//! The watch on refused calls: which instances refused calls without a token in the hours before a
//! sweep. After enforcement that is software that does not use IMDSv2, or somebody who tries.
//!
//! CloudWatch is asked, and what it names is described, while the sweep goes on; it is recorded when
//! the sweep has ended, so that an instance that the sweep found has one entry. Nothing waits for it,
//! nothing is written for it, and nothing fails by it.

use tokio::sync::mpsc;

use super::deadline::Deadline;
use super::done::{About, Done};
use super::work::Work;
use super::{Enforcer, Watch};
use crate::aws::cloudwatch::{Calls, Window};
use crate::aws::ec2::{Ec2, IDS_PER_DESCRIBE};
use crate::cause::cause;
use crate::instance::{HttpTokens, Instance, InstanceId, MetadataOptions};
use crate::report::result_event::{ResultEvent, refused_calls_event};
use crate::report::{Details, Failure, InstanceReport, Outcome, RefusedCalls, Watched};
use crate::telemetry;

/// From how many calls on an instance is reported: a few are made by scanners and by mistake.
const REPORTED_FROM: u64 = 10;

/// The instances that refused calls, as far as they could be found.
pub(super) struct Refusing {
    watched: Watched,
    /// Those that CloudWatch named and that could be looked up, each with its description if EC2 knows
    /// it.
    instances: Vec<(InstanceId, RefusedCalls, Option<Instance>)>,
}

impl<E: Ec2> Enforcer<E> {
    /// Finds the instances that refused calls, if this is a sweep and they are watched.
    pub(super) async fn find_refusing(&self, work: &Work, deadline: Deadline) -> Option<Refusing> {
        let watch = self.settings.options.watch.as_ref().filter(|_| work.is_sweep())?;
        let in_hours = watch.hours;
        let (calls, error) = match self.ask_for_refusals(watch, work, deadline).await {
            Ok((calls, incomplete)) => (Some(calls), incomplete),
            Err(error) => (None, Some(error)),
        };
        let watched = Watched { refusing: calls.as_ref().map(Calls::len), in_hours, error };
        let mut refusing = Refusing { watched, instances: Vec::new() };
        self.describe_refusing(calls.unwrap_or_default(), &mut refusing, deadline).await;
        Some(refusing)
    }

    /// How many calls each instance refused that refused enough, and why there may be more of these.
    async fn ask_for_refusals(
        &self,
        watch: &Watch,
        work: &Work,
        deadline: Deadline,
    ) -> Result<(Calls, Option<Failure>), Failure> {
        let time = work.whole().time.unwrap_or_else(self.clock);
        let asked = watch.refused_calls.refused_calls(Window::before(time, watch.hours));
        let refusals = deadline.wait("CloudWatch", asked).await.map_err(Failure::from)?;
        let mut calls = refusals.calls;
        calls.retain(|_, count| *count >= REPORTED_FROM);
        Ok((calls, refusals.incomplete.map(Failure::from)))
    }

    /// Adds what EC2 says of the instances that CloudWatch named.
    async fn describe_refusing(&self, calls: Calls, refusing: &mut Refusing, deadline: Deadline) {
        let ids: Vec<_> = calls.keys().cloned().collect();
        for ids in ids.chunks(IDS_PER_DESCRIBE) {
            let (mut described, answer) = self.describe_by_id(ids, deadline).await;
            if let Err(error) = answer {
                refusing.watched.error.get_or_insert(Failure::from(error));
                continue;
            }
            refusing.instances.extend(ids.iter().map(|id| {
                let count = calls.get(id).copied().unwrap_or_default();
                let refused_calls = RefusedCalls { count, in_hours: refusing.watched.in_hours };
                (id.clone(), refused_calls, described.remove(id).map(|it| it.instance))
            }));
        }
    }

    /// Records the instances that refused calls, after the sweep's own.
    pub(super) async fn record_refusing(
        &self,
        refusing: Refusing,
        work: &Work,
        done: &mut Done,
        results: &mpsc::Sender<ResultEvent>,
    ) {
        for (id, refused_calls, instance) in refusing.instances {
            let Some(report) = self.refusing_report(&id, refused_calls, instance, work, done) else { continue };
            telemetry::log_refused_calls(&report, refused_calls);
            self.send_result(results, work.whole(), |setting| refused_calls_event(&report, setting)).await;
        }
        done.watch = Some(refusing.watched);
    }

    /// The report on an instance that refused calls: what the sweep recorded of it, or else what it is
    /// described as, which is added. None where its tokens are not required and it is not listed: the
    /// sweep looked after it, or it was loosened this moment, and the event of that does.
    fn refusing_report(
        &self,
        id: &InstanceId,
        refused_calls: RefusedCalls,
        instance: Option<Instance>,
        work: &Work,
        done: &mut Done,
    ) -> Option<InstanceReport> {
        if let Some(listed) = done.add_refused_calls(id, refused_calls) {
            return Some(listed);
        }
        let (outcome, cause, undo) = match instance {
            None => (Outcome::NotFound, None, None),
            Some(instance) => {
                let cause = Box::new(cause(&instance, None, &self.settings.region));
                let outcome = self.outcome_as_described(&instance, work)?;
                let is_compliant = matches!(outcome, Outcome::Compliant { .. });
                (outcome, Some(cause), is_compliant.then(|| self.undo_requirement(&instance)))
            }
        };
        let details = Details { cause, undo, refused_calls: Some(refused_calls), ..Details::default() };
        let report = InstanceReport { instance_id: id.to_string(), outcome, details };
        if !work.names(id) && !done.was_swept(id) {
            done.add(id, report.clone(), About::SWEPT, work);
        }
        Some(report)
    }

    /// The command that has the instance answer calls without a token.
    fn undo_requirement(&self, instance: &Instance) -> String {
        let options = MetadataOptions { http_tokens: Some(HttpTokens::Optional), ..instance.metadata_options.clone() };
        self.undo(&instance.id, &options)
    }

    /// The outcome of an instance whose tokens are required, or that is exempt or managed; none for any
    /// other violator.
    fn outcome_as_described(&self, instance: &Instance, work: &Work) -> Option<Outcome> {
        let is_told = |it: &Outcome| !matches!(it, Outcome::WouldEnforce { .. } | Outcome::CreatedBefore { .. });
        self.outcome_without_write(instance, work).filter(is_told)
    }
}
