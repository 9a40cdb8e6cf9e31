//! The violators that wait for a write: in which order they get it, and whether what is known of them
//! is recent enough to rest a write on.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use crate::event::EventSummary;
use crate::instance::{Instance, InstanceId, MetadataOptions};

/// For how long after it was asked for a description is one that a write may rest on. No write rests
/// on one that is older than five seconds, and a write takes some time to be sent.
const DESCRIPTION_LASTS: Duration = Duration::from_millis(4500);

/// Most violators that are described again by one call: as many as EC2's documented rate of
/// `ModifyInstanceMetadataOptions` lets be written to while the description lasts, with a margin.
pub(super) const DESCRIBED_AGAIN: usize = 15;

/// Most descriptions that are kept while their violators wait. Of the others the id is enough.
const KEPT: usize = 1000;

/// An instance as EC2 described it when it was asked.
#[derive(Debug, Clone)]
pub(super) struct Described {
    pub(super) instance: Instance,
    /// When the request was sent.
    pub(super) asked: Instant,
}

impl Described {
    /// Whether a write that is sent now may rest on it.
    pub(super) fn is_recent(&self) -> bool {
        self.asked.elapsed() <= DESCRIPTION_LASTS
    }
}

/// A violator that waits for a write.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) id: InstanceId,
    /// Whether only the sweep asks for it, which may leave it to the next one.
    pub(super) is_swept: bool,
    /// How often a write was sent.
    pub(super) writes: usize,
    /// The options before a write of which it is not known whether it took effect.
    pub(super) unanswered: Option<MetadataOptions>,
}

impl Candidate {
    pub(super) fn new(id: InstanceId, is_swept: bool) -> Self {
        Self { id, is_swept, writes: 0, unanswered: None }
    }
}

/// A candidate, and how it was described while it waits, if that is kept.
type Waiting = (Candidate, Option<Box<Described>>);

/// What an instance draws for its place in the order of an event that is handled at this time.
pub(super) fn lot(event: &EventSummary, now: DateTime<Utc>, id: &InstanceId) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&event.id, now, id).hash(&mut hasher);
    hasher.finish()
}

/// The violators that wait for a write.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Those whose turn it is, the next first.
    next: VecDeque<Waiting>,
    /// Those that the sweep found; their order is drawn when all of them are known.
    swept: Vec<Waiting>,
    /// Those whose write is to be tried again, and when.
    later: Vec<(Instant, Waiting)>,
}

fn is_recent((_, described): &Waiting) -> bool {
    described.as_ref().is_some_and(|described| described.is_recent())
}

impl Queue {
    /// Adds a violator that was found.
    pub(super) fn add(&mut self, candidate: Candidate, described: Described) {
        let described = (self.len() < KEPT).then(|| Box::new(described));
        if candidate.is_swept {
            self.swept.push((candidate, described));
        } else {
            self.next.push_back((candidate, described));
        }
    }

    /// Draws the order of those that the sweep found, another one for each event and each time. So those that are refused,
    /// however many there are, keep no other waiting from sweep to sweep.
    pub(super) fn draw(&mut self, event: &EventSummary, now: DateTime<Utc>) {
        let mut swept = std::mem::take(&mut self.swept);
        swept.sort_by_cached_key(|(candidate, _)| lot(event, now, &candidate.id));
        self.next.append(&mut VecDeque::from(swept));
    }

    /// Adds those that were described again, so that they are the next.
    pub(super) fn add_first(&mut self, candidates: Vec<(Candidate, Described)>) {
        for (candidate, described) in candidates.into_iter().rev() {
            self.next.push_front((candidate, Some(Box::new(described))));
        }
    }

    /// Adds one whose write is to be tried again in a while.
    pub(super) fn add_in(&mut self, wait: Duration, candidate: Candidate, described: Described) {
        self.later.push((Instant::now() + wait, (candidate, Some(Box::new(described)))));
    }

    /// When the first of those that are tried again later is to be tried.
    pub(super) fn first_due(&self) -> Option<Instant> {
        self.later.iter().map(|(due, _)| *due).min()
    }

    /// Has those be the next that are to be tried by now.
    pub(super) fn admit_due(&mut self) {
        let now = Instant::now();
        for (_, candidate) in self.later.extract_if(.., |(due, _)| *due <= now) {
            self.next.push_front(candidate);
        }
    }

    /// Whether it is anybody's turn.
    pub(super) fn has_next(&self) -> bool {
        !self.next.is_empty()
    }

    /// Whether only the sweep asks for the next.
    pub(super) fn next_is_swept(&self) -> bool {
        self.next.front().is_some_and(|(candidate, _)| candidate.is_swept)
    }

