//! EventBridge's event patterns, as far as the templates use them. What is not known here is a
//! panic, never a match or none.

use serde_json::Value;

/// Whether an event matches a pattern.
pub(crate) fn matches(pattern: &Value, event: &Value) -> bool {
    pattern.as_object().unwrap().iter().all(|(key, expected)| match (key.as_str(), expected) {
        ("$or", Value::Array(patterns)) => patterns.iter().any(|pattern| matches(pattern, event)),
        (key, Value::Array(allowed)) => allowed.iter().any(|one| allows(one, event.get(key))),
        (key, inner) => matches(inner, event.get(key).unwrap_or(&Value::Null)),
    })
}

/// Whether one alternative of a pattern allows what stands there; of a list, any item.
fn allows(alternative: &Value, found: Option<&Value>) -> bool {
    if let Some(exists) = alternative.get("exists") {
        let is_there = found.is_some_and(|it| !it.is_object());
        return exists.as_bool().unwrap() == is_there;
    }
    match found {
        None => false,
        Some(Value::Array(items)) => items.iter().any(|item| allows(alternative, Some(item))),
        Some(value) => allows_value(alternative, value),
    }
}

fn allows_value(alternative: &Value, value: &Value) -> bool {
    let Some((word, argument)) = alternative.as_object().and_then(|it| it.iter().next()) else {
        return alternative == value;
    };
    match word.as_str() {
        "anything-but" => {
            assert!(!argument.is_object(), "anything-but {argument} is not known here");
            argument.as_array().map_or(argument != value, |words| !words.contains(value))
        }
        "prefix" => value.as_str().is_some_and(|text| text.starts_with(argument.as_str().unwrap())),
        other => panic!("{other} is not known here"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pattern_is_matched_as_eventbridge_documents_it() {
        let event = json!({"source": "aws.ec2", "detail": {"state": "running", "errorCode": null, "n": [1, 2]}});
        for (pattern, expected) in [
            (json!({"source": ["aws.ec2"]}), true),
            (json!({"source": ["aws.s3"]}), false),
            (json!({"source": ["aws.ec2"], "detail": {"state": ["pending", "running"]}}), true),
            (json!({"detail": {"errorCode": [{"exists": false}, null, ""]}}), true),
            (json!({"detail": {"errorCode": [{"exists": false}]}}), false),
            (json!({"detail": {"other": {"deep": [{"exists": false}]}}}), true),
            (json!({"detail": {"other": {"deep": [{"anything-but": "x"}]}}}), false),
            (json!({"detail": {"state": [{"anything-but": "running"}]}}), false),
            (json!({"detail": {"state": [{"anything-but": ["pending"]}]}}), true),
            (json!({"detail": {"n": [2]}}), true),
            (json!({"detail": {"$or": [{"state": ["stopped"]}, {"n": [1]}]}}), true),
            (json!({"detail": {"$or": [{"state": ["stopped"]}, {"n": [3]}]}}), false),
        ] {
            assert_eq!(matches(&pattern, &event), expected, "{pattern}");
        }
    }
}
