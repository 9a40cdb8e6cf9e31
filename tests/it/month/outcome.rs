//! What comes out of a simulation: the rows of the table, and the budgets that they are held to.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use imds_enforcer::config::Mode;
use imds_enforcer::report::metrics::NAMESPACE;
use tokio::time::Instant;

use super::clock;
use super::journal::{Batch, Journal, LaunchNote};
use super::metrics::Fired;
use super::record::RECORDED;
use super::simulation::{Simulation, seconds};
use super::truth::{Fact, Limits, Truth, Wrong};
use crate::harness::{DESCRIBE, MODIFY};

/// After how long an instance that is still open counts as lost.
const LOST_AFTER: Duration = Duration::from_hours(2);

/// After how long an event has been delivered, and handled by a function that is not held up.
const ARRIVES_WITHIN: Duration = Duration::from_mins(30);

/// What came out of a simulation.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) name: &'static str,
    days: u64,
    /// In how many hours each metric of the function was sent.
    metric_hours: BTreeMap<String, usize>,
    launches: usize,
    instances: usize,
    /// From creation to enforcement, sorted.
    exposures: Vec<Duration>,
    exposures_of_the_thousand: Vec<Duration>,
    /// From a change that loosened to enforcement, sorted.
    mended: Vec<Duration>,
    /// Launches that left instances open and that CloudTrail delivered, and those whose actor is known.
    actors: (usize, usize),
    /// Instances of tagged launches, and those whose owner was known at once.
    owners: (usize, usize),
    /// Describes of each launch that shared no invocation with another, of those that EC2 refused
    /// to change while they were pending, and of those that a policy denies to change.
    lone_describes: [Vec<usize>; 3],
    /// Batches while EC2 was well, their describes, and how many these may be: one each, and one for
    /// each fifteen of its writes.
    batches: (usize, usize, usize),
    /// Calls by action, those that were throttled, and the most in five minutes.
    calls: BTreeMap<&'static str, (usize, usize, usize)>,
    wrong: BTreeMap<Wrong, usize>,
    most_swept: usize,
    pace: Option<usize>,
    lost: usize,
    dead_letters: usize,
    results: BTreeMap<String, usize>,
    messages: BTreeMap<String, usize>,
    writes: usize,
    attributions: usize,
    quiet_messages: usize,
    log_bytes_a_day: usize,
    alarms: BTreeMap<String, Fired>,
    quiet_alarms: Vec<String>,
}

/// What the month is held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Budget {
    Actors,
    Owners,
    LoneDescribes,
    BatchDescribes,
    WrongWrites,
    Lost,
    DeadLetters,
    QuietAlarms,
    QuietMessages,
    Messages,
    Exposure,
    Pace,
    DescribesOfNodes,
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Actors => "the actor of 95 % of the launches that CloudTrail delivered",
            Self::Owners => "the owner of 95 % of the tagged instances at once",
            Self::LoneDescribes => "three describes for a lone launch",
            Self::BatchDescribes => "one describe for a batch",
            Self::WrongWrites => "no write that should not be",
            Self::Lost => "no instance lost",
            Self::DeadLetters => "no dead letter",
            Self::QuietAlarms => "no alarm in a quiet week",
            Self::QuietMessages => "no message in a quiet week",
            Self::Messages => "a message for each enforcement, attribution and refusal at most",
            Self::Pace => "no sweep enforces more than the pace",
            Self::DescribesOfNodes => "250 describes for a thousand launches in a minute",
            Self::Exposure => "half of the launches enforced within half a minute",
        })
    }
}

