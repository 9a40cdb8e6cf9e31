//! What became of the work. It grows with what events named, and of what a sweep finds with the ids
//! alone.

use std::collections::{BTreeMap, BTreeSet};

use super::look_up::Listing;
use super::work::Work;
use crate::config::Mode;
use crate::event::{EventSummary, Message, Request, Targets, Violators};
use crate::instance::InstanceId;
use crate::report::digest::Digest;
use crate::report::result_event::{ResultEvent, Setting};
use crate::report::{Counts, InstanceReport, Instances, MessageReport, Published, RefusedCalls, Report, Watched};

/// What became of the work.
#[derive(Debug, Default)]
pub(super) struct Done {
    instances: Instances,
    /// The named instances that failed, and whether trying again can help.
    failed: BTreeMap<InstanceId, bool>,
    /// Whether an instance of a launch that did not name it failed, and whether trying again can help.
    launched_failed: Option<bool>,
    has_malformed: bool,
    /// How the look-up by filter went.
    pub(super) listing: Listing,
    /// How many were never described.
    pub(super) undescribed: usize,
    /// How many of those that events led to failed and whose failure does not pass by itself.
    pub(super) refused: usize,
    /// The same of those that only the sweep found.
    pub(super) swept_refused: usize,
    /// The instances that only the sweep found.
    swept: BTreeSet<InstanceId>,
    left_over: usize,
    /// What the sweep found, by numbers.
    digest: Digest,
    /// What the sweep's watch on refused calls found.
    pub(super) watch: Option<Watched>,
    pub(super) time_to_enforce_ms: Vec<u64>,
    pub(super) results: Option<Published>,
}

impl Done {
    /// Adds what became of one instance; `is_swept` says whether only the sweep asked for it.
    pub(super) fn add(&mut self, id: &InstanceId, instance: InstanceReport, is_swept: bool, work: &Work) {
        if let Some(failure) = instance.failure() {
            let retryable = failure.retryable;
            *(if is_swept { &mut self.swept_refused } else { &mut self.refused }) += usize::from(!retryable);
            if work.names(id) {
                self.failed.insert(id.clone(), retryable);
            } else if !is_swept {
                self.launched_failed = Some(retryable || self.launched_failed == Some(true));
            }
        }
        if is_swept {
            self.swept.insert(id.clone());
        }
        if work.is_sweep() {
            self.digest.add(&instance);
        }
        self.time_to_enforce_ms.extend(instance.details.time_to_enforce_ms);
        self.list(instance);
    }

    /// Whether only the sweep found an instance.
    pub(super) fn was_swept(&self, id: &InstanceId) -> bool {
        self.swept.contains(id)
    }

    /// Adds refused calls to an instance that is listed, and answers the entry.
    pub(super) fn add_refused_calls(&mut self, id: &InstanceId, refused_calls: RefusedCalls) -> Option<InstanceReport> {
        self.instances.add_refused_calls(id.as_str(), refused_calls).cloned()
    }

    /// What the sweep found, as one result.
    pub(super) fn digest(&self, setting: Setting) -> Option<ResultEvent> {
        self.digest.event(setting, &self.counts(), self.watch.as_ref(), self.listing.error.as_ref())
    }

    /// Adds what stood in an id's place: EC2 was not asked, so it has refused nothing.
    pub(super) fn add_malformed(&mut self, instance: InstanceReport) {
        self.has_malformed = true;
        self.list(instance);
    }

    fn list(&mut self, instance: InstanceReport) {
        self.undescribed += usize::from(!instance.was_described());
        self.instances.add(instance);
    }

    /// Adds violators that are left to the next sweep.
    pub(super) fn left_over(&mut self, count: usize) {
        self.left_over += count;
    }

    /// The instances by outcome.
    pub(super) fn counts(&self) -> Counts {
        Counts { left_over: self.left_over, ..*self.instances.counts() }
    }

    /// The report on the event or batch. It is complete if nothing failed but what the next sweep tries
    /// again by itself.
    pub(super) fn into_report(self, mode: Mode, event: EventSummary, messages: Vec<MessageReport>) -> Report {
        let counts = self.counts();
        let is_complete = self.failed.is_empty()
            && self.launched_failed.is_none()
            && !self.has_malformed
            && (self.listing.error.is_none() || self.listing.goes_on);
        let report = Report::new(mode, event, self.instances, self.listing.error);
        Report { counts, messages, results: self.results, watch: self.watch, is_complete, ..report }
    }

    /// What became of one message: it goes back to the queue if it could not be read, or if anything
    /// failed that it asked for and trying again can help.
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

    /// Whether anything failed that these targets asked for and that trying again can help, or that
    /// somebody must look at since it could not be read.
    fn failed_for(&self, targets: &Targets) -> bool {
        let Listing { error, goes_on } = &self.listing;
        let by_filter = match targets.violators {
            None => false,
            Some(Violators::All) => error.is_some() && !goes_on,
            Some(Violators::CreatedSince(_)) => {
                error.as_ref().is_some_and(|error| error.retryable) || self.launched_failed == Some(true)
            }
        };
        let is_retryable = |id: &InstanceId| self.failed.get(id).is_some_and(|retryable| *retryable);
        by_filter || !targets.malformed.is_empty() || targets.named.iter().any(is_retryable)
    }
}
