//! Any bytes as the payload of an invocation: they are read as an event, or refused with a reason.

#![no_main]

#[path = "../../../src/event/mod.rs"]
#[expect(unused_imports, reason = "a part of the function, of which the rest is not here")]
mod event;
#[path = "../../../src/instance.rs"]
#[expect(dead_code, reason = "a part of the function, of which the rest is not here")]
mod instance;

use event::{Call, Invocation, Request};
use libfuzzer_sys::fuzz_target;

/// Longest text that a refusal may have: it ends in logs and in the attributes of dead letters.
const REFUSAL_BYTES: usize = 16 * 1024;

fuzz_target!(|payload: &[u8]| {
    let Ok(json) = std::str::from_utf8(payload) else { return };
    match event::read(json, "us-east-1") {
        Ok(Invocation::Event(request)) => check(&request),
        Ok(Invocation::Batch(messages)) => {
            for message in messages {
                assert!(!message.message_id.is_empty());
                message.request.map_or_else(|refusal| check_refusal(&refusal), |request| check(&request));
            }
        }
        Err(refusal) => check_refusal(&refusal),
    }
});

/// An event asks for something, or there is a reason why it does not.
fn check(request: &Request) {
    match &request.targets {
        Ok(targets) => assert!(targets.violators.is_some() || !targets.named.is_empty()),
        Err(ignored) => assert!(!ignored.to_string().is_empty()),
    }
    if let Some(origin) = &request.origin {
        assert!(!origin.call.loosens() || matches!(origin.call, Call::ModifyInstanceMetadataOptions { .. }));
        assert!(origin.caller.source_address.as_ref().is_none_or(|it| it.chars().count() <= 2048));
    }
}

fn check_refusal(refusal: &event::EventError) {
    let refusal = refusal.to_string();
    assert!(!refusal.is_empty() && refusal.len() <= REFUSAL_BYTES, "{} bytes", refusal.len());
}