impl Outcome {
    /// What came out of a simulation.
    pub(crate) fn of(name: &'static str, simulation: &Simulation) -> Self {
        let journal = &simulation.journal;
        let truth = simulation.account.truth();
        let facts = &truth.facts;
        let is_small = |note: &&LaunchNote| note.ids.len() <= RECORDED;
        let (small, large): (Vec<_>, Vec<_>) = journal.launches.iter().partition(is_small);
        let quiet = (seconds(simulation.quiet.0), seconds(simulation.quiet.1));
        let alarms = alarms(simulation);
        let was_on = |(name, fired): (&String, &Fired)| fired.was_on_between(quiet.0, quiet.1).then(|| name.clone());
        let quiet_messages = journal.messages.iter().filter(|(_, at)| (quiet.0..quiet.1).contains(at));
        Self {
            name,
            days: simulation.days,
            metric_hours: journal.metrics.hours(NAMESPACE),
            launches: journal.launches.len(),
            instances: journal.launches.iter().map(|it| it.ids.len()).sum(),
            exposures: exposures(journal.mode, &small, facts),
            exposures_of_the_thousand: exposures(journal.mode, &large, facts),
            mended: sorted(truth.mended.clone()),
            actors: actors(&journal.launches, facts),
            owners: owners(&journal.launches, facts),
            lone_describes: lone_describes(&small, facts),
            batches: batches(simulation),
            calls: [DESCRIBE, MODIFY].map(|action| (action, calls(&truth, action))).into(),
            wrong: count(truth.wrong.iter().map(|(wrong, _)| *wrong)),
            most_swept: journal.most_swept,
            pace: truth.limits.pace,
            lost: facts.values().filter(|fact| is_lost(journal, truth.limits, fact)).count(),
            dead_letters: dead_letters(simulation),
            results: journal.results.clone(),
            messages: count(journal.messages.iter().map(|(detail_type, _)| detail_type.clone())),
            writes: truth.writes,
            attributions: journal.attributions,
            quiet_messages: quiet_messages.count(),
            log_bytes_a_day: journal.log_bytes / usize::try_from(simulation.days).unwrap(),
            quiet_alarms: alarms.iter().filter_map(was_on).collect(),
            alarms,
        }
    }

    /// To what was written that should not be, if anything was.
    pub(crate) fn wrong(&self) -> Option<String> {
        let kinds: Vec<_> = self.wrong.keys().map(|wrong| wrong.as_str()).collect();
        (!kinds.is_empty()).then(|| kinds.join(", "))
    }

    /// How long the time was that it is the outcome of.
    pub(crate) fn length(&self) -> Duration {
        clock::at(self.days, 0, 0, 0)
    }

    /// The alarms that were on at any time.
    pub(crate) fn were_on(&self) -> impl Iterator<Item = &str> {
        self.alarms.iter().filter(|(_, fired)| !fired.on.is_empty()).map(|(name, _)| name.as_str())
    }

    /// From when an alarm was on for the first time, and until when for the last, since the beginning.
    pub(crate) fn span(&self, alarm: &str) -> (Duration, Duration) {
        let begin = clock::first_day().timestamp();
        let since = |at: i64| Duration::from_secs(u64::try_from(at - begin).unwrap());
        let on = &self.alarms[alarm].on;
        (
            on.first().map_or(Duration::ZERO, |(from, _)| since(*from)),
            on.last().map_or(Duration::MAX, |(_, to)| since(*to)),
        )
    }

    /// How often instances were described.
    pub(crate) fn describes(&self) -> usize {
        self.calls[DESCRIBE].0
    }

    /// The budgets that do not hold.
    pub(crate) fn broken(&self) -> Vec<Budget> {
        let holds = |(of, known): (usize, usize)| of < 20 || known * 100 >= of * 95;
        let enforced_or_told = |detail_type: &str| match detail_type {
            "IMDS Tokens Required" => self.writes,
            "IMDS Launch Attributed" => self.attributions,
            _ => 10,
        };
        let (_, describes, allowed) = self.batches;
        let budgets = [
            (Budget::Actors, holds(self.actors)),
            (Budget::Owners, holds(self.owners)),
            (Budget::LoneDescribes, self.lone_describes.iter().zip([3, 4, 6]).all(|(it, allowed)| most(it) <= allowed)),
            (Budget::BatchDescribes, describes <= allowed),
            (Budget::Lost, self.lost == 0),
            (Budget::DeadLetters, self.dead_letters == 0),
            (Budget::QuietAlarms, self.quiet_alarms.is_empty()),
            (Budget::QuietMessages, self.quiet_messages == 0),
            (Budget::Messages, self.messages.iter().all(|(name, count)| *count <= enforced_or_told(name))),
            (Budget::Pace, self.pace.is_none_or(|pace| self.most_swept <= pace)),
            (Budget::DescribesOfNodes, self.launches < 1000 || self.describes() <= 250),
            (Budget::Exposure, self.launches >= 1000 || median(&self.exposures) < Duration::from_secs(30)),
            (Budget::WrongWrites, self.wrong.is_empty()),
        ];
        budgets.into_iter().filter(|(_, holds)| !holds).map(|(budget, _)| budget).collect()
    }

