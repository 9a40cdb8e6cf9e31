//! What becomes of an instance that was looked up: the decision, what is to be reported beside it,
//! and the one call that requires tokens.

use super::Enforcer;
use super::call::call;
use super::deadline::Deadline;
use super::look_up::Finding;
use super::work::Work;
use crate::aws::Class;
use crate::aws::ec2::Ec2;
use crate::cause::{cause, mend};
use crate::config::Mode;
use crate::instance::{HttpTokens, Instance, InstanceId, MalformedInstanceId, MetadataOptions};
use crate::policy::exemption::{Exemption, NoExemption};
use crate::policy::{Decision, decide, hop_limit_warning};
use crate::report::{Details, Failure, InstanceReport, Outcome};

/// What is decided about a described instance, and what its exemption tag says.
pub(super) struct Judgement {
    pub(super) decision: Decision,
    exemption: Result<Option<Exemption>, NoExemption>,
}

impl<E: Ec2> Enforcer<E> {
    /// What becomes of one finding.
    pub(super) async fn conclude(
        &self,
        finding: Finding,
        work: &Work,
        deadline: Deadline,
    ) -> (InstanceId, InstanceReport) {
        let (id, outcome, details) = match finding {
            Finding::Described(instance) => self.act(instance, work, deadline).await,
            Finding::InUse { instance, calls_without_token, in_days } => {
                self.leave(instance, work, |before| Outcome::InUse { before, calls_without_token, in_days })
            }
            Finding::UseUnknown(instance, error) => {
                self.leave(instance, work, |before| Outcome::Failed { before: Some(before), error })
            }
            Finding::Unknown(id) => {
                let outcome = self.not_found(&id, work, None);
                (id, outcome, Details::default())
            }
            Finding::Failed(id, error) => (id, Outcome::Failed { before: None, error }, Details::default()),
        };
        let instance_id = id.to_string();
        (id, InstanceReport { instance_id, outcome, details })
    }

    /// Decides about a described instance.
    pub(super) fn judge(&self, instance: &Instance) -> Judgement {
        let exemptions = self.settings.options.exemptions.as_ref();
        let today = (self.clock)().date_naive();
        let exemption = exemptions.map_or(Ok(None), |it| it.granted_by(&instance.tags, today));
        Judgement { decision: decide(instance, matches!(exemption, Ok(Some(_)))), exemption }
    }

    /// Does what is decided about a described instance. Observing and enforcing differ in the write.
    async fn act(&self, instance: Instance, work: &Work, deadline: Deadline) -> (InstanceId, Outcome, Details) {
        let judgement = self.judge(&instance);
        let decision = judgement.decision;
        let details = self.details(&instance, judgement, work);
        let before = instance.metadata_options.clone();
        let outcome = match decision {
            Decision::Gone => Outcome::Gone { before },
            Decision::EndpointDisabled => Outcome::EndpointDisabled { before },
            Decision::Compliant => Outcome::Compliant { before },
            Decision::Managed => Outcome::Managed { before },
            Decision::Exempt => Outcome::Exempt { before },
            Decision::RequireTokens => match self.settings.mode {
                Mode::Observe => Outcome::WouldEnforce { before },
                Mode::Enforce => return self.enforce(instance, details, work, deadline).await,
            },
        };
        (instance.id, outcome, details)
    }

    /// Leaves a described instance as it is.
    fn leave(
        &self,
        instance: Instance,
        work: &Work,
        outcome: impl FnOnce(MetadataOptions) -> Outcome,
    ) -> (InstanceId, Outcome, Details) {
        let details = self.details(&instance, self.judge(&instance), work);
        (instance.id, outcome(instance.metadata_options), details)
    }

    /// What is to be reported of a described instance before anything is done to it.
    fn details(&self, instance: &Instance, judgement: Judgement, work: &Work) -> Details {
        let Judgement { decision, exemption } = judgement;
        let origin = work.origin(&instance.id);
        let has_cause = match decision {
            Decision::Managed | Decision::Exempt | Decision::RequireTokens => true,
            // The event that knows the caller comes later than the one by which tokens were required.
            Decision::Compliant | Decision::Gone => origin.is_some_and(|it| it.left_open(&instance.id)),
            Decision::EndpointDisabled => false,
        };
        let cause = || Box::new(cause(instance, origin, &self.settings.region));
        let (exemption, no_exemption) = match exemption {
            Ok(exemption) => (exemption, None),
            Err(no_exemption) => (None, Some(no_exemption)),
        };
        Details {
            cause: has_cause.then(cause),
            exemption: exemption.filter(|_| decision == Decision::Exempt),
            no_exemption: no_exemption.filter(|_| decision == Decision::RequireTokens),
            warnings: hop_limit_warning(instance, decision).into_iter().collect(),
            ..Details::default()
        }
    }

    /// Requires tokens, and reports how long that took and how it is undone.
    async fn enforce(
        &self,
        instance: Instance,
        details: Details,
        work: &Work,
        deadline: Deadline,
    ) -> (InstanceId, Outcome, Details) {
        let since = work.since(&instance);
        let outcome = self.require_tokens(&instance, work, deadline).await;
        if !matches!(outcome, Outcome::Enforced { .. }) {
            return (instance.id, outcome, details);
        }
        let undo = mend::undo(&instance.id, &instance.metadata_options, &self.settings.region);
        let taken = since.map(|since| (self.clock)().signed_duration_since(since).num_milliseconds());
        let time_to_enforce_ms = taken.map(|milliseconds| u64::try_from(milliseconds).unwrap_or_default());
        (instance.id, outcome, Details { time_to_enforce_ms, undo: Some(undo), ..details })
    }

    /// The outcome of an instance that EC2 does not know: a failure if an event says that it exists.
    fn not_found(&self, id: &InstanceId, work: &Work, before: Option<MetadataOptions>) -> Outcome {
        if !work.must_exist(id, (self.clock)()) {
            return Outcome::NotFound;
        }
        let error = Failure {
            code: "InvalidInstanceID.NotFound".to_owned(),
            message: "EC2 does not know the instance yet, although an event says that it exists".to_owned(),
            retryable: true,
        };
        Outcome::Failed { before, error }
    }

    async fn require_tokens(&self, instance: &Instance, work: &Work, deadline: Deadline) -> Outcome {
        let Instance { id, metadata_options, .. } = instance;
        let before = metadata_options.clone();
        let require_tokens = async || self.ec2.require_tokens(id).await;
        let answer = call(&self.modify_rate, &self.settings.waits, deadline, require_tokens).await;
        let error = match answer {
            Ok(after) if after.http_tokens == Some(HttpTokens::Required) => return Outcome::Enforced { before, after },
            Ok(after) => not_applied(after.http_tokens.as_ref()),
            Err(error) if error.class == Class::NotFound => return self.not_found(id, work, Some(before)),
            Err(error) => Failure::from(error),
        };
        Outcome::Failed { before: Some(before), error }
    }
}

/// The report on what stood in an id's place.
pub(super) fn malformed(id: &MalformedInstanceId) -> InstanceReport {
    let error = Failure { code: "InvalidInstanceID.Malformed".to_owned(), message: id.to_string(), retryable: false };
    InstanceReport::new(id.as_str(), Outcome::Failed { before: None, error })
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
