//! What a sweep found, as one event for the bus: numbers, and of each kind a few by name.
//!
//! Pure. It takes bounded memory and stays below the size of an event whatever the account has: what
//! there is no room for is counted.

use std::collections::{BTreeMap, BTreeSet};

use chrono::NaiveDate;
use serde::Serialize;

use super::result_event::{CODE_CHARS, ResultEvent, SCHEMA_VERSION, Setting, Summary, cut};
use crate::cause::Cause;
use crate::report::{Counts, Failure, InstanceReport, Outcome, Watched};

/// EventBridge's `detail-type` of a digest.
pub const DETAIL_TYPE: &str = "IMDS Sweep Digest";

/// Most causes that a digest names, those with the most instances, and most that are told apart while
/// the sweep goes on.
const CAUSES: usize = 50;
const CAUSES_APART: usize = 1000;

/// Most exemptions that a digest names: those that end first.
const EXEMPTIONS: usize = 100;

/// Most error codes that a digest names, and most instances of each.
const CODES: usize = 20;
const IDS: usize = 5;

/// Most characters of the name of what is to be mended: a tag's value has no more.
const NAME_CHARS: usize = 256;

/// Most characters of an error's message.
const MESSAGE_CHARS: usize = 512;

/// What a sweep found so far.
#[derive(Debug, Clone, Default)]
pub struct Digest {
    /// The violators by kind of cause and what they belong to.
    causes: BTreeMap<(&'static str, Option<String>), usize>,
    other_causes: usize,
    exemptions: BTreeSet<(NaiveDate, String)>,
    other_exemptions: usize,
    refusals: BTreeMap<String, Refusal>,
    other_refusals: usize,
}

/// The refusals of one error code.
#[derive(Debug, Clone, Serialize)]
struct Refusal {
    code: String,
    count: usize,
    message: String,
    instance_ids: Vec<String>,
}

/// How many violators have this cause.
#[derive(Serialize)]
struct CauseCount<'a> {
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    belongs_to: Option<&'a str>,
    count: usize,
}

#[derive(Serialize)]
struct ExemptInstance<'a> {
    instance_id: &'a str,
    until: NaiveDate,
}

#[derive(Serialize)]
struct Detail<'a> {
    schema_version: &'static str,
    result_id: Option<String>,
    #[serde(flatten)]
    setting: Setting<'a>,
    counts: Counts,
    causes: Vec<CauseCount<'a>>,
    other_causes: usize,
    exemptions: Vec<ExemptInstance<'a>>,
    other_exemptions: usize,
    refusals: Vec<&'a Refusal>,
    other_refusals: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    watch: Option<Watched>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
    summary: Summary,
}

impl Digest {
    /// Adds what became of one instance.
    pub fn add(&mut self, instance: &InstanceReport) {
        let cause = instance.details.cause.as_deref();
        match &instance.outcome {
            Outcome::Enforced { .. }
            | Outcome::WouldEnforce { .. }
            | Outcome::CreatedBefore { .. }
            | Outcome::Managed { .. }
            | Outcome::InUse { .. } => self.add_cause(cause),
            Outcome::Exempt { .. } => {
                self.add_cause(cause);
                self.add_exemption(instance);
            }
            Outcome::Failed { error, .. } => {
                self.add_cause(cause);
                self.add_refusal(instance, error);
            }
            Outcome::Compliant { .. } | Outcome::EndpointDisabled { .. } | Outcome::Gone { .. } | Outcome::NotFound => {
            }
        }
    }

    fn add_cause(&mut self, cause: Option<&Cause>) {
        let Some(cause) = cause else { return };
        let key = (cause.kind.as_str(), cause.belongs_to().map(|it| cut(it, NAME_CHARS)));
        let is_full = self.causes.len() >= CAUSES_APART;
        match self.causes.get_mut(&key) {
            Some(count) => *count += 1,
            None if is_full => self.other_causes += 1,
            None => {
                self.causes.insert(key, 1);
            }
        }
    }

