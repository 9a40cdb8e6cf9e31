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

/// How an instance came up.
#[derive(Debug, Clone, Copy)]
pub(super) struct About {
    /// Only the sweep asked for it.
    pub(super) is_swept: bool,
    /// An event reports it as new or changed: no sweep found it, and it has not only started again.
    pub(super) is_new: bool,
    /// An event loosened it, and the next sweep, which knows of no event, would leave it.
    pub(super) is_kept_open: bool,
}

impl About {
    /// Of an instance that only the sweep asked for.
    pub(super) const SWEPT: Self = Self { is_swept: true, is_new: false, is_kept_open: false };

    /// Of an instance that was not described.
    pub(super) fn undescribed(is_swept: bool) -> Self {
        Self { is_swept, is_new: !is_swept, is_kept_open: false }
    }
}

/// What became of the work.
#[derive(Debug, Default)]
pub(super) struct Done {
    instances: Instances,
    /// The named instances that failed, and whether their messages are to come back.
    failed: BTreeMap<InstanceId, bool>,
    /// Whether an instance of a launch that did not name it failed, and whether that is to come back.
    launched_failed: Option<bool>,
    has_malformed: bool,
    /// How the look-up by filter went.
    pub(super) listing: Listing,
    /// How many were never described.
    pub(super) undescribed: usize,
    /// How many of those that events report as new failed and whose failure does not pass by itself.
    pub(super) refused: usize,
    /// The same of those that the sweep found, or that started again: they are found so each time.
    pub(super) refused_again: usize,
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
    /// Adds what became of one instance.
    pub(super) fn add(&mut self, id: &InstanceId, instance: InstanceReport, about: About, work: &Work) {
        let About { is_swept, is_new, is_kept_open } = about;
        if let Some(failure) = instance.failure() {
            *(if is_new { &mut self.refused } else { &mut self.refused_again }) += usize::from(!failure.retryable);
            // Only the refusal of a write is final: what was not looked at may be open to anybody.
            let comes_back = failure.retryable || is_kept_open || !instance.was_described();
            if work.names(id) {
                self.failed.insert(id.clone(), comes_back);
            } else if !is_swept {
                self.launched_failed = Some(comes_back || self.launched_failed == Some(true));
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
    /// failed that it asked for and is to be tried again.
    pub(super) fn message(&self, message: Message) -> MessageReport {
        let Message { message_id, receives: _, request } = message;
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

    /// Whether a message that asked for these targets is to come back: something failed that another
    /// attempt can mend, was not looked at, or could not be read. A sweep does not: the next one is another
    /// attempt.
    pub(super) fn failed_for(&self, targets: &Targets) -> bool {
        let by_filter = match targets.violators {
            None | Some(Violators::All) => false,
            Some(Violators::CreatedSince(_)) => self.listing.error.is_some() || self.launched_failed == Some(true),
        };
        let comes_back = |id: &InstanceId| self.failed.get(id).is_some_and(|comes_back| *comes_back);
        by_filter || !targets.malformed.is_empty() || targets.named.iter().any(comes_back)
    }
}
