//! A month of one account: whether the sum of invocations is right, each of which is.
//!
//! A discrete-event simulation on the paused clock, around the real function with the real SDK on a
//! local EC2. What the template deploys is read from it, not repeated. Nothing here is AWS: queues,
//! event sources, schedules, asynchronous invocations and alarms are stand-ins that do what AWS
//! documents of them. The table of what comes out is in `tests/README.md`.

mod account;
mod clock;
mod dice;
mod fault;
mod journal;
mod lanes;
mod metrics;
mod outcome;
mod pattern;
mod ports;
mod record;
mod setup;
mod simulation;
mod template;
mod truth;

use std::collections::BTreeMap;

use self::account::Script;
use self::fault::Fault;
use self::outcome::{Budget, Outcome};
use self::setup::Setup;
use self::simulation::Simulation;
use crate::harness::text;

/// Goes through a script with a deployment, on a clock of its own, and answers what came out.
fn live(setup: Setup, script: impl FnOnce(u64) -> Script) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let name = setup.name;
    runtime.block_on(async {
        let script = script(setup.seed);
        let mut simulation = Simulation::new(setup, script);
        simulation.run().await;
        Outcome::of(name, &simulation)
    })
}

/// The table of `tests/README.md`.
fn table(outcomes: &[Outcome]) -> String {
    let mut labels: Vec<String> = Vec::new();
    let columns: Vec<BTreeMap<String, String>> = outcomes
        .iter()
        .map(|outcome| {
            let rows: Vec<_> = outcome.rows().into_iter().chain(outcome.alarms()).collect();
            labels.extend(
                rows.iter().map(|(label, _)| label.clone()).filter(|it| !labels.contains(it)).collect::<Vec<_>>(),
            );
            rows.into_iter().collect()
        })
        .collect();
    let line = |label: &str, cells: Vec<&str>| format!("| {label} | {} |", cells.join(" | "));
    let head = line("", outcomes.iter().map(|it| it.name).collect());
    let rule = format!("|{}", "---|".repeat(outcomes.len() + 1));
    let rows = labels.iter().map(|label| {
        line(label, columns.iter().map(|column| column.get(label).map_or("none", String::as_str)).collect())
    });
    [head, rule].into_iter().chain(rows).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_month_keeps_its_budgets_and_is_as_the_table_says() {
    let setups = [Setup::enforcing(), Setup::observing(), Setup::since_the_first_day(), Setup::with_grace()];
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let threads = setups.map(|setup| scope.spawn(|| live(setup, Script::month)));
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let table = table(&outcomes);
    println!("{table}");
    for outcome in &outcomes {
        let broken = outcome.broken();
        let words: Vec<_> = broken.iter().map(ToString::to_string).collect();
        assert!(broken.is_empty(), "{}: broken are {words:?}", outcome.name);
    }
    assert!(text("tests/README.md").contains(&table), "this table belongs in tests/README.md:\n{table}");
}

/// Each fault, with the deployment and the days in which it shows, and the budget that it breaks.
fn faults() -> [(Fault, Setup, fn(u64) -> Script, Budget); 14] {
    let (all, since) = (Setup::enforcing, Setup::since_the_first_day);
    [
        (Fault::LaunchTimeAlone, since(), Script::quiet_days, Budget::WrongWrites),
        (Fault::ManagedUnmarked, all(), Script::quiet_days, Budget::WrongWrites),
        (Fault::ListsHideManaged, all(), Script::two_days, Budget::LoneDescribes),
        (Fault::StaleWrites, all(), Script::day_of_the_thousand, Budget::WrongWrites),
        (Fault::RecordsWithoutOptions, all(), Script::two_days, Budget::Actors),
        (Fault::CutLaunchesSweep, all(), Script::day_of_the_thousand, Budget::WrongWrites),
        (Fault::RefusedComeBack, all(), Script::two_days, Budget::DeadLetters),
        (Fault::SweepsFailForRefusals, all(), Script::quiet_days, Budget::QuietAlarms),
        (Fault::DirectLaunches, all(), Script::hour_of_nodes, Budget::DescribesOfNodes),
        (Fault::FewReceives, all(), Script::two_days, Budget::DeadLetters),
        (Fault::AlarmOnEveryRefusal, all(), Script::quiet_days, Budget::QuietAlarms),
        (Fault::EveryResultIsAMessage, all(), Script::quiet_days, Budget::QuietMessages),
        (Fault::NothingButCloudTrail, all(), Script::two_days, Budget::Lost),
        (Fault::LongWindow, all(), Script::two_days, Budget::Exposure),
    ]
}

#[test]
fn each_fault_that_is_put_back_breaks_its_budget() {
    let mut unseen = Vec::new();
    for (fault, setup, script, budget) in faults() {
        let without = live(setup.clone(), script).broken();
        let begin = std::time::Instant::now();
        let with = live(setup.with_fault(fault), script).broken();
        println!("{fault:?} breaks {with:?}, without it {without:?}, {:?}", begin.elapsed());
        if without.contains(&budget) || !with.contains(&budget) {
            unseen.push((fault, budget));
        }
    }
    assert!(unseen.is_empty(), "these are not seen: {unseen:?}");
}

#[test]
fn a_thousand_launches_in_a_minute_cost_one_describe_a_batch() {
    let outcome = live(Setup::enforcing(), Script::hour_of_nodes);
    println!("{:?}", outcome.rows());
    assert_eq!(outcome.broken(), []);
}
