//! State-change notifications of EC2: an instance and its new state.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::json::{Raw, strict};
use super::{EventError, EventSummary, Ignored, Request, Targets, instance_id};

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
    let detail: StateChange = strict(detail.get(), "detail")?;
    let state = detail.state.text().ok_or_else(|| {
        EventError::unreadable("detail.state", "is missing or no text: the instance's new state stands here")
    })?;
    let targets = match state.as_str() {
        "pending" | "running" => Ok(named(detail.instance_id).or_refuse("detail.instance-id")?),
        _ => Err(Ignored::State { state }),
    };
    Ok(Request { event, targets, origin: None })
}

fn named(id: Raw) -> Targets {
    let mut targets = Targets { must_exist: true, ..Targets::default() };
    instance_id(id).into_iter().for_each(|id| targets.add(id));
    targets
}