    /// The rows of the table, each with its label.
    pub(crate) fn rows(&self) -> Vec<(String, String)> {
        let mut rows = vec![
            row("launches of the month, and their instances", format!("{}, {}", self.launches, self.instances)),
            row("creation to enforcement: median, p99, worst", spread(&self.exposures)),
            row("the same, of a thousand launched at once", spread(&self.exposures_of_the_thousand)),
            row("downgrade to enforcement: median, p99, worst", spread(&self.mended)),
            row("launches that CloudTrail delivered whose actor is known in the end", percent(self.actors)),
            row("tagged violators whose owner is known at once", percent(self.owners)),
            row(
                "describes for a lone launch at the most, for one that can't be changed while it is pending, and for one \
                 that a policy denies to change",
                self.lone_describes.each_ref().map(|it| most(it).to_string()).join(", "),
            ),
            row(
                "describes for a batch while EC2 is well, but for a thousand at once",
                ratio(self.batches.1, self.batches.0),
            ),
        ];
        rows.extend(self.rows_of_calls());
        rows.push(row("instances that one sweep enforced, at the most", self.most_swept));
        rows.push(row("instances lost", self.lost));
        rows.push(row("dead letters", self.dead_letters));
        for name in RESULTS {
            let [results, messages] = [&self.results, &self.messages].map(|it| it.get(name).copied().unwrap_or(0));
            rows.push(row(
                &format!("results on the bus, messages to people: `{name}`"),
                format!("{results}, {messages}"),
            ));
        }
        for (metric, hours) in &self.metric_hours {
            rows.push(row(&format!("hours of {} in which `{metric}` was sent", self.days * 24), *hours));
        }
        rows.push(row("log a day, to the nearest 50 kB", (self.log_bytes_a_day + 25_000) / 50_000 * 50));
        rows
    }

    /// How often EC2 was called, and the writes that should not be.
    fn rows_of_calls(&self) -> Vec<(String, String)> {
        let mut rows = Vec::new();
        for (action, (calls, throttled, most)) in &self.calls {
            let limit = if *action == DESCRIBE { 20 } else { 5 };
            rows.push(row(
                &format!("`{action}` for each launch, throttled in all, busiest five minutes by the documented rate"),
                format!("{}, {throttled}, {} %", ratio(*calls, self.launches), most * 100 / (300 * limit)),
            ));
        }
        for wrong in Wrong::ALL {
            let writes = self.wrong.get(&wrong).copied().unwrap_or_default();
            rows.push(row(&format!("writes that should not be: {}", wrong.as_str()), writes));
        }
        rows
    }

    /// For each alarm, how often it fired and for how many hours it was on.
    pub(crate) fn alarms(&self) -> impl Iterator<Item = (String, String)> {
        self.alarms.iter().map(|(name, fired)| {
            row(&format!("`{name}`: fired, hours on"), format!("{}, {:.1}", fired.on.len(), fired.hours()))
        })
    }
}

/// When each alarm was on.
fn alarms(simulation: &Simulation) -> BTreeMap<String, Fired> {
    let journal = &simulation.journal;
    let (from, to) = (seconds(journal.begin), seconds(journal.begin + clock::at(simulation.days, 0, 0, 0)));
    let alarms = simulation.deployment.alarms.iter();
    alarms.map(|alarm| (alarm.name.clone(), journal.metrics.evaluate(alarm, from, to))).collect()
}

/// Calls of an action, those that were throttled, and the most in five minutes.
fn calls(truth: &Truth, action: &str) -> (usize, usize, usize) {
    let (calls, throttled) = truth.calls.get(action).copied().unwrap_or_default();
    let spans = truth.spans.iter().filter(|((of, _), _)| of == action).map(|(_, calls)| *calls);
    (calls, throttled, spans.max().unwrap_or_default())
}

/// Every detail-type of results.
const RESULTS: [&str; 10] = [
    "IMDS Tokens Required",
    "IMDS Tokens Would Be Required",
    "IMDS Exemption Used",
    "IMDS Instance In Use",
    "IMDS Instance Managed",
    "IMDS Instance Created Before",
    "IMDS Enforcement Failed",
    "IMDS Launch Attributed",
    "IMDS Calls Refused",
    "IMDS Sweep Digest",
];

/// What stands in a row, as text.
struct Value(String);

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self(number.to_string())
    }
}

fn row(label: &str, value: impl Into<Value>) -> (String, String) {
    (label.to_owned(), value.into().0)
}

fn count<T: Ord>(items: impl Iterator<Item = T>) -> BTreeMap<T, usize> {
    let mut counts = BTreeMap::new();
    for item in items {
        *counts.entry(item).or_default() += 1;
    }
    counts
}

fn percent((of, known): (usize, usize)) -> String {
    (known * 100).checked_div(of).map_or_else(|| "none".to_owned(), |percent| format!("{percent} %"))
}

