//! What one invocation looks after: the targets of its events, merged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use crate::event::{EventSummary, Message, Origin, Request, Targets, Violators};
use crate::instance::{Instance, InstanceId, MalformedInstanceId};

/// For how long after an event EC2 knows an instance that the event named, and that was terminated
/// since: about an hour.
const EC2_REMEMBERS: TimeDelta = TimeDelta::hours(1);

/// How long after the event of a launch an instance may have been created that is of this launch.
const AFTER_LAUNCH: TimeDelta = TimeDelta::minutes(5);

/// How long before an event an instance was created that the event does not report as new.
const OLD: TimeDelta = TimeDelta::hours(1);

/// What one invocation looks after.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// The event that stands for an instance that no event names.
    event: Arc<EventSummary>,
    named: BTreeMap<InstanceId, Named>,
    pub(super) malformed: BTreeSet<MalformedInstanceId>,
    /// Which violators of the Region are looked after as well.
    pub(super) violators: Option<Violators>,
    /// The earliest launch that may not have named all its instances.
    cut_launch: Option<CutLaunch>,
}

/// A launch that may not have named all its instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct CutLaunch {
    /// What was created since is of this launch, as far as is known.
    since: DateTime<Utc>,
    time: DateTime<Utc>,
}

/// An instance that events named.
#[derive(Debug, Clone, Default)]
struct Named {
    /// The events that say that it exists, by their times.
    must_exist: Vec<Option<DateTime<Utc>>>,
    /// The event whose call explains the most.
    event: Arc<EventSummary>,
    origin: Option<Arc<Origin>>,
    /// What that event asked for, if it was received before.
    asked_again: Option<Arc<Targets>>,
    /// Whether an event records a call that may have left its tokens not required, after its launch.
    loosened: bool,
    /// The time of the first event.
    since: Option<DateTime<Utc>>,
}

impl Named {
    fn add(&mut self, id: &InstanceId, received: &Received, must_exist: bool) {
        let Received { event, origin, asked_again } = *received;
        if must_exist {
            self.must_exist.push(event.time);
        }
        self.since = self.since.into_iter().chain(event.time).min();
        self.loosened |= origin.is_some_and(|origin| origin.call.loosens());
        if self.event.name.is_empty() || explains(origin, id) >= explains(self.origin.as_ref(), id) {
            self.event = Arc::clone(event);
            self.origin = origin.cloned();
            self.asked_again = asked_again.cloned();
        }
    }
}

/// An event as it was received.
#[derive(Debug, Clone, Copy)]
struct Received<'a> {
    event: &'a Arc<EventSummary>,
    origin: Option<&'a Arc<Origin>>,
    /// What it asks for, if it was received before.
    asked_again: Option<&'a Arc<Targets>>,
}

/// How much the call of an event explains why the instance's tokens are not required.
fn explains(origin: Option<&Arc<Origin>>, id: &InstanceId) -> u8 {
    origin.map_or(0, |origin| 1 + u8::from(origin.left_open(id)) + u8::from(origin.call.is_blamed()))
}

impl Work {
    /// The work of one event.
    pub(super) fn of_event(event: EventSummary, targets: &Targets, origin: Option<&Arc<Origin>>) -> Self {
        let mut work = Self { event: Arc::new(event), ..Self::default() };
        let event = &Arc::clone(&work.event);
        work.add(targets, &Received { event, origin, asked_again: None });
        work
    }

    /// The work of all messages that ask for some.
    pub(super) fn of_batch(batch: EventSummary, messages: &[Message]) -> Self {
        let mut work = Self { event: Arc::new(batch), ..Self::default() };
        for message in messages {
            if let Ok(Request { targets: Ok(targets), event, origin }) = &message.request {
                let (event, origin) = (&Arc::new(event.clone()), origin.as_ref());
                let asked_again = (message.receives > 1).then(|| Arc::new(targets.clone()));
                work.add(targets, &Received { event, origin, asked_again: asked_again.as_ref() });
            }
        }
        work
    }

    fn add(&mut self, targets: &Targets, received: &Received) {
        let Received { event, .. } = *received;
        for id in &targets.named {
            self.named.entry(id.clone()).or_default().add(id, received, targets.must_exist);
        }
        self.malformed.extend(targets.malformed.iter().cloned());
        if targets.violators.is_some_and(|it| it == Violators::All || self.violators.is_none()) {
            self.event = Arc::clone(event);
        }
        self.violators = self.violators.into_iter().chain(targets.violators).reduce(Violators::or);
        if let (Some(Violators::CreatedSince(since)), Some(time)) = (targets.violators, event.time) {
            self.cut_launch = self.cut_launch.into_iter().chain([CutLaunch { since, time }]).min();
        }
    }

