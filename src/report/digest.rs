//! What a sweep found, as one event for the bus: numbers, and of each kind a few by name.
//!
//! Pure. It takes bounded memory and stays below the size of an event whatever the account has: what
//! there is no room for is counted.

use std::collections::{BTreeMap, BTreeSet};

use chrono::NaiveDate;
use serde::Serialize;

use super::result_event::{CODE_CHARS, ResultEvent, Setting, Summary, cut, cut_failure};
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

/// What a digest tells.
#[derive(Serialize)]
struct Told<'a> {
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
        let summary = summary(setting, counts, &causes, error.as_ref());
        let told = Told {
            counts: *counts,
            causes,
            other_causes: self.other_causes + not_named,
            exemptions: exemptions.map(|(until, instance_id)| ExemptInstance { instance_id, until: *until }).collect(),
            other_exemptions: self.other_exemptions,
            refusals: self.refusals.values().collect(),
            other_refusals: self.other_refusals,
            watch: watch.map(|watch| Watched { error: watch.error.as_ref().map(bounded), ..watch.clone() }),
            error,
        };
        ResultEvent::new(DETAIL_TYPE, setting, "digest", &told, summary)
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
    cut_failure(failure, MESSAGE_CHARS)
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cause::cause;
    use crate::config::Mode;
    use crate::event::EventSummary;
    use crate::instance::{Instance, InstanceState, MetadataOptions};
    use crate::policy::exemption::Exemption;
    use crate::report::Details;
    use crate::report::tests::every_outcome;

    /// An instance of an Auto Scaling group.
    fn of_group(n: usize, group: &str, outcome: Outcome) -> InstanceReport {
        let described = Instance {
            tags: [("aws:autoscaling:groupName".to_owned(), group.to_owned())].into(),
            ..Instance::new("i-1a2b3c4d".parse().unwrap(), InstanceState::Running, MetadataOptions::default())
        };
        let cause = Some(Box::new(cause(&described, None, "us-east-1")));
        let details = Details { cause, ..Details::default() };
        InstanceReport { details, ..InstanceReport::new(&format!("i-{n:017x}"), outcome) }
    }

    fn would_enforce() -> Outcome {
        Outcome::WouldEnforce { before: MetadataOptions::default() }
    }

    fn failed(code: &str, message: &str, retryable: bool) -> Outcome {
        let error = Failure { code: code.to_owned(), message: message.to_owned(), retryable };
        Outcome::Failed { before: None, error }
    }

    fn exempt(n: usize, until: &str) -> InstanceReport {
        let mut instance = of_group(n, "a", Outcome::Exempt { before: MetadataOptions::default() });
        instance.details.exemption = Some(Exemption { until: until.parse().unwrap(), reason: None });
        instance
    }

    /// The detail of a digest of these instances, and its size.
    fn digest(instances: impl IntoIterator<Item = InstanceReport>, error: Option<&Failure>) -> (Value, usize) {
        let mut digest = Digest::default();
        instances.into_iter().for_each(|instance| digest.add(&instance));
        let event = EventSummary { id: Some("event-1".to_owned()), ..EventSummary::default() };
        let setting = Setting { mode: Mode::Observe, region: "us-east-1", event: &event };
        let watch = Watched { refusing: Some(2), in_hours: 1, error: error.cloned() };
        let counts = Counts { examined: 7, left_over: 3, ..Counts::default() };
        let event = digest.event(setting, &counts, Some(&watch), error).unwrap();
        assert_eq!(event.detail_type, DETAIL_TYPE);
        (serde_json::from_str(&event.detail).unwrap(), event.bytes())
    }

    #[test]
    fn causes_are_counted_and_the_most_frequent_named() {
        let groups = (0..60).flat_map(|n| (0..=n).map(move |_| of_group(n, &format!("group-{n}"), would_enforce())));
        let compliant = of_group(0, "fine", Outcome::Compliant { before: MetadataOptions::default() });
        let (detail, _) = digest(groups.chain([compliant]), None);
        let causes = detail["causes"].as_array().unwrap();
        assert_eq!(causes[0], json!({"kind": "auto_scaling_group", "belongs_to": "group-59", "count": 60}));
        assert_eq!((causes.len(), &detail["other_causes"]), (50, &json!((1..=10).sum::<usize>())));
        assert_eq!((&detail["result_id"], &detail["counts"]["left_over"]), (&json!("event-1/digest"), &json!(3)));
        assert!(detail["summary"]["cause"].as_str().unwrap().starts_with("60 of auto_scaling_group group-59, "));
        assert!(detail["summary"]["what"].as_str().unwrap().contains("3 left to the next sweep"), "{detail}");
    }

    #[test]
    fn the_exemptions_that_end_first_are_named() {
        let late = (0..150).map(|n| exempt(n, "2026-12-31"));
        let (detail, _) = digest(late.chain([exempt(200, "2026-11-03")]), None);
        assert_eq!(detail["exemptions"][0], json!({"instance_id": format!("i-{:017x}", 200), "until": "2026-11-03"}));
        assert_eq!((detail["exemptions"].as_array().unwrap().len(), &detail["other_exemptions"]), (100, &json!(51)));
    }

    #[test]
    fn refusals_are_counted_by_code_and_what_may_be_tried_again_is_none() {
        let refused = (0..9).map(|n| of_group(n, "a", failed("UnauthorizedOperation", "no", false)));
        let others = (0..30).map(|n| of_group(n, "a", failed(&format!("Code{n:02}"), "no", false)));
        let throttled = of_group(0, "a", failed("RequestLimitExceeded", "no", true));
        let (detail, _) = digest(refused.chain(others).chain([throttled]), None);
        let refusals = detail["refusals"].as_array().unwrap();
        let refusal = refusals.iter().find(|it| it["code"] == "UnauthorizedOperation").unwrap();
        assert_eq!((&refusal["count"], refusal["instance_ids"].as_array().unwrap().len()), (&json!(9), 5));
        assert_eq!((refusals.len(), &detail["other_refusals"]), (20, &json!(11)));
        assert!(refusals.iter().all(|it| it["code"] != "RequestLimitExceeded"));
    }

    #[test]
    fn a_digest_is_bounded_whatever_the_account_has() {
        let endless = "\u{1}\"ü".repeat(10_000);
        let of_account = |n: usize| {
            let group = format!("{n}{endless}");
            let mut instances: Vec<_> =
                every_outcome(Failure { code: group.clone(), message: endless.clone(), retryable: false })
                    .into_iter()
                    .map(|outcome| of_group(n, &group, outcome))
                    .collect();
            instances.push(exempt(n, "2026-12-31"));
            instances
        };
        let error = Failure { code: endless.clone(), message: endless.clone(), retryable: false };
        let (detail, bytes) = digest((0..1200).flat_map(of_account), Some(&error));
        assert!(bytes <= 240 * 1024, "{bytes} bytes");
        assert_eq!(detail["watch"]["refusing"], 2);
        let named = detail["causes"].as_array().unwrap().iter().map(|it| it["count"].as_u64().unwrap()).sum::<u64>();
        let violators_of_each = 8;
        assert_eq!(named + detail["other_causes"].as_u64().unwrap(), 1200 * violators_of_each, "none is lost");
    }
}
