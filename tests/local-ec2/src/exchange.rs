//! One request to EC2 and its reply, with the fault that strikes it: what a server sends, and what
//! a test without sockets and with a clock of its own gets.

use std::time::{Duration, Instant};

use crate::answer::Error;
use crate::fault::{Fault, Kind};
use crate::model::{Call, Model};
use crate::query::Parameters;

/// What comes of a request, and how long after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// How much later than the request it comes.
    pub delay: Duration,
    /// Status and body, or `None` where the connection ends without an answer.
    pub answer: Option<(u16, String)>,
}

/// Does at `now` what a request's form asks for, or what a fault has in store for it. `signed`
/// says whether it carries a signature; whether that is right is not checked.
pub fn reply(form: &[u8], signed: bool, model: &mut Model, now: Instant) -> Reply {
    let parameters = Parameters::parse(form);
    let action = parameters.get("Action").unwrap_or("none").to_owned();
    let fault = model.faults.strike(&action, parameters.get("InstanceId"));
    let takes_effect = fault.as_ref().is_none_or(|it| it.after_effect || matches!(it.kind, Kind::Delay { .. }));

    let answer = if !signed {
        Err(Error::new("AuthFailure", "The request is not signed with Signature Version 4"))
    } else if action == "none" {
        Err(Error::new("MissingAction", "The request is missing an action or operation parameter."))
    } else if takes_effect {
        model.call(&action, &parameters, now)
    } else {
        Err(Error::new("InternalError", "This answer is replaced by a fault"))
    };
    let answer = match &fault {
        Some(Fault { kind: Kind::Error { code, status }, .. }) => {
            Err(Error { status: *status, ..Error::new(code, "A fault was injected") })
        }
        _ => answer,
    };
    let error = answer.as_ref().err().map(|error| error.code.clone());
    model.calls.push(Call { action: action.clone(), parameters, error });

    let request_id = format!("00000000-0000-0000-0000-{:012}", model.calls.len());
    let answer = match answer {
        Ok(answer) => (200, answer.to_xml(&action, &request_id)),
        Err(error) => (error.status, error.to_xml(&request_id)),
    };
    let (delay, answer) = match fault.map(|fault| fault.kind) {
        None | Some(Kind::Error { .. }) => (model.latency, Some(answer)),
        Some(Kind::Delay { milliseconds }) => (Duration::from_millis(milliseconds), Some(answer)),
        Some(Kind::Hang { milliseconds }) => (Duration::from_millis(milliseconds), None),
        Some(Kind::DropConnection) => (model.latency, None),
        Some(Kind::Body { status, text }) => (model.latency, Some((status, text))),
    };
    Reply { delay, answer }
}
