//! Troubles of the account and of the deployment, which no code is to blame for: each with the alarm
//! that must tell of it, and the time in which it must.

use std::time::Duration;

use super::account::{ATTACKER, Broken, OWNER, Script};
use super::clock::at;
use super::outcome::Outcome;
use super::setup::Setup;

/// Beside the evaluation window of an alarm, what an event, an attempt or a sample may take.
const ALLOWANCE: Duration = Duration::from_mins(10);

/// A trouble, and the alarm on it.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) what: &'static str,
    pub(crate) setup: Setup,
    pub(crate) script: fn(u64) -> Script,
    pub(crate) alarm: &'static str,
    /// From when it can be seen, and when it is over.
    pub(crate) lasts: (Duration, Duration),
}

const FOUR_HOURS: (Duration, Duration) = (at(0, 9, 0, 0), at(0, 13, 0, 0));
const HALF_AN_HOUR: (Duration, Duration) = (at(0, 9, 0, 0), at(0, 9, 30, 0));
const FIRST_HOURS: (Duration, Duration) = (at(0, 0, 0, 0), at(0, 6, 0, 0));
const A_WEEK: (Duration, Duration) = (at(1, 0, 0, 0), at(9, 0, 0, 0));

/// An instance is loosened shortly after nine, and the event of it arrives most of an hour later.
const LOOSENED: Duration = at(0, 9, 9, 0);
const ARRIVES: (Duration, Duration) = (at(0, 9, 54, 0), at(0, 9, 59, 0));

/// An instance refuses calls shortly after nine, which two sweeps see: each looks back for an hour.
const REFUSES_CALLS: (Duration, Duration) = (at(0, 9, 9, 0), at(0, 10, 6, 0));

const REFUSED: (Duration, Duration) = (at(0, 9, 0, 0), at(0, 9, 10, 0));

fn broken(seed: u64, broken: &[Broken]) -> Script {
    Script::day(seed).breaking(broken, FOUR_HOURS)
}

/// Every trouble.
pub(crate) fn troubles() -> Vec<Trouble> {
    let with = |setup, what, alarm, lasts, script| Trouble { what, setup, script, alarm, lasts };
    let of = |what, alarm, lasts, script| with(Setup::enforcing(), what, alarm, lasts, script);
    vec![
        of("EC2 fails, seen by sweeps", "ErrorAlarm", FOUR_HOURS, |seed| Script::day(seed).failing(FOUR_HOURS)),
        of("EC2 fails, seen by launches", "OldestMessageAlarm", FOUR_HOURS, |seed| {
            Script::day(seed).failing(FOUR_HOURS)
        }),
        of("Lambda has no concurrency left", "ThrottleAlarm", FOUR_HOURS, |seed| broken(seed, &[Broken::Concurrency])),
        of("the rule of the sweep is disabled", "NoSweepAlarm", FOUR_HOURS, |seed| broken(seed, &[Broken::SweepRule])),
        of("no sweep ever ran", "NoSweepAlarm", FIRST_HOURS, |seed| {
            Script::day(seed).breaking(&[Broken::SweepRule], FIRST_HOURS)
        }),
        with(Setup::weekly(), "the rule of a sweep each week is disabled", "NoSweepAlarm", A_WEEK, |seed| {
            Script::idle(seed, 16).breaking(&[Broken::SweepRule], A_WEEK)
        }),
        of("the event source is disabled", "OldestMessageAlarm", FOUR_HOURS, |seed| broken(seed, &[Broken::Source])),
        of("the queue's policy is gone", "DeadLetterAlarm", FOUR_HOURS, |seed| broken(seed, &[Broken::QueuePolicy])),
        of("the dead-letter queue's policy is gone, too", "LostEventAlarm", FOUR_HOURS, |seed| {
            broken(seed, &[Broken::QueuePolicy, Broken::DeadLetterPolicy])
        }),
        of("the bus refuses results", "UnpublishedAlarm", FOUR_HOURS, |seed| broken(seed, &[Broken::Bus])),
        of("EC2 refuses a change", "RefusedAlarm", REFUSED, |seed| Script::day(seed).refusing(REFUSED.0)),
        of(
            "CloudTrail's events take most of an hour, from the first that arrives",
            "TimeToEnforceAlarm",
            ARRIVES,
            |seed| Script::idle(seed, 1).breaking(&[Broken::CloudTrail], FOUR_HOURS).loosening(LOOSENED, OWNER),
        ),
        of("a program loosens instances again and again", "RunawayAlarm", HALF_AN_HOUR, |seed| {
            Script::day(seed).looping(HALF_AN_HOUR)
        }),
        with(
            Setup::since_the_first_day(),
            "an instance refuses calls, from when a sweep can see it",
            "RefusingCallsAlarm",
            REFUSES_CALLS,
            |seed| Script::idle(seed, 1).loosening(LOOSENED, ATTACKER),
        ),
    ]
}

impl Trouble {
    /// What is wrong with the alarm of this trouble, if anything is, and its row of the table.
    pub(crate) fn judge(&self, outcome: &Outcome) -> (Option<String>, String) {
        let deployment = self.setup.template.deployment();
        let alarm = deployment.alarms.iter().find(|it| it.name == self.alarm).unwrap();
        let windows = |periods: usize| Duration::from_secs(alarm.period * u64::try_from(periods).unwrap());
        let (first, last) = outcome.span(self.alarm);
        let (from, to) = self.lasts;
        let (on, off) = (first.checked_sub(from), last.saturating_sub(to));
        let is_in_time = on.is_some_and(|on| on <= windows(alarm.datapoints) + ALLOWANCE)
            && off <= windows(alarm.evaluation_periods) + ALLOWANCE
            && last < outcome.length();
        let wrong = (!is_in_time).then(|| format!("{}: {} is on from {first:?} to {last:?}", self.what, self.alarm));
        let others: Vec<_> = outcome.were_on().filter(|it| *it != self.alarm).map(|it| format!("`{it}`")).collect();
        let others = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
        let row = format!(
            "| {} | `{}` | {} | {} | {others} |",
            self.what,
            self.alarm,
            minutes(on.unwrap_or_default()),
            minutes(off)
        );
        (wrong, row)
    }
}

/// A time in minutes, or in hours where it is long.
fn minutes(time: Duration) -> String {
    let minutes = time.as_secs().div_ceil(60);
    if minutes < 180 { format!("{minutes} min") } else { format!("{:.1} h", time.as_secs_f64() / 3600.0) }
}
