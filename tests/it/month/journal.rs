//! What is written down while a simulation goes on: launches, invocations, what the function logged
//! and published, and every metric.

use std::collections::{BTreeMap, BTreeSet};

use imds_enforcer::config::Mode;
use imds_enforcer::enforce::{Answer, InvocationError};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::account::{Launch, Maker};
use super::metrics::Metrics;
use super::pattern;
use super::record::RECORDED;
use super::simulation::seconds;
use super::template::Deployment;
use super::truth::Truth;
use crate::harness::log_text;

/// One launch of the month, and what it cost.
#[derive(Debug)]
pub(crate) struct LaunchNote {
    pub(crate) began: Instant,
    pub(crate) maker: &'static Maker,
    pub(crate) ids: Vec<String>,
    /// Whether EC2 refuses to change its instances while they are pending.
    pub(crate) is_slow: bool,
    /// Whether CloudTrail's event of it was delivered.
    pub(crate) is_recorded: bool,
    /// Describes of invocations that were about nothing else.
    pub(crate) describes: usize,
    /// Whether an invocation was about another as well, or EC2 was not well.
    pub(crate) is_shared: bool,
}

/// What an invocation looked up that was not about a large launch.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) events: usize,
    pub(crate) describes: usize,
    pub(crate) writes: usize,
    pub(crate) is_calm: bool,
}

/// What is written down.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(crate) begin: Instant,
    pub(crate) mode: Mode,
    pub(crate) launches: Vec<LaunchNote>,
    pub(crate) metrics: Metrics,
    pub(crate) batches: Vec<Batch>,
    pub(crate) invocations: usize,
    /// Most instances that one sweep enforced.
    pub(crate) most_swept: usize,
    /// Results by detail-type.
    pub(crate) results: BTreeMap<String, usize>,
    /// Messages to people, each with its detail-type and its time in seconds since 1970.
    pub(crate) messages: Vec<(String, i64)>,
    pub(crate) log_bytes: usize,
    /// Lines of the log that say who left an instance open that is mended already.
    pub(crate) attributions: usize,
}

impl Journal {
    pub(crate) fn new(begin: Instant, mode: Mode) -> Self {
        Self {
            begin,
            mode,
            launches: Vec::new(),
            metrics: Metrics::default(),
            batches: Vec::new(),
            invocations: 0,
            most_swept: 0,
            results: BTreeMap::new(),
            messages: Vec::new(),
            log_bytes: 0,
            attributions: 0,
        }
    }

    /// Writes a launch down, and answers its number.
    pub(crate) fn begin_launch(&mut self, launch: &Launch, began: Instant) -> usize {
        let ids = launch.ids.clone();
        self.launches.push(LaunchNote {
            began,
            maker: launch.maker,
            ids,
            is_slow: self.launches.len() % 7 == 3,
            is_recorded: false,
            describes: 0,
            is_shared: false,
        });
        self.launches.len() - 1
    }

    pub(crate) fn recorded(&mut self, launch: usize, is_recorded: bool) {
        self.launches[launch].is_recorded = is_recorded;
    }

    /// Writes down what an invocation was about and how often it described.
    pub(crate) fn invoked(
        &mut self,
        launches: impl Iterator<Item = Option<usize>>,
        (describes, writes): (usize, usize),
        is_batch: bool,
        is_calm: bool,
    ) {
        let launches: Vec<_> = launches.collect();
        self.invocations += 1;
        let is_of_a_large = launches.iter().flatten().any(|launch| self.launches[*launch].ids.len() > RECORDED);
        if is_batch && !is_of_a_large {
            self.batches.push(Batch { events: launches.len(), describes, writes, is_calm });
        }
        let distinct: BTreeSet<_> = launches.iter().collect();
        for launch in launches.iter().collect::<BTreeSet<_>>().into_iter().flatten() {
            let note = &mut self.launches[*launch];
            note.describes += describes;
            note.is_shared |= distinct.len() > 1 || !is_calm;
        }
    }

    /// Writes down how many instances an event that names none enforced.
    pub(crate) fn swept(&mut self, answer: Option<&Result<Answer, InvocationError>>) {
        if let Some(Ok(Answer::Report(report)) | Err(InvocationError::Incomplete(report))) = answer
            && report.event.name == "Scheduled Event"
        {
            self.most_swept = self.most_swept.max(report.counts.enforced);
        }
    }

    /// Reads what the function has logged since it was read last.
    pub(crate) fn read_log(&mut self, truth: &mut Truth) {
        for line in log_text().lines() {
            if line.contains("\"target\":\"imds_enforcer::metrics\"") {
                let line: Value = serde_json::from_str(line).unwrap();
                let document = line["message"].as_str().unwrap();
                self.log_bytes += document.len() + 1;
                self.metrics.add_embedded(&serde_json::from_str(document).unwrap());
                continue;
            }
            if !line.contains("\"target\":\"imds_enforcer") {
                continue;
            }
            self.log_bytes += line.len() + 1;
            self.attributions += usize::from(line.contains("\"message\":\"tokens were not required\""));
            if line.contains("\"instance_id\"") && !line.contains("\"outcome\":\"exempt\"") {
                read_line(&serde_json::from_str(line).unwrap(), truth);
            }
        }
    }

    /// Writes down what was published, and what of it became a message to people.
    pub(crate) fn published(&mut self, results: Vec<(String, String)>, deployment: &Deployment) {
        for (detail_type, detail) in results {
            let detail: Value = serde_json::from_str(&detail).unwrap();
            let event = json!({"source": "imds-enforcer", "detail-type": detail_type, "detail": detail});
            let rules = deployment.rules.iter().filter(|rule| rule.bus.is_some());
            let patterns = rules.filter_map(|rule| rule.pattern.as_ref());
            for _ in patterns.filter(|pattern| pattern::matches(pattern, &event)) {
                self.messages.push((detail_type.clone(), seconds(Instant::now())));
            }
            *self.results.entry(detail_type).or_default() += 1;
        }
    }
}

/// Who is known to have left an instance open, and whose it is, by a line about it.
fn read_line(line: &Value, truth: &mut Truth) {
    let fact = line["instance_id"].as_str().and_then(|id| truth.facts.get_mut(id));
    let (Some(fact), Some(outcome)) = (fact, line["outcome"].as_str()) else { return };
    fact.actor_known |= line["actor"].as_str().is_some_and(|actor| actor != "unknown");
    if matches!(outcome, "enforced" | "would_enforce") {
        fact.owner_at_once.get_or_insert(line["cause"] != "unknown");
    }
}
