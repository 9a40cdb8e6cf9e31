//! Publishes results: gathers them into calls, sends again what the bus may take later, and counts
//! what it did not take.
//!
//! It runs beside the enforcement and never holds it up for longer than a bus takes to fail twice.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use crate::aws::eventbridge::{BYTES_PER_CALL, EVENTS_PER_CALL, ResultBus};
use crate::aws::{Class, Error};
use crate::report::result_event::ResultEvent;
use crate::report::{Failure, Published};

/// How often events that the bus did not take are sent, in all.
const ATTEMPTS: usize = 3;

/// Before events are sent again.
const WAIT: Duration = Duration::from_millis(200);

/// After how many calls in a row that failed as a whole nothing more is sent.
const FAILED_CALLS: usize = 2;

/// Sends all that is received to `bus`, until `end`, and answers what became of it.
pub async fn publish(bus: &dyn ResultBus, mut results: mpsc::Receiver<ResultEvent>, end: Instant) -> Published {
    let mut publisher = Publisher { bus, end, published: Published::default(), failed_calls: 0 };
    let mut batch = Vec::new();
    let mut bytes = 0;
    while let Some(event) = results.recv().await {
        let size = event.bytes();
        if batch.len() == EVENTS_PER_CALL || (bytes + size > BYTES_PER_CALL && !batch.is_empty()) {
            publisher.send(std::mem::take(&mut batch)).await;
            bytes = 0;
        }
        bytes += size;
        batch.push(event);
    }
    if !batch.is_empty() {
        publisher.send(batch).await;
    }
    publisher.published
}

struct Publisher<'a> {
    bus: &'a dyn ResultBus,
    end: Instant,
    published: Published,
    failed_calls: usize,
}

impl Publisher<'_> {
    /// Sends one call's events, and again those that the bus may take later.
    async fn send(&mut self, mut events: Vec<ResultEvent>) {
        for attempt in 1..=ATTEMPTS {
            if self.failed_calls == FAILED_CALLS {
                return self.give_up(events.len(), None);
            }
            let answers = match timeout_at(self.end, self.bus.put(&events)).await {
                Ok(Ok(answers)) => answers,
                Ok(Err(error)) => {
                    self.failed_calls += 1;
                    return self.give_up(events.len(), Some(error));
                }
                Err(_) => return self.give_up(events.len(), Some(too_late())),
            };
            self.failed_calls = 0;
            events = self.kept(events, answers, attempt < ATTEMPTS);
            if events.is_empty() {
                return;
            }
            if Instant::now() + WAIT >= self.end {
                return self.give_up(events.len(), Some(too_late()));
            }
            sleep(WAIT).await;
        }
    }

    /// Counts what became of events, and keeps those that are to be sent again.
    fn kept(&mut self, events: Vec<ResultEvent>, answers: Vec<Option<Error>>, again: bool) -> Vec<ResultEvent> {
        let mut kept = Vec::new();
        // An event without an answer was not taken, as far as is known.
        let answers = answers.into_iter().chain(std::iter::repeat_with(|| Some(unanswered())));
        for (event, answer) in events.into_iter().zip(answers) {
            match answer {
                None => self.published.published += 1,
                Some(error) if error.class.is_retryable() && again => kept.push(event),
                Some(error) => self.give_up(1, Some(error)),
            }
        }
        kept
    }

    fn give_up(&mut self, count: usize, error: Option<Error>) {
        self.published.unpublished += count;
        self.published.error = self.published.error.take().or(error.map(Failure::from));
    }
}

fn too_late() -> Error {
    Error::deadline_exceeded("EventBridge had not answered")
}

