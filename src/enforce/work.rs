//! What one invocation looks after: the targets of its events, merged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use crate::event::{EventSummary, Message, Origin, Request, Targets};
use crate::instance::{Instance, InstanceId, MalformedInstanceId};

/// How much earlier than the event an instance may have been launched to be of its launch.
const BEFORE_EVENT: TimeDelta = TimeDelta::minutes(5);

/// What one invocation looks after.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// The event that stands for an instance that no event names.
    event: Arc<EventSummary>,
    named: BTreeMap<InstanceId, Named>,
    pub(super) malformed: BTreeSet<MalformedInstanceId>,
    /// Whether every violator of the Region is looked after as well.
    pub(super) violators: bool,
    /// The earliest launch that named no instances: what was launched since is new.
    launch_time: Option<DateTime<Utc>>,
}

/// An instance that events named.
#[derive(Debug, Clone, Default)]
struct Named {
    /// Whether not finding it is a failure.
    must_exist: bool,
    /// The event whose call explains the most.
    event: Arc<EventSummary>,
    origin: Option<Arc<Origin>>,
    /// The time of the first event.
    since: Option<DateTime<Utc>>,
}

impl Named {
    fn add(&mut self, event: &Arc<EventSummary>, origin: Option<&Arc<Origin>>, must_exist: bool) {
        self.must_exist |= must_exist;
        self.since = self.since.into_iter().chain(event.time).min();
        if self.event.name.is_empty() || explains(origin) >= explains(self.origin.as_ref()) {
            self.event = Arc::clone(event);
            self.origin = origin.cloned();
        }
    }
}

/// How much the call of an event explains why tokens are not required.
fn explains(origin: Option<&Arc<Origin>>) -> u8 {
    origin.map_or(0, |origin| if origin.call.loosens() { 2 } else { 1 })
}

impl Work {
    /// The work of one event.
    pub(super) fn of_event(event: EventSummary, targets: &Targets, origin: Option<&Arc<Origin>>) -> Self {
        let mut work = Self { event: Arc::new(event), ..Self::default() };
        work.add(targets, &Arc::clone(&work.event), origin);
        work
    }

    /// The work of all messages that ask for some.
    pub(super) fn of_batch(batch: EventSummary, messages: &[Message]) -> Self {
        let mut work = Self { event: Arc::new(batch), ..Self::default() };
        for message in messages {
            if let Ok(Request { targets: Ok(targets), event, origin }) = &message.request {
                work.add(targets, &Arc::new(event.clone()), origin.as_ref());
            }
        }
        work
    }

    fn add(&mut self, targets: &Targets, event: &Arc<EventSummary>, origin: Option<&Arc<Origin>>) {
        for id in &targets.named {
            self.named.entry(id.clone()).or_default().add(event, origin, targets.must_exist);
        }
        self.malformed.extend(targets.malformed.iter().cloned());
        self.violators |= targets.violators;
        if targets.violators && targets.must_exist {
            self.launch_time = self.launch_time.into_iter().chain(event.time).min();
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

    /// Whether an event says that the instance exists, now or soon.
    pub(super) fn must_exist(&self, id: &InstanceId) -> bool {
        self.named.get(id).is_some_and(|named| named.must_exist)
    }

    /// The time of the first event that led to this instance. What the sweep finds has none: nothing
    /// says since when its tokens are not required.
    pub(super) fn since(&self, instance: &Instance) -> Option<DateTime<Utc>> {
        self.named.get(&instance.id).map_or_else(
            || self.launch_time.filter(|time| instance.launch_time.is_some_and(|it| it + BEFORE_EVENT >= *time)),
            |named| named.since,
        )
    }

    /// The call by which an event named the instance.
    pub(super) fn origin(&self, id: &InstanceId) -> Option<&Origin> {
        self.named.get(id)?.origin.as_deref()
    }

    /// The event that led to the instance.
    pub(super) fn event(&self, id: &InstanceId) -> &EventSummary {
        self.named.get(id).map_or(&self.event, |named| &named.event)
    }

    /// The event that stands for what no event names.
    pub(super) fn whole(&self) -> &EventSummary {
        &self.event
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Call, Caller};

    fn id() -> InstanceId {
        "i-0123456789abcdef0".parse().unwrap()
    }

    fn targets(must_exist: bool) -> Targets {
        Targets { named: [id()].into(), must_exist, ..Targets::default() }
    }

    #[test]
    fn an_id_of_two_events_must_exist_if_one_says_so() {
        for order in [[true, false], [false, true]] {
            let mut work = Work::default();
            for must_exist in order {
                work.add(&targets(must_exist), &Arc::default(), None);
            }
            assert!(work.must_exist(&id()));
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
        let call = Call::ModifyInstanceMetadataOptions { http_tokens, http_endpoint: None };
        let origin = Arc::new(Origin { caller: Caller::default(), call });
        let (state_change, change) =
            (event("running", "2026-11-02T09:14:07Z"), event("Modify", "2026-11-02T09:14:09Z"));
        for order in [[true, false], [false, true]] {
            let mut work = Work::default();
            for is_change in order {
                let (event, origin) = if is_change { (&change, Some(&origin)) } else { (&state_change, None) };
                work.add(&targets(true), &Arc::new(event.clone()), origin);
            }
            assert_eq!((work.event(&id()), work.origin(&id())), (&change, Some(&*origin)));
            assert_eq!(work.named[&id()].since, state_change.time);
        }
    }
}