fn ratio(count: usize, of: usize) -> String {
    let hundredths = count * 100 / of.max(1);
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

fn median(sorted: &[Duration]) -> Duration {
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// Median, 99th percentile and worst.
fn spread(sorted: &[Duration]) -> String {
    let Some(worst) = sorted.last() else { return "none".to_owned() };
    let p99 = sorted[(sorted.len() * 99 / 100).min(sorted.len() - 1)];
    [median(sorted), p99, *worst].map(|it| format!("{} s", it.as_secs())).join(", ")
}

/// Whether an instance was to be enforced when it was launched.
fn came_up_open(fact: &Fact, note: &LaunchNote) -> bool {
    note.maker.http_tokens == "optional" && !fact.managed && !fact.refused && fact.closed_since.is_none()
}

/// How long the instances of launches were open, until they were enforced or gone.
fn exposures(mode: Mode, launches: &[&LaunchNote], facts: &BTreeMap<String, Fact>) -> Vec<Duration> {
    let of_launch = |note: &&LaunchNote| -> Vec<_> {
        let facts = note.ids.iter().map(|id| &facts[id]).filter(|fact| came_up_open(fact, note));
        facts.map(|fact| fact.enforced.or(fact.gone).unwrap_or_else(Instant::now) - note.began).collect()
    };
    if mode == Mode::Observe {
        return Vec::new();
    }
    sorted(launches.iter().flat_map(of_launch).collect())
}

fn sorted(mut durations: Vec<Duration>) -> Vec<Duration> {
    durations.sort();
    durations
}

fn actors(launches: &[LaunchNote], facts: &BTreeMap<String, Fact>) -> (usize, usize) {
    let arrives = |note: &&LaunchNote| note.is_recorded && note.began.elapsed() > ARRIVES_WITHIN;
    let open = launches.iter().filter(arrives).filter(|note| note.maker.http_tokens == "optional");
    let open = open.filter(|note| note.maker.managed_by.is_none());
    let is_known = |note: &&LaunchNote| note.ids.iter().all(|id| facts[id].actor_known);
    (open.clone().count(), open.filter(is_known).count())
}

fn owners(launches: &[LaunchNote], facts: &BTreeMap<String, Fact>) -> (usize, usize) {
    let is_owned = |note: &&LaunchNote| note.maker.tags.iter().any(|(key, _)| *key != "Name");
    let ids = launches.iter().filter(is_owned).flat_map(|note| &note.ids);
    let told: Vec<_> = ids.filter_map(|id| facts[id].owner_at_once).collect();
    (told.len(), told.iter().filter(|known| **known).count())
}

fn lone_describes(launches: &[&LaunchNote], facts: &BTreeMap<String, Fact>) -> [Vec<usize>; 3] {
    let lone = launches.iter().filter(|note| !note.is_shared && note.ids.len() == 1);
    let kind = |note: &LaunchNote| if facts[&note.ids[0]].refused { 2 } else { usize::from(note.is_slow) };
    [0, 1, 2].map(|of| lone.clone().filter(|note| kind(note) == of).map(|note| note.describes).collect())
}

fn most(counts: &[usize]) -> usize {
    counts.iter().max().copied().unwrap_or_default()
}

fn batches(simulation: &Simulation) -> (usize, usize, usize) {
    let calm = simulation.journal.batches.iter().filter(|batch| batch.is_calm);
    let allowed = |batch: &Batch| 1 + batch.events / 201 + batch.writes.div_ceil(15);
    (calm.clone().count(), calm.clone().map(|batch| batch.describes).sum(), calm.map(allowed).sum())
}

/// Whether an instance that is to be enforced, or reported in observe mode, was not.
fn is_lost(journal: &Journal, limits: Limits, fact: &Fact) -> bool {
    let end = Instant::now();
    let since = fact.loosened.or(fact.started.filter(|_| fact.launch.is_some())).unwrap_or(journal.begin);
    let until = fact.gone.unwrap_or(end);
    let is_due = until.saturating_duration_since(since) > LOST_AFTER;
    let is_left = fact.loosened.is_none()
        && (limits.since.is_some_and(|day| fact.created.date_naive() < day)
            || (limits.grace_days.is_some() && fact.launch.is_none() && fact.uses_no_token));
    let is_done = journal.mode == Mode::Observe && fact.owner_at_once.is_some();
    is_due && fact.is_violator(clock::now().date_naive()) && !is_left && !is_done
}

fn dead_letters(simulation: &Simulation) -> usize {
    let has_no_reader = simulation.lanes.values().filter(|lane| lane.source.is_none());
    has_no_reader.map(super::lanes::Lane::visible).sum()
}
