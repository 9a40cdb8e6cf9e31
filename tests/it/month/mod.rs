//! A month of one account: whether the sum of invocations is right, each of which is.
//!
//! A discrete-event simulation on the paused clock, around the real function with the real SDK on a
//! local EC2. What the template deploys is read from it, not repeated. Nothing here is AWS: queues,
//! event sources, schedules, asynchronous invocations and alarms are stand-ins that do what AWS
//! documents of them. The table of what comes out is in `tests/README.md`.

mod account;
mod clock;
mod dice;
mod expression;
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
mod trouble;
mod truth;

use std::collections::BTreeMap;

use self::account::Script;
use self::fault::Fault;
use self::outcome::{Budget, Outcome};
use self::setup::Setup;
use self::simulation::Simulation;
use crate::harness::text;

/// A deployment, and the days that it goes through.
type Case = (Setup, Days);

/// Goes through a case, on a thread and a clock of its own, and answers what came out.
fn live((setup, script): Case) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let name = setup.name;
    let simulate = async || {
        let script = script(setup.seed);
        let mut simulation = Simulation::new(setup, script);
        simulation.run().await;
        Outcome::of(name, &simulation)
    };
    std::thread::scope(|scope| scope.spawn(|| runtime.block_on(simulate())).join().unwrap())
}

/// Goes through several at the same time.
fn live_all(cases: Vec<Case>) -> Vec<Outcome> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = cases.into_iter().map(|case| scope.spawn(|| live(case))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
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
    let outcomes = live_all(setups.into_iter().map(|setup| (setup, Script::month as _)).collect());
    let table = table(&outcomes);
    println!("{table}");
    for outcome in &outcomes {
        assert_eq!(words(&outcome.broken()), "", "{}", outcome.name);
    }
    assert!(text("tests/README.md").contains(&table), "this table belongs in tests/README.md:\n{table}");
}

fn words(budgets: &[Budget]) -> String {
    budgets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What happens in some days, by a seed.
type Days = fn(u64) -> Script;

/// Each fault, with a deployment and days in which it shows, and the budget that it breaks.
fn faults() -> [(Fault, Setup, Days, Budget); 18] {
    let (all, since, grace) = (Setup::enforcing, Setup::since_the_first_day, Setup::with_grace);
    [
        (Fault::LaunchTimeAlone, since(), Script::quiet_days, Budget::WrongWrites),
        (Fault::LaunchTimeAlone, grace(), Script::quiet_days, Budget::WrongWrites),
        (Fault::ManagedUnmarked, all(), Script::quiet_days, Budget::WrongWrites),
        (Fault::TagsUnread, all(), Script::two_days, Budget::Owners),
        (Fault::ListsHideManaged, all(), Script::two_days, Budget::LoneDescribes),
        (Fault::StaleDescriptions, all(), Script::day_of_the_thousand, Budget::WrongWrites),
        (Fault::RecordsWithoutOptions, all(), Script::two_days, Budget::Actors),
        (Fault::CutLaunchesSweep, all(), Script::day_of_the_thousand, Budget::WrongWrites),
        (Fault::NoPace, grace(), Script::quiet_days, Budget::Pace),
        (Fault::EventsNeverOld, all(), Script::two_days, Budget::DeadLetters),
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

/// Each of these days with each deployment, without a fault: they keep all budgets.
fn without_faults() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for script in [Script::quiet_days, Script::two_days, Script::day_of_the_thousand, Script::hour_of_nodes] {
        cases.push((Setup::enforcing(), script));
    }
    cases.push((Setup::since_the_first_day(), Script::quiet_days));
    cases.push((Setup::with_grace(), Script::quiet_days));
    cases
}

#[test]
fn each_fault_that_is_put_back_breaks_its_budget() {
    for (n, outcome) in live_all(without_faults()).iter().enumerate() {
        assert_eq!(words(&outcome.broken()), "", "days {n} without a fault, {}", outcome.name);
    }
    let with = faults().map(|(fault, setup, script, _)| (setup.with_fault(fault), script));
    let outcomes = live_all(with.into());
    let mut rows = vec!["| fault | what goes red |".to_owned(), "|---|---|".to_owned()];
    for ((fault, setup, _, budget), outcome) in faults().iter().zip(outcomes) {
        let broken = outcome.broken();
        assert!(broken.contains(budget), "{fault:?} breaks {broken:?} alone");
        let wrong = outcome.wrong().map_or_else(String::new, |wrong| format!(": {wrong}"));
        rows.push(format!("| {}, {} | {}{wrong} |", setup.name, fault.as_str(), words(&broken)));
    }
    let table = rows.join("\n");
    println!("{table}");
    assert!(text("tests/README.md").contains(&table), "this table belongs in tests/README.md:\n{table}");
}

#[test]
fn each_trouble_has_its_alarm_in_time_and_it_ends_in_time() {
    let troubles = trouble::troubles();
    let outcomes = live_all(troubles.iter().map(|it| (it.setup.clone(), it.script)).collect());
    let (wrong, rows): (Vec<_>, Vec<_>) =
        troubles.iter().zip(&outcomes).map(|(trouble, outcome)| trouble.judge(outcome)).unzip();
    let head = "| trouble | alarm | on after | off after its end | also on |\n|---|---|---|---|---|";
    let table = format!("{head}\n{}", rows.join("\n"));
    println!("{table}");
    assert_eq!(wrong.into_iter().flatten().collect::<Vec<_>>(), [] as [String; 0]);
    assert!(text("tests/README.md").contains(&table), "this table belongs in tests/README.md:\n{table}");
}

#[test]
fn a_new_stack_fires_no_alarm_unless_something_is_wrong() {
    let cases: Vec<Case> = vec![
        (Setup::enforcing(), Script::quiet_days),
        (Setup::observing(), Script::quiet_days),
        (Setup::since_the_first_day(), Script::quiet_days),
        (Setup::enforcing().sweeping_first_after(60), Script::quiet_days),
        (Setup::weekly(), |seed| Script::idle(seed, 16)),
    ];
    for outcome in live_all(cases) {
        assert_eq!(outcome.were_on().collect::<Vec<_>>(), [] as [&str; 0], "{}", outcome.name);
    }
}

#[test]
fn a_thousand_launches_in_a_minute_cost_one_describe_a_batch() {
    let outcome = live((Setup::enforcing(), Script::hour_of_nodes));
    assert_eq!(words(&outcome.broken()), "");
    assert!(outcome.describes() <= 250, "{}", outcome.describes());
}
