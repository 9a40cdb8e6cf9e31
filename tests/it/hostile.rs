//! Input that nobody means well with: the fuzzer's corpus, whole handler and all, and what is too
//! deep, too long or too many.

use imds_enforcer::config::Mode;
use imds_enforcer::enforce::{Answer, Enforcer, Settings};

use crate::fake::FakeEc2;
use crate::harness::*;

/// Handles a payload on an EC2 that knows nothing, and answers the error type, if there is one.
async fn error_type(payload: &str) -> Option<&'static str> {
    let ec2 = FakeEc2::default();
    let enforcer = Enforcer::new(&ec2, clock, Settings { waits: Vec::new(), ..defaults(Mode::Enforce) });
    let result = enforcer.handle(payload, in_a_minute()).await;
    if let Ok(Answer::Report(report)) = &result {
        assert!(report.ignored.is_some() || report.counts.examined == report.counts.not_found, "{report}");
    }
    result.err().map(|error| {
        assert!(error.to_string().len() < 100_000, "the message of an error stays short");
        error.error_type()
    })
}

#[tokio::test]
async fn every_input_that_fuzzing_found_is_answered() {
    let corpus = root().join("tests/fuzz/corpus/event");
    let files: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() > 100, "{} files", files.len());
    for file in files {
        let payload = std::fs::read(&file).unwrap();
        let error_type = error_type(&String::from_utf8_lossy(&payload)).await;
        let known = ["UnreadableEvent", "WrongRegion", "EnforcementIncomplete"];
        assert!(error_type.is_none_or(|it| known.contains(&it)), "{}: {error_type:?}", file.display());
    }
}

#[tokio::test]
async fn depth_length_and_number_are_refused_or_read_but_never_too_much() {
    let event = |detail: &str| {
        format!(
            r#"{{"detail-type":"AWS API Call via CloudTrail","source":"aws.ec2","region":"{REGION}","detail":{detail}}}"#
        )
    };
    let deep = format!("{}1{}", "[".repeat(500_000), "]".repeat(500_000));
    let long = "x".repeat(1_000_000);
    let run = |response: &str| event(&format!(r#"{{"eventName":"RunInstances","responseElements":{response}}}"#));
    for (payload, expected) in [
        ("[".repeat(1_000_000), Some("UnreadableEvent")),
        (deep.clone(), Some("UnreadableEvent")),
        (event(&deep), Some("UnreadableEvent")),
        (run(&deep), None),
        (event(&format!(r#"{{"eventName":"{long}"}}"#)), None),
        (run(&format!(r#"{{"instancesSet":{{"items":[{{"instanceId":"{long}"}}]}}}}"#)), Some("UnreadableEvent")),
        (run(&format!(r#"{{"instancesSet":{{"items":[{}1]}}}}"#, "1,".repeat(400_000))), None),
        (format!(r#"{{"Records":[{}1]}}"#, "1,".repeat(400_000)), Some("UnreadableEvent")),
        (format!(r#"{{"Records":[{}null]}}"#, "null,".repeat(200_000)), Some("UnreadableEvent")),
    ] {
        assert_eq!(error_type(&payload).await, expected, "{}…", &payload[..100]);
    }
}