    /// The instances that events named.
    pub(super) fn named(&self) -> impl Iterator<Item = &InstanceId> {
        self.named.keys()
    }

    /// Whether an event named the instance.
    pub(super) fn names(&self, id: &InstanceId) -> bool {
        self.named.contains_key(id)
    }

    /// Whether every violator of the Region is looked after.
    pub(super) fn is_sweep(&self) -> bool {
        self.violators == Some(Violators::All)
    }

    /// Whether an event says that the instance exists, `now` or soon. After an hour EC2 may have
    /// forgotten it: an event says so for no longer, unless its time is not known.
    pub(super) fn must_exist(&self, id: &InstanceId, now: DateTime<Utc>) -> bool {
        let is_recent =
            |time: &Option<DateTime<Utc>>| time.is_none_or(|time| now.signed_duration_since(time) <= EC2_REMEMBERS);
        self.named.get(id).is_some_and(|named| named.must_exist.iter().any(is_recent))
    }

    /// Whether events say that the instance existed, so long ago that EC2 may have forgotten it `now`.
    pub(super) fn is_forgotten(&self, id: &InstanceId, now: DateTime<Utc>) -> bool {
        self.named.get(id).is_some_and(|named| !named.must_exist.is_empty()) && !self.must_exist(id, now)
    }

    /// Whether an instance that was found by filter is one that is looked after.
    pub(super) fn is_violator_to_look_after(&self, instance: &Instance) -> bool {
        let is_asked_for = match self.violators {
            Some(Violators::All) => true,
            Some(Violators::CreatedSince(since)) => instance.created.is_none_or(|created| created >= since),
            None => false,
        };
        is_asked_for && !self.names(&instance.id)
    }

    /// Whether nothing but the sweep asks for this instance, which was found by filter.
    pub(super) fn only_sweeps(&self, instance: &Instance) -> bool {
        self.is_sweep() && !self.names(&instance.id) && self.since(instance).is_none()
    }

    /// Whether an event records a change that may have left the tokens of this instance not required.
    pub(super) fn loosened(&self, id: &InstanceId) -> bool {
        self.named.get(id).is_some_and(|named| named.loosened)
    }

    /// What the event asked for that is reported for the instance, if that was received before: then what
    /// became of it may have been told already.
    pub(super) fn asked_again(&self, id: &InstanceId) -> Option<&Targets> {
        self.named.get(id)?.asked_again.as_deref()
    }

    /// Whether an event says no more of the instance than that it started once more, long after it was
    /// created.
    pub(super) fn restarted(&self, instance: &Instance) -> bool {
        self.named.get(&instance.id).is_some_and(|named| {
            let age = named.since.zip(instance.created).map(|(since, created)| since.signed_duration_since(created));
            named.origin.is_none() && age.is_some_and(|age| age > OLD)
        })
    }

    /// The time of the first event that led to this instance. What the sweep finds has none: nothing
    /// says since when its tokens are not required.
    pub(super) fn since(&self, instance: &Instance) -> Option<DateTime<Utc>> {
        let of_launch = |launch: &CutLaunch| {
            let until = launch.time.checked_add_signed(AFTER_LAUNCH).unwrap_or(launch.time);
            instance.created.is_some_and(|created| (launch.since..=until).contains(&created))
        };
        self.named
            .get(&instance.id)
            .map_or_else(|| self.cut_launch.filter(of_launch).map(|launch| launch.time), |named| named.since)
    }

    /// The call by which an event named the instance.
    pub(super) fn origin(&self, id: &InstanceId) -> Option<&Origin> {
        self.named.get(id)?.origin.as_deref()
    }

    /// The event that led to the instance.
    pub(super) fn event(&self, id: &InstanceId) -> &EventSummary {
        self.named.get(id).map_or(&self.event, |named| &named.event)
    }