fn unanswered() -> Error {
    let message = "EventBridge did not answer what became of the event".to_owned();
    Error { class: Class::Refused, code: "UnreadableAnswer".to_owned(), message }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use futures_util::future::BoxFuture;

    use super::*;

    /// A bus that answers call by call in this order, then takes everything.
    #[derive(Debug, Default)]
    struct Bus {
        answers: Mutex<VecDeque<Answer>>,
        calls: Mutex<Vec<usize>>,
    }

    #[derive(Debug, Clone, Copy)]
    enum Answer {
        Fails,
        Hangs,
        /// Takes none but the first, and says whether sending again can help.
        TakesOne {
            retryable: bool,
        },
    }

    fn failure(retryable: bool) -> Error {
        let class = if retryable { Class::Throttled } else { Class::Refused };
        Error { class, code: "ThrottlingException".to_owned(), message: "no".to_owned() }
    }

    impl ResultBus for Bus {
        fn put<'a>(&'a self, events: &'a [ResultEvent]) -> BoxFuture<'a, Result<Vec<Option<Error>>, Error>> {
            self.calls.lock().unwrap().push(events.len());
            let answer = self.answers.lock().unwrap().pop_front();
            Box::pin(async move {
                match answer {
                    None => Ok(vec![None; events.len()]),
                    Some(Answer::Fails) => Err(failure(true)),
                    Some(Answer::Hangs) => std::future::pending().await,
                    Some(Answer::TakesOne { retryable }) => {
                        Ok((0..events.len()).map(|n| (n > 0).then(|| failure(retryable))).collect())
                    }
                }
            })
        }
    }

    /// What becomes of events of this size, and how many each call had.
    async fn published(sizes: &[usize], answers: &[Answer]) -> (Published, Vec<usize>) {
        published_in(Duration::from_secs(10), sizes, answers).await
    }

    async fn published_in(left: Duration, sizes: &[usize], answers: &[Answer]) -> (Published, Vec<usize>) {
        let bus = Bus { answers: Mutex::new(answers.iter().copied().collect()), ..Bus::default() };
        let (sender, results) = mpsc::channel(1000);
        for size in sizes {
            sender.send(ResultEvent { detail_type: "", detail: "x".repeat(*size) }).await.unwrap();
        }
        drop(sender);
        let published = publish(&bus, results, Instant::now() + left).await;
        (published, bus.calls.into_inner().unwrap())
    }

    fn counts(published: &Published) -> (usize, usize) {
        (published.published, published.unpublished)
    }

    #[tokio::test(start_paused = true)]
    async fn events_are_sent_ten_a_call() {
        let (result, calls) = published(&[100; 23], &[]).await;
        assert_eq!((counts(&result), calls), ((23, 0), vec![10, 10, 3]));
        assert_eq!(result.error, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_stays_below_the_limit_of_bytes() {
        let (result, calls) = published(&[100 * 1024; 5], &[]).await;
        assert_eq!((counts(&result), calls), ((5, 0), vec![2, 2, 1]));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_taken_is_sent_again_if_that_can_help() {
        let (result, calls) = published(&[100; 10], &[Answer::TakesOne { retryable: true }]).await;
        assert_eq!((counts(&result), calls), ((10, 0), vec![10, 9]));
        let (result, calls) = published(&[100; 10], &[Answer::TakesOne { retryable: false }]).await;
        assert_eq!((counts(&result), calls), ((1, 9), vec![10]));
        let (result, calls) = published(&[100; 10], &[Answer::TakesOne { retryable: true }; 3]).await;
        assert_eq!((counts(&result), calls), ((3, 7), vec![10, 9, 8]));
        assert_eq!(result.error.unwrap().code, "ThrottlingException");
    }

    #[tokio::test(start_paused = true)]
    async fn near_the_end_nothing_is_sent_again() {
        let (result, calls) =
            published_in(Duration::from_millis(100), &[100; 10], &[Answer::TakesOne { retryable: true }]).await;
        assert_eq!((counts(&result), calls), ((1, 9), vec![10]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_bus_that_fails_is_left_alone_after_two_calls() {
        let (result, calls) = published(&[100; 50], &[Answer::Fails; 5]).await;
        assert_eq!((counts(&result), calls), ((0, 50), vec![10, 10]));
        let (result, calls) = published(&[100; 30], &[Answer::Fails]).await;
        assert_eq!((counts(&result), calls), ((20, 10), vec![10, 10, 10]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_bus_that_hangs_is_waited_for_until_the_end_and_no_longer() {
        let begin = Instant::now();
        let (result, _) = published(&[100; 20], &[Answer::Hangs; 2]).await;
        assert_eq!(counts(&result), (0, 20));
        assert_eq!(result.error.unwrap().code, "DeadlineExceeded");
        assert!(begin.elapsed() <= Duration::from_secs(11));
    }
}
