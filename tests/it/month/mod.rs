//! A month of one account: whether the sum of invocations is right, each of which is.
mod account;
mod clock;
mod dice;
mod fault;
mod journal;
mod lanes;
mod metrics;
mod pattern;
mod ports;
mod record;
mod setup;
mod simulation;
mod template;
mod truth;

use self::account::Script;
use self::setup::Setup;
use self::simulation::Simulation;

#[tokio::test(start_paused = true)]
async fn a_month() {
    let days = std::env::var("DAYS").map_or(3, |it| it.parse().unwrap());
    let setup = Setup::enforcing();
    let script = Script::month(setup.seed, days);
    let begin = std::time::Instant::now();
    let mut simulation = Simulation::new(setup, script, days);
    simulation.run().await;
    let journal = &simulation.journal;
    let truth = simulation.account.truth();
    println!("{:?} launches {} invocations {} calls {:?} wrong {:?}", begin.elapsed(), journal.launches.len(), journal.invocations, truth.calls, truth.wrong.len());
    println!("{:?}\n{:?} messages {} log {}", journal.results, journal.lines, journal.messages.len(), journal.log_bytes);
    for alarm in &simulation.deployment.alarms {
        let from = simulation::seconds(journal.begin);
        let fired = journal.metrics.evaluate(alarm, from, from + i64::try_from(days).unwrap() * 86_400);
        println!("{} {} {}", alarm.name, fired.on.len(), fired.hours());
    }
}
