//! The way of the events: queues and the sources that gather batches from them, as SQS and Lambda
//! document it. Pure: what happens at what time is asked from outside.
//!
//! A source gathers one batch at a time here. Lambda begins with five at a time, and with fewer only where no
//! `MaximumConcurrency` is set, so that this says nothing of how many invocations there are at the most.

use std::collections::VecDeque;
use std::rc::Rc;

use tokio::time::Instant;

use super::template::{Queue, Source};

/// Most bytes of a batch.
const BATCH_BYTES: usize = 6_000_000;

/// After so many receives without success a message counts no more for the age of the oldest.
const RECEIVES_OF_OLDEST: usize = 3;

/// An event on its way.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) body: Rc<str>,
    /// The launch that it comes from.
    pub(crate) launch: Option<usize>,
}

/// A message of a queue.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) id: u64,
    pub(crate) event: Event,
    pub(crate) sent: Instant,
    pub(crate) receives: usize,
    /// When it is visible again, if it is not deleted before.
    pub(crate) visible: Instant,
}

/// A batch that is being gathered.
#[derive(Debug)]
struct Gathering {
    number: u64,
    messages: Vec<Message>,
    bytes: usize,
}

/// A queue and what has the function handle it.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) queue: Queue,
    pub(crate) source: Option<Source>,
    /// Whether its source is disabled.
    pub(crate) is_off: bool,
    waiting: VecDeque<Message>,
    gathering: Option<Gathering>,
    /// Messages that were received and are neither deleted nor visible again.
    pub(crate) received: Vec<(u64, Instant, usize)>,
    /// Batches that the function works on.
    pub(crate) busy: usize,
    batches: u64,
}

/// What comes of a look at a queue.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    /// A batch that is full, or whose window is over.
    pub(crate) batch: Option<Vec<Message>>,
    /// A batch was begun, of this number.
    pub(crate) begun: Option<u64>,
    /// Messages that were received too often.
    pub(crate) dead: Vec<Message>,
}

impl Lane {
    pub(crate) fn new(queue: Queue, source: Option<Source>) -> Self {
        let (waiting, received) = (VecDeque::new(), Vec::new());
        Self { queue, source, is_off: false, waiting, gathering: None, received, busy: 0, batches: 0 }
    }

    /// A message becomes visible.
    pub(crate) fn add(&mut self, message: Message) {
        self.received.retain(|(id, ..)| *id != message.id);
        self.waiting.push_back(message);
    }

    /// A message was handled.
    pub(crate) fn delete(&mut self, id: u64) {
        self.received.retain(|(other, ..)| *other != id);
    }

    /// Takes all that waits in a queue that nothing handles.
    pub(crate) fn take_dead_letters(&mut self) -> VecDeque<Message> {
        if self.source.is_none() { std::mem::take(&mut self.waiting) } else { VecDeque::new() }
    }

    /// How many messages are visible.
    pub(crate) fn visible(&self) -> usize {
        self.waiting.len()
    }