    /// The next, if a write may rest on its description.
    pub(super) fn take_recent(&mut self) -> Option<(Candidate, Described)> {
        let (candidate, described) = self.next.pop_front_if(|it| is_recent(it))?;
        described.map(|described| (candidate, *described))
    }

    /// The next ones that must be described again, no more than one call asks for.
    pub(super) fn take_outdated(&mut self) -> Vec<Candidate> {
        let mut outdated = Vec::new();
        while outdated.len() < DESCRIBED_AGAIN
            && let Some((candidate, _)) = self.next.pop_front_if(|it| !is_recent(it))
        {
            outdated.push(candidate);
        }
        outdated
    }

    /// Takes those that only the sweep asks for, and says how many they are.
    pub(super) fn take_swept(&mut self) -> usize {
        let before = self.len();
        self.swept.clear();
        self.next.retain(|(candidate, _)| !candidate.is_swept);
        self.later.retain(|(_, (candidate, _))| !candidate.is_swept);
        before - self.len()
    }

    /// Takes all that is left.
    pub(super) fn take_all(&mut self) -> Vec<Candidate> {
        let later = std::mem::take(&mut self.later).into_iter().map(|(_, waiting)| waiting);
        let swept = std::mem::take(&mut self.swept);
        let all = std::mem::take(&mut self.next).into_iter().chain(swept).chain(later);
        all.map(|(candidate, _)| candidate).collect()
    }

    fn len(&self) -> usize {
        self.next.len() + self.swept.len() + self.later.len()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::instance::InstanceState;

    fn id(n: usize) -> InstanceId {
        format!("i-0{n:016x}").parse().unwrap()
    }

    fn described(n: usize) -> Described {
        let instance = Instance::new(id(n), InstanceState::Running, MetadataOptions::default());
        Described { instance, asked: Instant::now() }
    }

    fn add(queue: &mut Queue, n: usize, is_swept: bool) {
        queue.add(Candidate::new(id(n), is_swept), described(n));
    }

    fn drawn(count: usize, time: &str) -> Vec<InstanceId> {
        let mut queue = Queue::default();
        (0..count).for_each(|n| add(&mut queue, n, true));
        queue.draw(&EventSummary::default(), time.parse().unwrap());
        queue.take_all().into_iter().map(|candidate| candidate.id).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn each_time_draws_another_order_of_all_that_the_sweep_found() {
        let times = ["2026-11-02T09:14:10Z", "2026-11-02T10:14:10Z"];
        let [one, other] = times.map(|time| drawn(100, time));
        assert_eq!(one, drawn(100, times[0]));
        assert_ne!(one, other);
        let sorted = |mut ids: Vec<InstanceId>| {
            ids.sort();
            ids
        };
        assert_eq!(sorted(one), sorted(other));
    }

    #[tokio::test(start_paused = true)]
    async fn what_events_name_goes_before_what_the_sweep_found() {
        let mut queue = Queue::default();
        add(&mut queue, 1, true);
        add(&mut queue, 2, false);
        queue.draw(&EventSummary::default(), DateTime::default());
        assert!(!queue.take_recent().unwrap().0.is_swept);
        assert!(queue.next_is_swept());
        assert_eq!(queue.take_swept(), 1);
        assert!(!queue.has_next());
    }

    #[tokio::test(start_paused = true)]
    async fn no_write_rests_on_a_description_that_was_asked_for_five_seconds_ago() {
        let mut queue = Queue::default();
        (0..20).for_each(|n| add(&mut queue, n, false));
        assert!(queue.take_outdated().is_empty());
        assert!(queue.take_recent().is_some());
        advance(Duration::from_secs(5)).await;
        assert!(queue.take_recent().is_none());
        assert_eq!((queue.take_outdated().len(), queue.take_outdated().len()), (DESCRIBED_AGAIN, 4));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_tried_later_is_the_next_when_that_time_has_come_and_not_before() {
        let mut queue = Queue::default();
        add(&mut queue, 1, false);
        queue.add_in(Duration::from_secs(2), Candidate::new(id(2), false), described(2));
        queue.admit_due();
        assert_eq!(queue.first_due(), Some(Instant::now() + Duration::from_secs(2)));
        advance(Duration::from_secs(2)).await;
        queue.admit_due();
        assert_eq!(queue.take_recent().unwrap().0.id, id(2));
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_a_thousand_only_ids_are_kept() {
        let mut queue = Queue::default();
        (0..KEPT + 5).for_each(|n| add(&mut queue, n, false));
        assert!((0..KEPT).all(|_| queue.take_recent().is_some()));
        assert_eq!(queue.take_outdated().len(), 5);
    }
}
