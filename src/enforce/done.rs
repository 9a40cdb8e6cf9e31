//! What became of the work. It grows with what events named, and of what a sweep finds with the ids
//! alone.

use std::collections::BTreeSet;

use super::work::Work;
use crate::event::{Message, Request, Targets};
use crate::instance::InstanceId;
use crate::report::digest::Digest;
use crate::report::{Failure, InstanceReport, Instances, MessageReport, Published, Watched};

/// What became of the work.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) instances: Instances,
    /// The named instances that failed.
    failed: BTreeSet<InstanceId>,
    /// Whether an instance that was found by filter failed.
    violators_failed: bool,
    /// The failure of the look-up by filter.
    pub(super) error: Option<Failure>,
    /// How many were never described.
    pub(super) undescribed: usize,
    /// How many that events named failed, and the failure does not pass by itself.
    pub(super) refused: usize,
    /// How many that a sweep found did so.
    pub(super) refused_in_sweep: usize,
    /// The instances that a sweep found.
    found: BTreeSet<InstanceId>,
    /// What the sweep found, by numbers.
    pub(super) digest: Digest,
    /// What the sweep's watch on refused calls found.
    pub(super) watch: Option<Watched>,
    pub(super) time_to_enforce_ms: Vec<u64>,
    pub(super) results: Option<Published>,
}

impl Done {
    /// Adds what became of one instance.
    pub(super) fn add(&mut self, id: &InstanceId, instance: InstanceReport, work: &Work) {
        match (instance.failure(), work.names(id)) {
            (Some(_), true) => {
                self.failed.insert(id.clone());
            }
            (Some(_), false) => self.violators_failed = true,
            (None, _) => {}
        }
        let is_refused = instance.failure().is_some_and(|failure| !failure.retryable);
        if work.was_led_to(id) {
            self.refused += usize::from(is_refused);
        } else {
            self.refused_in_sweep += usize::from(is_refused);
            self.found.insert(id.clone());
        }
        if work.is_sweep() {
            self.digest.add(&instance);
        }
        self.time_to_enforce_ms.extend(instance.details.time_to_enforce_ms);
        self.list(instance);
    }

    /// Whether the sweep found an instance.
    pub(super) fn was_found(&self, id: &InstanceId) -> bool {
        self.found.contains(id)
    }

    /// Adds what stood in an id's place: EC2 was not asked, so it has refused nothing.
    pub(super) fn add_malformed(&mut self, instance: InstanceReport) {
        self.list(instance);
    }

    fn list(&mut self, instance: InstanceReport) {
        self.undescribed += usize::from(!instance.was_described());
        self.instances.add(instance);
    }

    /// What became of one message: it failed if it could not be read, or anything it asked for
    /// failed.
    pub(super) fn message(&self, message: Message) -> MessageReport {
        let Message { message_id, request } = message;
        let report = MessageReport { message_id, event: None, ignored: None, refused: None, failed: true };
        match request {
            Err(error) => MessageReport { refused: Some(error.to_string()), ..report },
            Ok(Request { event, targets: Err(ignored), .. }) => {
                MessageReport { event: Some(event), ignored: Some(ignored.to_string()), failed: false, ..report }
            }
            Ok(Request { event, targets: Ok(targets), .. }) => {
                MessageReport { event: Some(event), failed: self.failed_for(&targets), ..report }
            }
        }
    }

    /// Whether anything that these targets asked for failed.
    fn failed_for(&self, targets: &Targets) -> bool {
        !targets.malformed.is_empty()
            || (targets.violators.is_some() && (self.error.is_some() || self.violators_failed))
            || targets.named.iter().any(|id| self.failed.contains(id))
    }
}