    fn add_exemption(&mut self, instance: &InstanceReport) {
        let Some(exemption) = &instance.details.exemption else { return };
        self.exemptions.insert((exemption.until, instance.instance_id.clone()));
        if self.exemptions.len() > EXEMPTIONS && self.exemptions.pop_last().is_some() {
            self.other_exemptions += 1;
        }
    }

    fn add_refusal(&mut self, instance: &InstanceReport, error: &Failure) {
        if error.retryable {
            return;
        }
        let code = cut(&error.code, CODE_CHARS);
        if self.refusals.len() >= CODES && !self.refusals.contains_key(&code) {
            self.other_refusals += 1;
            return;
        }
        let refusal = self.refusals.entry(code).or_insert_with_key(|code| Refusal {
            code: code.clone(),
            count: 0,
            message: cut(&error.message, MESSAGE_CHARS),
            instance_ids: Vec::new(),
        });
        refusal.count += 1;
        if refusal.instance_ids.len() < IDS {
            refusal.instance_ids.push(instance.instance_id.clone());
        }
    }

    /// The event of a sweep that ended with these counts, what its watch found, and the failure of its
    /// look-up.
    #[must_use]
    pub fn event(
        &self,
        setting: Setting,
        counts: &Counts,
        watch: Option<&Watched>,
        error: Option<&Failure>,
    ) -> Option<ResultEvent> {
        let (causes, not_named) = self.most_frequent_causes();
        let exemptions = self.exemptions.iter();
        let error = error.map(bounded);
        let detail = Detail {
            schema_version: SCHEMA_VERSION,
            result_id: setting.result_id("digest"),
            setting,
            counts: *counts,
            summary: summary(setting, counts, &causes, error.as_ref()),
            causes,
            other_causes: self.other_causes + not_named,
            exemptions: exemptions.map(|(until, instance_id)| ExemptInstance { instance_id, until: *until }).collect(),
            other_exemptions: self.other_exemptions,
            refusals: self.refusals.values().collect(),
            other_refusals: self.other_refusals,
            watch: watch.map(|watch| Watched { error: watch.error.as_ref().map(bounded), ..watch.clone() }),
            error,
        };
        ResultEvent::new(DETAIL_TYPE, &detail)
    }

    /// The causes of the most violators, the most frequent first, and how many have another.
    fn most_frequent_causes(&self) -> (Vec<CauseCount<'_>>, usize) {
        let counts = self.causes.iter();
        let mut causes: Vec<_> = counts
            .map(|((kind, belongs_to), count)| CauseCount { kind, belongs_to: belongs_to.as_deref(), count: *count })
            .collect();
        causes.sort_by_key(|cause| std::cmp::Reverse(cause.count));
        let others = causes.iter().skip(CAUSES).map(|cause| cause.count).sum();
        causes.truncate(CAUSES);
        (causes, others)
    }
}

/// A failure whose texts fit.
fn bounded(failure: &Failure) -> Failure {
    let Failure { code, message, retryable } = failure;
    Failure { code: cut(code, CODE_CHARS), message: cut(message, MESSAGE_CHARS), retryable: *retryable }
}

fn summary(setting: Setting, counts: &Counts, causes: &[CauseCount], error: Option<&Failure>) -> Summary {
    let what = match error {
        None => format!("a sweep: {counts}"),
        Some(error) => format!("a sweep: {counts}; looking up all instances failed: {error}"),
    };
    let cause = |it: &CauseCount| format!("{} of {} {}", it.count, it.kind, it.belongs_to.unwrap_or_default());
    let causes: Vec<_> = causes.iter().take(IDS).map(cause).collect();
    let causes = if causes.is_empty() { "none".to_owned() } else { causes.join(", ") };
    Summary::new(&what, "nobody: it runs by its schedule", setting.region, &causes, None)
}
