//! Look-ups: each attempt in its turn, again at once when EC2 throttled it, and in a while when it failed
//! by a fault of EC2 or of the network.

use std::time::Duration;

use super::deadline::Deadline;
use crate::aws::request_rate::RequestRate;
use crate::aws::{Class, Error};

/// Makes a call, each attempt in its turn at `rate`, and waits the next of `waits` before each further
/// attempt, but for one that was throttled, whose turn comes later.
///
/// # Errors
///
/// The error of the last attempt, when there are no waits left, when the error is no reason for another
/// attempt, or when the deadline leaves no time for one.
pub(super) async fn call<T>(
    rate: &RequestRate,
    waits: &[Duration],
    deadline: Deadline,
    call: impl AsyncFn() -> Result<T, Error>,
) -> Result<T, Error> {
    let mut error = Error::deadline_exceeded("the call was not begun");
    let mut waits = waits.iter().copied();
    while deadline.turn(rate).await {
        error = match deadline.wait("EC2", call()).await {
            Err(error) => error,
            answer @ Ok(_) => return answer,
        };
        let wait = match error.class {
            Class::Throttled => {
                rate.throttled();
                waits.next().map(|_| Duration::ZERO)
            }
            Class::NotReady | Class::NotFound | Class::Retryable => waits.next(),
            Class::Refused => None,
        };
        let Some(wait) = wait else { break };
        if !deadline.sleep(wait).await {
            break;
        }
    }
    Err(error)
}
