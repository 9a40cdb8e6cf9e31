//! What becomes of an instance that was looked up: the decision, its standing, and what is to be
//! reported of it.

use super::Enforcer;
use super::work::Work;
use crate::aws::ec2::Ec2;
use crate::aws::{Class, Error};
use crate::cause::{cause, mend};
use crate::config::Mode;
use crate::instance::{Instance, InstanceId, MalformedInstanceId, MetadataOptions};
use crate::policy::exemption::{Exemption, NoExemption};
use crate::policy::standing::{Leaves, Standing};
use crate::policy::{Decision, decide, hop_limit_warning};
use crate::report::{Details, Failure, InstanceReport, Outcome};

impl<E: Ec2> Enforcer<E> {
    /// The outcome of a described instance that is not written to; none for one whose tokens are to be
    /// required. Observing and enforcing differ in that alone.
    pub(super) fn outcome_without_write(&self, instance: &Instance, work: &Work) -> Option<Outcome> {
        let before = instance.metadata_options.clone();
        Some(match self.decide(instance).0 {
            Decision::Gone => Outcome::Gone { before },
            Decision::EndpointDisabled => Outcome::EndpointDisabled { before },
            Decision::Compliant => Outcome::Compliant { before },
            Decision::Managed => Outcome::Managed { before },
            Decision::Exempt => Outcome::Exempt { before },
            Decision::RequireTokens => match (self.standing(instance, work), self.settings.mode) {
                (Standing::CreatedBefore { day }, _) => Outcome::CreatedBefore { before, enforce_since: day },
                (Standing::New | Standing::Old { .. }, Mode::Observe) => Outcome::WouldEnforce { before },
                (Standing::New | Standing::Old { .. }, Mode::Enforce) => return None,
            },
        })
    }

    /// The decision about a described instance, and what its exemption tag says.
    fn decide(&self, instance: &Instance) -> (Decision, Result<Option<Exemption>, NoExemption>) {
        let exemptions = self.settings.options.exemptions.as_ref();
        let today = (self.clock)().date_naive();
        let exemption = exemptions.map_or(Ok(None), |it| it.granted_by(&instance.tags, today));
        (decide(instance, matches!(exemption, Ok(Some(_)))), exemption)
    }

    fn standing(&self, instance: &Instance, work: &Work) -> Standing {
        self.leaves().standing(instance.created, work.loosened(&instance.id), (self.clock)())
    }

    fn leaves(&self) -> Leaves {
        let options = &self.settings.options;
        let in_use_days = options.grace.as_ref().map(|grace| grace.days);
        Leaves { created_before: options.enforce_since, in_use_days }
    }

    /// Whether a described instance may be left as it is, where no event says that it was loosened.
    pub(super) fn would_be_left(&self, instance: &Instance) -> bool {
        self.leaves().standing(instance.created, false, (self.clock)()) != Standing::New
    }

    /// Whether a described instance is left as it is if it was used without tokens.
    pub(super) fn may_be_in_use(&self, instance: &Instance, work: &Work) -> bool {
        matches!(self.standing(instance, work), Standing::Old { .. })
            && self.decide(instance).0 == Decision::RequireTokens
    }

    /// The report on a described instance: an enforced one with how long that took and how it is undone.
    pub(super) fn report(&self, instance: &Instance, outcome: Outcome, work: &Work) -> InstanceReport {
        let mut details = self.details(instance, work);
        if matches!(outcome, Outcome::Enforced { .. }) {
            let taken = work.since(instance).map(|since| (self.clock)().signed_duration_since(since));
            details.time_to_enforce_ms = taken.map(|taken| u64::try_from(taken.num_milliseconds()).unwrap_or_default());
            details.undo = Some(self.undo(&instance.id, &instance.metadata_options));
        }
        InstanceReport { instance_id: instance.id.to_string(), outcome, details }
    }

    /// The command that gives an instance back what it had `before`, and keeps it so for two weeks at
    /// the most where there are exemptions.
    pub(super) fn undo(&self, id: &InstanceId, before: &MetadataOptions) -> String {
        let today = (self.clock)().date_naive();
        let exemption = self.settings.options.exemptions.as_ref().map(|it| (it.tag.as_str(), it.last_day(today)));
        mend::undo(id, before, exemption, &self.settings.region)
    }

    /// What is to be reported of a described instance, whatever is done to it.
    fn details(&self, instance: &Instance, work: &Work) -> Details {
        let (decision, exemption) = self.decide(instance);
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

    /// The outcome of a write that failed for good.
    pub(super) fn write_failed(&self, id: &InstanceId, before: MetadataOptions, error: Error, work: &Work) -> Outcome {
        if error.class == Class::NotFound {
            return self.not_found(id, work, Some(before));
        }
        Outcome::Failed { before: Some(before), error: Failure::from(error) }
    }

    /// The outcome of an instance that EC2 does not know: a failure if an event says that it exists.
    pub(super) fn not_found(&self, id: &InstanceId, work: &Work, before: Option<MetadataOptions>) -> Outcome {
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
}

/// The report on what stood in an id's place.
pub(super) fn malformed(id: &MalformedInstanceId) -> InstanceReport {
    let error = Failure { code: "InvalidInstanceID.Malformed".to_owned(), message: id.to_string(), retryable: false };
    InstanceReport::new(id.as_str(), Outcome::Failed { before: None, error })
}
