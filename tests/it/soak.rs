//! The real binary under load and faults for minutes: `make soak`, which names the binary.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use local_ec2::LocalEc2;
use local_ec2::fault::{Fault, Kind};
use local_ec2::model::Instance;
use serde_json::Value;

use crate::harness::*;
use crate::process::Function;

/// Numbers that look random and are the same in every run (Knuth's MMIX generator).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

/// What the process of the function holds: KiB of resident memory, and descriptors.
#[derive(Debug, Clone, Copy)]
struct Held {
    resident_kib: usize,
    descriptors: usize,
}

impl Held {
    fn by(function: &Function) -> Self {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", function.pid())).unwrap().count();
        Self { resident_kib: function.memory_kib("VmRSS"), descriptors }
    }
}

/// Standard streams, the runtime's own, the Runtime API, and up to a dozen connections in the pool.
const DESCRIPTORS: usize = 32;

/// Enough for an account that is emptied by one sweep, or by a few where its request bucket was empty.
const SWEEPS: usize = 10;

fn median(mut values: Vec<usize>) -> usize {
    values.sort_unstable();
    values[values.len() / 2]
}

/// Launches up to five instances, and removes old ones so that the account does not grow.
fn launch(ec2: &LocalEc2, dice: &mut Dice, launched: &mut usize) -> Vec<String> {
    let ids: Vec<_> = (0..=dice.below(5)).map(|n| id(*launched + n)).collect();
    *launched += ids.len();
    let mut model = ec2.model();
    for id in &ids {
        let mut instance = Instance::new(id);
        instance.invisible_for_calls = u32::try_from(dice.below(8)).unwrap().saturating_sub(6);
        instance.not_ready_for_calls = u32::try_from(dice.below(8)).unwrap().saturating_sub(6);
        model.put(instance);
    }
    let is_done = |it: &&Instance| it.metadata_options.http_tokens == "required";
    let old: Vec<_> = model.instances.values().filter(is_done).map(|it| it.instance_id.clone()).collect();
    for id in old.iter().take(model.instances.len().saturating_sub(200)) {
        model.instances.remove(id);
    }
    model.calls.clear();
    ids
}

/// One event in a thousand shapes about these instances.
fn event(dice: &mut Dice, ids: &[String]) -> String {
    let messages = || ids.iter().map(|id| (id.as_str(), running(id)));
    match dice.below(8) {
        0..3 => run_instances(ids.iter().cloned()),
        3 | 4 => sqs(messages()),
        5 => sqs(messages().chain([("poisoned", "{".to_owned())])),
        6 => sample(["ScheduledEvent/rule", "RunInstances/omitted"][dice.below(2)]),
        _ => sample(
            ["Other/no-event", "Other/another-region", "RunInstances/failed", "Other/object-created"][dice.below(4)],
        ),
    }
}

fn any_fault(dice: &mut Dice) -> Fault {
    let kinds = [
        error("RequestLimitExceeded", 503),
        error("InternalError", 500),
        error("UnauthorizedOperation", 403),
        Kind::DropConnection,
        Kind::Delay { milliseconds: 200 },
        Kind::Body { status: 200, text: "<garbage".to_owned() },
    ];
    let action = [DESCRIBE, MODIFY][dice.below(2)];
    let after_effect = dice.below(2) == 0;
    Fault { after_effect, ..fault(action, None, Some(1), kinds[dice.below(kinds.len())].clone()) }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "what to soak, and for how long, is read from the environment")]
#[ignore = "minutes long; `make soak` runs it"]
fn after_minutes_of_events_and_faults_it_holds_no_more_and_every_violator_is_enforced() {
    let seconds = std::env::var("SOAK_SECONDS").map_or(180, |it| it.parse().expect("SOAK_SECONDS is a number"));
    let binary = std::env::var("SOAK_BINARY").expect("SOAK_BINARY names the function's binary");
    let ec2 = local_ec2([]);
    let function = Function::start_binary(Path::new(&binary), "soak", &ec2.endpoint(), &[("IMDS_LOG", "error")]);
    let mut dice = Dice(20_261_124);
    let (mut launched, mut invocations, mut failures) = (0, 0, 0);
    let mut held = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(seconds) {
        let ids = launch(&ec2, &mut dice, &mut launched);
        if dice.below(3) == 0 {
            ec2.model().faults.add(any_fault(&mut dice));
        }
        let answer = function.invoke(&at_present(&event(&mut dice, &ids)));
        invocations += 1;
        failures += usize::from(answer["errorType"].is_string());
        held.push(Held::by(&function));
        // Below the five writes a second that EC2 refills, so that the account can be kept clean.
        std::thread::sleep(Duration::from_millis(500));
    }
    ec2.model().faults.clear();
    let sweep = || -> Value { function.invoke(&sample("ScheduledEvent/rule")) };
    let sweeps = (1..=SWEEPS).find(|_| sweep()["counts"]["examined"] == 0);
    assert!(sweeps.is_some(), "after {SWEEPS} sweeps there is still something to examine");
    let violators = ec2.model().instances.values().filter(|it| it.metadata_options.http_tokens != "required").count();

    // The first tenth fills caches and pools.
    let settled = &held[held.len() / 10..];
    let quarter = settled.len() / 4;
    let resident = |part: &[Held]| median(part.iter().map(|it| it.resident_kib).collect());
    let (early, late) = (resident(&settled[..quarter]), resident(&settled[settled.len() - quarter..]));
    let descriptors = held.iter().map(|it| it.descriptors).max().unwrap();
    println!(
        "{invocations} invocations in {seconds} s, {failures} failed as they should, {launched} instances launched, \
         {violators} violators left; resident {early} KiB early, {late} KiB late; at most {descriptors} descriptors"
    );
    assert_eq!(violators, 0);
    assert!(late <= early * 21 / 20, "resident memory is flat");
    assert!(descriptors <= DESCRIPTORS, "no descriptor leaks");
    assert!(failures > 0 && failures < invocations, "{failures} of {invocations}");
}
