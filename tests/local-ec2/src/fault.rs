//! Faults to be injected into the next calls of an action.

use serde::{Deserialize, Serialize};

/// One fault, and when it strikes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The action it strikes.
    pub action: String,
    /// Only calls that name this instance.
    #[serde(default)]
    pub instance_id: Option<String>,
    /// How many calls it strikes; without a number, all.
    #[serde(default)]
    pub times: Option<u32>,
    /// Whether the call takes effect although it fails.
    #[serde(default)]
    pub after_effect: bool,
    /// What happens.
    pub kind: Kind,
}

/// What a fault does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Kind {
    /// An error in EC2's form.
    Error {
        /// EC2's error code.
        code: String,
        /// The HTTP status.
        status: u16,
    },
    /// The right answer, late.
    Delay {
        /// By how much.
        milliseconds: u64,
    },
    /// No answer: after a while the connection is closed.
    Hang {
        /// After how long.
        milliseconds: u64,
    },
    /// The connection is closed at once, without an answer.
    DropConnection,
    /// This in place of EC2's answer.
    Body {
        /// The HTTP status.
        #[serde(default = "ok")]
        status: u16,
        /// What stands in place of XML.
        text: String,
    },
}

fn ok() -> u16 {
    200
}

/// The faults that have not yet struck.
#[derive(Debug, Default)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// Adds a fault; of several that fit a call, the oldest strikes.
    pub fn add(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    /// Forgets all faults.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The fault that strikes a call of `action` on `instance_id`, counted as struck.
    pub fn strike(&mut self, action: &str, instance_id: Option<&str>) -> Option<Fault> {
        let fits = |fault: &Fault| {
            fault.action == action
                && fault.times != Some(0)
                && (fault.instance_id.is_none() || fault.instance_id.as_deref() == instance_id)
        };
        let fault = self.0.iter_mut().find(|fault| fits(fault))?;
        fault.times = fault.times.map(|times| times - 1);
        Some(fault.clone())
    }
}