    /// When the oldest message was sent, but for those that were received often without success.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        let waiting = self.waiting.iter().map(|message| (message.sent, message.receives));
        let received = self.received.iter().map(|(_, sent, receives)| (*sent, *receives));
        waiting.chain(received).filter(|(_, receives)| *receives <= RECEIVES_OF_OLDEST).map(|(sent, _)| sent).min()
    }

    /// Whether it holds anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.received.is_empty()
    }

    /// The window of a batch is over: what it is then.
    pub(crate) fn end_window(&mut self, number: u64) -> Option<Vec<Message>> {
        self.gathering.take_if(|gathering| gathering.number == number).map(|gathering| gathering.messages)
    }

    /// Receives what is visible into the batch that is being gathered, if the source may have another.
    pub(crate) fn look(&mut self) -> Looked {
        let mut looked = Looked::default();
        let Some(source) = self.source.as_ref().filter(|_| !self.is_off) else { return looked };
        let (size, concurrency) = (source.batch_size, source.concurrency);
        while self.gathering.is_some() || self.busy < concurrency {
            let Some(mut message) = self.waiting.pop_front() else { break };
            message.receives += 1;
            if self.queue.redrive.as_ref().is_some_and(|(most, _)| message.receives > *most) {
                looked.dead.push(message);
                continue;
            }
            message.visible = Instant::now() + self.queue.visibility;
            self.received.push((message.id, message.sent, message.receives));
            if self.gather(message, &mut looked) >= size {
                looked.batch = self.gathering.take().map(|gathering| gathering.messages);
                break;
            }
        }
        looked
    }

    /// Adds a message to the batch. How many it has then, or as many as any may have if it is full.
    fn gather(&mut self, message: Message, looked: &mut Looked) -> usize {
        if self.gathering.is_none() {
            self.batches += 1;
            looked.begun = Some(self.batches);
        }
        let number = self.batches;
        let gathering = self.gathering.get_or_insert_with(|| Gathering { number, messages: Vec::new(), bytes: 0 });
        gathering.bytes += message.event.body.len();
        gathering.messages.push(message);
        if gathering.bytes > BATCH_BYTES { usize::MAX } else { gathering.messages.len() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn lane(batch_size: usize, concurrency: usize) -> Lane {
        let queue = Queue { visibility: Duration::from_mins(1), redrive: Some((2, "Dead".to_owned())) };
        Lane::new(queue, Some(Source { batch_size, window: Duration::from_secs(2), concurrency }))
    }

    fn message(id: u64) -> Message {
        let event = Event { body: "{}".into(), launch: None };
        Message { id, event, sent: Instant::now(), receives: 0, visible: Instant::now() }
    }

    fn ids(batch: Option<Vec<Message>>) -> Vec<u64> {
        batch.into_iter().flatten().map(|message| message.id).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_ends_with_its_window_or_when_it_is_full() {
        let mut lane = lane(3, 2);
        lane.add(message(1));
        let begun = lane.look().begun.unwrap();
        lane.add(message(2));
        assert!(lane.look().begun.is_none(), "it is the same batch");
        assert_eq!(ids(lane.end_window(begun)), [1, 2]);
        (3..7).for_each(|id| lane.add(message(id)));
        assert_eq!(ids(lane.look().batch), [3, 4, 5]);
        assert!(lane.end_window(begun).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_batches_are_received_than_the_source_may_have() {
        let mut lane = lane(1, 1);
        lane.add(message(1));
        assert_eq!(ids(lane.look().batch), [1]);
        lane.busy += 1;
        lane.add(message(2));
        assert!(lane.look().batch.is_none() && lane.visible() == 1);
        lane.busy -= 1;
        assert_eq!(ids(lane.look().batch), [2]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_received_too_often_is_dead() {
        let mut lane = lane(1, 1);
        lane.add(message(1));
        for receives in 1..=2 {
            let received = lane.look().batch.unwrap().remove(0);
            assert_eq!(received.receives, receives);
            assert_eq!(received.visible, Instant::now() + Duration::from_mins(1));
            lane.add(received);
        }
        let looked = lane.look();
        assert!(looked.batch.is_none());
        assert_eq!(ids(Some(looked.dead)), [1]);
        assert!(lane.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_age_of_the_oldest_counts_until_it_was_received_often() {
        let mut lane = lane(1, 1);
        let sent = Instant::now();
        lane.add(message(1));
        tokio::time::advance(Duration::from_secs(5)).await;
        lane.add(message(2));
        assert_eq!(lane.oldest(), Some(sent));
        lane.delete(1);
        let old = Message { receives: RECEIVES_OF_OLDEST + 1, ..message(3) };
        let mut other = self::lane(1, 1);
        other.add(old);
        assert_eq!(other.oldest(), None);
    }
}