    /// The event that stands for what no event names: that which asked for the look-up by filter, the
    /// sweep before others, or else the event or the batch as a whole.
    pub(super) fn whole(&self) -> &EventSummary {
        &self.event
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{AtLaunch, Call, Caller};

    fn id() -> InstanceId {
        "i-0123456789abcdef0".parse().unwrap()
    }

    /// An event that is received for the first time.
    fn of<'a>(event: &'a Arc<EventSummary>, origin: Option<&'a Arc<Origin>>) -> Received<'a> {
        Received { event, origin, asked_again: None }
    }

    fn targets(must_exist: bool) -> Targets {
        Targets { named: [id()].into(), must_exist, ..Targets::default() }
    }

    #[test]
    fn an_id_of_two_events_must_exist_if_one_says_so() {
        for order in [[true, false], [false, true]] {
            let mut work = Work::default();
            for must_exist in order {
                work.add(&targets(must_exist), &of(&Arc::default(), None));
            }
            assert!(work.must_exist(&id(), Utc::now()));
        }
    }

    #[test]
    fn a_later_change_of_another_option_does_not_hide_who_left_it_open() {
        let mut at_launch = AtLaunch::default();
        at_launch.open.insert(id());
        let launch =
            Call::RunInstances { http_tokens: None, launch_template: None, spot: false, is_whole: true, at_launch };
        let change = Call::ModifyInstanceMetadataOptions {
            http_tokens: Some("required".to_owned()),
            http_endpoint: None,
            left_open: Some(false),
            names_another: false,
        };
        let [launch, change] = [launch, change].map(|call| Arc::new(Origin { caller: Caller::default(), call }));
        for order in [[&launch, &change], [&change, &launch]] {
            let mut work = Work::default();
            for origin in order {
                let event = EventSummary { name: "call".to_owned(), ..EventSummary::default() };
                work.add(&targets(true), &of(&Arc::new(event), Some(origin)));
            }
            assert_eq!(work.origin(&id()), Some(&*launch));
        }
    }

    #[test]
    fn an_event_says_for_an_hour_that_its_instance_exists() {
        let time: DateTime<Utc> = "2026-11-02T09:14:07Z".parse().unwrap();
        let at = |times: &[DateTime<Utc>], now| {
            let mut work = Work::default();
            for time in times {
                let event = EventSummary { time: Some(*time), ..EventSummary::default() };
                work.add(&targets(true), &of(&Arc::new(event), None));
            }
            work.must_exist(&id(), now)
        };
        assert!(at(&[time], time + TimeDelta::minutes(60)));
        assert!(!at(&[time], time + TimeDelta::minutes(61)));
        assert!(at(&[DateTime::<Utc>::MAX_UTC], time), "the end of time is no panic");
        assert!(at(&[time, time + TimeDelta::minutes(30)], time + TimeDelta::minutes(61)), "a later event counts");
    }

    #[test]
    fn of_two_events_the_wider_filter_counts() {
        let since = |time: &str| Violators::CreatedSince(time.parse().unwrap());
        let (early, late) = (since("2026-11-02T09:00:00Z"), since("2026-11-02T10:00:00Z"));
        for (one, other, both) in [(early, late, early), (late, Violators::All, Violators::All)] {
            for order in [[one, other], [other, one]] {
                let mut work = Work::default();
                for violators in order {
                    let targets = Targets { violators: Some(violators), ..Targets::default() };
                    work.add(&targets, &of(&Arc::default(), None));
                }
                assert_eq!(work.violators, Some(both));
            }
        }
    }

    #[test]
    fn of_two_events_the_one_that_explains_more_is_reported_and_the_first_counts_for_the_time() {
        let event = |name: &str, time: &str| EventSummary {
            name: name.to_owned(),
            time: Some(time.parse().unwrap()),
            ..EventSummary::default()
        };
        let http_tokens = Some("optional".to_owned());
        let call = Call::ModifyInstanceMetadataOptions {
            http_tokens,
            http_endpoint: None,
            left_open: None,
            names_another: false,
        };
        let origin = Arc::new(Origin { caller: Caller::default(), call });
        let (state_change, change) =
            (event("running", "2026-11-02T09:14:07Z"), event("Modify", "2026-11-02T09:14:09Z"));
        for order in [[true, false], [false, true]] {
            let mut work = Work::default();
            for is_change in order {
                let (event, origin) = if is_change { (&change, Some(&origin)) } else { (&state_change, None) };
                work.add(&targets(true), &of(&Arc::new(event.clone()), origin));
            }
            assert_eq!((work.event(&id()), work.origin(&id())), (&change, Some(&*origin)));
            assert_eq!(work.named[&id()].since, state_change.time);
        }
    }
}
