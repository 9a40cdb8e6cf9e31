//! State-change notifications of EC2: an instance and its new state.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::json::{Raw, object};
use super::{EventError, EventSummary, Ignored, Request, Targets};

/// EventBridge's `detail-type` of a state-change notification.
pub(super) const DETAIL_TYPE: &str = "EC2 Instance State-change Notification";

/// What is read of the `detail` of a state-change notification.
#[derive(Default, Deserialize)]
#[serde(default)]
struct StateChange<'a> {
    #[serde(rename = "instance-id", borrow)]
    instance_id: Raw<'a>,
    state: Raw<'a>,
}

pub(super) fn read(detail: &RawValue, event: EventSummary) -> Result<Request, EventError> {
    let detail: StateChange = object(detail.get(), "detail")?;
    let state = detail.state.text().ok_or_else(|| {
        EventError::unreadable("detail.state", "is missing or no text: the instance's new state stands here")
    })?;
    let targets = match state.as_str() {
        "pending" | "running" => {
            let targets = Targets { must_exist: true, ..Targets::one(detail.instance_id) };
            Ok(targets.or_refuse("detail.instance-id")?)
        }
        _ => Err(Ignored::State { state }),
    };
    Ok(Request { event, targets, origin: None })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::event::tests::{A, event, ids, read_request};

    #[test]
    fn a_state_change_is_looked_at_when_the_instance_comes() {
        for state in ["pending", "running"] {
            let request = read_request(&event(
                "EC2 Instance State-change Notification",
                &json!({"instance-id": A, "state": state}),
            ));
            let targets = request.unwrap().targets.unwrap();
            assert_eq!(ids(&targets), [A]);
            assert!(targets.must_exist);
        }
        for state in ["stopping", "stopped", "shutting-down", "terminated", "new"] {
            let request = read_request(&event(
                "EC2 Instance State-change Notification",
                &json!({"instance-id": A, "state": state}),
            ));
            assert!(request.unwrap().targets.unwrap_err().to_string().contains(state));
        }
    }
}
