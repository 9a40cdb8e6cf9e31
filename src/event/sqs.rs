//! The records of an SQS event, each with an EventBridge event as its body.

use aws_lambda_events::event::sqs::SqsMessage;
use serde::Deserialize;

use super::json::{clip, strict};
use super::{EventError, Message, read_event};

/// An SQS event, or with no records anything else.
#[derive(Deserialize)]
struct Batch {
    #[serde(rename = "Records")]
    records: Option<Vec<SqsMessage>>,
}

/// The messages of an SQS event, or nothing if the JSON is none.
pub(super) fn read(json: &str, region: &str) -> Result<Option<Vec<Message>>, EventError> {
    // An event of EventBridge mostly lacks the word, which is found faster than the event is read.
    if !json.contains("\"Records\"") {
        return Ok(None);
    }
    let Batch { records: Some(records) } = strict(json)? else {
        return Ok(None);
    };
    let messages = records.into_iter().enumerate().map(|(index, record)| read_record(index, record, region));
    messages.collect::<Result<_, _>>().map(Some)
}

/// One record. Only a record that could not be named in `batchItemFailures` refuses the whole.
fn read_record(index: usize, record: SqsMessage, region: &str) -> Result<Message, EventError> {
    if record.event_source.as_deref() != Some("aws:sqs") {
        let found = record.event_source.as_deref().map_or("missing".to_owned(), |it| format!("{:?}", clip(it)));
        return Err(EventError::unreadable(
            format!("Records[{index}].eventSource"),
            format!("is {found}, not \"aws:sqs\""),
        ));
    }
    let message_id = record.message_id.filter(|id| !id.is_empty()).ok_or_else(|| {
        EventError::unreadable(
            format!("Records[{index}].messageId"),
            "is missing: the message could not be reported as failed",
        )
    })?;
    let receives = record.attributes.get("ApproximateReceiveCount").and_then(|count| count.parse().ok()).unwrap_or(1);
    let body = record.body.unwrap_or_default();
    Ok(Message { message_id, receives, request: read_event(&body, region) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::event::tests::{A, REGION, event};
    use crate::event::{Invocation, read};

    #[test]
    fn a_message_that_is_refused_leaves_its_neighbours_alone() {
        let good =
            event("EC2 Instance State-change Notification", &json!({"instance-id": A, "state": "running"})).to_string();
        let record = |id: &str, body: &str| json!({"eventSource": "aws:sqs", "messageId": id, "body": body});
        let batch = json!({"Records": [record("1", &good), record("2", "no"), record("3", &good)]}).to_string();
        let Invocation::Batch(messages) = read(&batch, REGION).unwrap() else { panic!("a batch") };
        assert_eq!(messages.iter().map(|it| it.request.is_ok()).collect::<Vec<_>>(), [true, false, true]);
    }

    #[test]
    fn an_event_that_has_no_records_is_no_batch() {
        for records in [json!(null), json!("absent")] {
            let mut event = event("Scheduled Event", &json!({"Records": []}));
            if records.is_null() {
                event["Records"] = records;
            }
            assert!(matches!(read(&event.to_string(), REGION), Ok(Invocation::Event(_))), "{event}");
        }
    }
}
