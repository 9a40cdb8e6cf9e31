//! The way to EventBridge: results, sent to a bus.
//!
//! The only file that names the SDK for EventBridge. Its client is built only where a bus is set.

use std::fmt;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_eventbridge::Client;
use aws_sdk_eventbridge::config::Region;
use aws_sdk_eventbridge::config::timeout::TimeoutConfig;
use aws_sdk_eventbridge::types::{PutEventsRequestEntry, PutEventsResultEntry};
use futures_util::future::BoxFuture;

use super::error::{Class, Error};
use crate::report::result_event::{ResultEvent, SOURCE};

/// The IAM actions that the calls in this file need. The templates grant them where a bus is set.
pub const IAM_ACTIONS: [&str; 1] = ["events:PutEvents"];

/// Most events that one call sends, and the most bytes: a little less than EventBridge's limits.
pub const EVENTS_PER_CALL: usize = 10;
/// See [`EVENTS_PER_CALL`].
pub const BYTES_PER_CALL: usize = 240 * 1024;

/// What the function needs of EventBridge.
pub trait ResultBus: fmt::Debug + Send + Sync {
    /// Sends events, at most [`EVENTS_PER_CALL`] and [`BYTES_PER_CALL`], and answers for each why
    /// the bus did not take it, in their order.
    ///
    /// # Errors
    ///
    /// Why the call failed as a whole, after the SDK's retries.
    fn put<'a>(&'a self, events: &'a [ResultEvent]) -> BoxFuture<'a, Result<Vec<Option<Error>>, Error>>;
}

/// The port's implementation by the SDK.
#[derive(Debug)]
pub struct SdkEventBridge {
    client: Client,
    bus: String,
}

impl SdkEventBridge {
    /// A client for the credentials and endpoint of `config`, and the bus of this name or ARN. A bus
    /// takes events only in its own Region: that of the ARN, or else that of `config`.
    #[must_use]
    pub fn new(config: &SdkConfig, bus: String) -> Self {
        let timeouts = TimeoutConfig::builder().operation_attempt_timeout(Duration::from_secs(3));
        let timeouts = timeouts.operation_timeout(Duration::from_secs(6)).build();
        let mut config = aws_sdk_eventbridge::config::Builder::from(config).timeout_config(timeouts);
        if let Some(region) = region_of(&bus) {
            config.set_region(Some(Region::new(region.to_owned())));
        }
        Self { client: Client::from_conf(config.build()), bus }
    }

    fn entry(&self, event: &ResultEvent) -> PutEventsRequestEntry {
        let entry = PutEventsRequestEntry::builder().source(SOURCE).event_bus_name(&self.bus);
        entry.detail_type(event.detail_type).detail(&event.detail).build()
    }

    async fn send(&self, events: &[ResultEvent]) -> Result<Vec<Option<Error>>, Error> {
        let entries = events.iter().map(|event| self.entry(event)).collect();
        let call = self.client.put_events().set_entries(Some(entries));
        let answer = Box::pin(call.send()).await.map_err(|error| Error::from_sdk(&error, class, IAM_ACTIONS[0]))?;
        if answer.failed_entry_count() == 0 {
            return Ok(vec![None; events.len()]);
        }
        Ok(answer.entries().iter().map(refusal).collect())
    }
}

impl ResultBus for SdkEventBridge {
    fn put<'a>(&'a self, events: &'a [ResultEvent]) -> BoxFuture<'a, Result<Vec<Option<Error>>, Error>> {
        Box::pin(self.send(events))
    }
}

/// The Region of an ARN, if the bus is given by one: `arn:<partition>:events:<Region>:…`.
fn region_of(bus: &str) -> Option<&str> {
    bus.strip_prefix("arn:")?.split(':').nth(2).filter(|region| !region.is_empty())
}

/// Why the bus did not take an entry, if it did not.
fn refusal(entry: &PutEventsResultEntry) -> Option<Error> {
    let code = entry.error_code()?;
    let class = Class::of(code, class).unwrap_or(Class::Refused);
    Some(Error { class, code: code.to_owned(), message: entry.error_message().unwrap_or("no message").to_owned() })
}

/// The class of EventBridge's own codes, of a call and of an entry, by its documentation.
fn class(code: &str) -> Option<Class> {
    match code {
        "InternalException" => Some(Class::Retryable),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::tests::answered;
    use super::*;

    #[test]
    fn what_eventbridge_answers_is_classed_by_its_own_codes() {
        for (code, expected) in [
            ("ThrottlingException", Class::Throttled),
            ("InternalException", Class::Retryable),
            ("InternalFailure", Class::Retryable),
            ("ServiceUnavailable", Class::Retryable),
            ("NotAuthorizedForSourceException", Class::Refused),
            ("ResourceNotFoundException", Class::Refused),
            ("InvalidInstanceID.NotFound", Class::Refused),
        ] {
            assert_eq!(answered(class, code, 400).class, expected, "{code}");
            let entry = PutEventsResultEntry::builder().error_code(code).build();
            assert_eq!(refusal(&entry).map(|error| error.class), Some(expected), "{code}");
        }
        assert_eq!(refusal(&PutEventsResultEntry::builder().event_id("1").build()), None);
    }
}
