//! What is measured: init, first and warm event, memory, calls, instructions, and how all that
//! grows with the number of instances.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::Error;
use crate::ec2::{Ec2, id};
use crate::function::{Cost, Function};

/// Processes that are started, and warm events that each is handed.
const PROCESSES: usize = 15;
const WARM_EVENTS: usize = 25;

/// Sizes of the cost curve, in instances.
const SIZES: [usize; 5] = [1, 10, 100, 1000, 10_000];

/// The quartiles of some durations.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quartiles {
    pub(crate) low: Duration,
    pub(crate) median: Duration,
    pub(crate) high: Duration,
}

impl Quartiles {
    fn of(durations: impl Iterator<Item = Duration>) -> Self {
        let mut all: Vec<_> = durations.collect();
        all.sort();
        let at = |quarter: usize| all[(all.len() - 1) * quarter / 4];
        Self { low: at(1), median: at(2), high: at(3) }
    }
}

fn median(mut all: Vec<usize>) -> usize {
    all.sort_unstable();
    all[all.len() / 2]
}

/// What one function costs.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) init_wall: Quartiles,
    pub(crate) init_cpu: Quartiles,
    pub(crate) first_wall: Quartiles,
    pub(crate) first_cpu: Quartiles,
    pub(crate) warm_wall: Quartiles,
    pub(crate) warm_cpu: Quartiles,
    pub(crate) resident_kib: usize,
    pub(crate) calls: usize,
    /// Of init, of the first and of a warm event.
    pub(crate) faults: [usize; 3],
    /// Likewise, where callgrind is there and the function is one binary.
    pub(crate) instructions: Option<[u64; 3]>,
    /// The bytes that a warm event logs, of one binary: an interpreter's log may be held back.
    pub(crate) logged: Option<usize>,
    /// The bytes of its zip, where it has one.
    pub(crate) zip: Option<u64>,
}

/// One point of a curve.
pub(crate) struct Point {
    pub(crate) instances: usize,
    pub(crate) cost: Cost,
    pub(crate) peak_kib: usize,
}

/// How the cost of one kind of event grows for one function.
pub(crate) struct Curve {
    pub(crate) name: String,
    pub(crate) points: Vec<Point>,
}

/// A launch of `count` instances as EventBridge delivers it.
fn launch(count: usize) -> String {
    let sample = include_str!("../../../events/RunInstances/one.json");
    let mut event: Value = serde_json::from_str(sample).expect("a sample is JSON");
    let item = event["detail"]["responseElements"]["instancesSet"]["items"][0].take();
    let items = (0..count).map(|n| {
        let mut item = item.clone();
        item["instanceId"] = id(n).into();
        item
    });
    event["detail"]["responseElements"]["instancesSet"]["items"] = items.collect();
    event.to_string()
}

/// The costs of one function as they are collected.
#[derive(Default)]
struct Samples {
    inits: Vec<Cost>,
    firsts: Vec<Cost>,
    warms: Vec<Cost>,
    resident: Vec<usize>,
    logged: Vec<usize>,
}

/// Each function's costs. The functions take turns, so that a slow moment of the machine is everybody's.
pub(crate) async fn rows(functions: &[Function], ec2: &Ec2, work: &Path) -> Result<Vec<Row>, Error> {
    let event = launch(1);
    let mut samples: Vec<Samples> = functions.iter().map(|_| Samples::default()).collect();
    for process in 1..=PROCESSES {
        eprintln!("process {process} of {PROCESSES} of each function");
        for (function, samples) in functions.iter().zip(&mut samples) {
            one_process(function, ec2, &event, work, samples).await?;
        }
    }
    let mut rows = Vec::new();
    for (function, samples) in functions.iter().zip(samples) {
        let instructions = instructions(function, ec2, &event, work).await?;
        rows.push(samples.row(function, instructions)?);
    }
    Ok(rows)
}

async fn one_process(
    function: &Function,
    ec2: &Ec2,
    event: &str,
    work: &Path,
    samples: &mut Samples,
) -> Result<(), Error> {
    ec2.hold(1, 1);
    let mut running = function.start(ec2, &[], work).await?;
    samples.inits.push(running.init);
    samples.firsts.push(enforce_one(&mut running, ec2, event, function).await?);
    for _ in 0..WARM_EVENTS {
        let logged = running.logged()?;
        samples.warms.push(enforce_one(&mut running, ec2, event, function).await?);
        samples.logged.push(running.logged()? - logged);
    }
    samples.resident.push(running.memory_kib("VmRSS")?);
    running.end().await
}

impl Samples {
    fn row(self, function: &Function, instructions: Option<[u64; 3]>) -> Result<Row, Error> {
        let Self { inits, firsts, warms, resident, logged } = self;
        let quartiles = |costs: &[Cost], what: fn(&Cost) -> Duration| Quartiles::of(costs.iter().map(what));
        Ok(Row {
            name: function.name,
            init_wall: quartiles(&inits, |it| it.wall),
            init_cpu: quartiles(&inits, |it| it.cpu),
            first_wall: quartiles(&firsts, |it| it.wall),
            first_cpu: quartiles(&firsts, |it| it.cpu),
            warm_wall: quartiles(&warms, |it| it.wall),
            warm_cpu: quartiles(&warms, |it| it.cpu),
            resident_kib: median(resident),
            calls: warms.last().map_or(0, |it| it.calls),
            faults: [&inits, &firsts, &warms].map(|costs| median(costs.iter().map(|it| it.faults).collect())),
            instructions,
            logged: function.is_binary().then(|| median(logged)),
            zip: function.zip.as_ref().map(fs::metadata).transpose()?.map(|it| it.len()),
        })
    }
}

/// An event of one violator, which must be enforced by it.
async fn enforce_one(
    running: &mut crate::function::Running<'_>,
    ec2: &Ec2,
    event: &str,
    function: &Function,
) -> Result<Cost, Error> {
    ec2.hold(1, 1);
    let cost = running.invoke(event).await?;
    if function.name != "bare" && ec2.violators() != 0 {
        return Err(format!("{} did not enforce", function.name).into());
    }
    Ok(cost)
}

/// Instructions of init, of the first event and of a warm one.
async fn instructions(function: &Function, ec2: &Ec2, event: &str, work: &Path) -> Result<Option<[u64; 3]>, Error> {
    const WARM: u64 = 10;
    let has_callgrind = Command::new("valgrind").arg("--version").output().is_ok();
    if !has_callgrind || !function.is_binary() {
        return Ok(None);
    }
    let mut totals = Vec::new();
    for events in [0, 1, 1 + WARM] {
        let out = work.join(format!("{}.{events}.callgrind", function.name.replace(' ', "-")));
        let before = ["valgrind".into(), "--tool=callgrind".into(), format!("--callgrind-out-file={}", out.display())];
        let mut running = function.start(ec2, &before, work).await?;
        for _ in 0..events {
            enforce_one(&mut running, ec2, event, function).await?;
        }
        running.end().await?;
        let text = fs::read_to_string(&out)?;
        let total = text.lines().find_map(|line| line.strip_prefix("summary: ").or(line.strip_prefix("totals: ")));
        totals.push(total.ok_or("callgrind wrote no total")?.trim().parse::<u64>()?);
    }
    let [init, first, warm] = totals[..] else { return Err("three runs".into()) };
    Ok(Some([init, first.saturating_sub(init), warm.saturating_sub(first) / WARM]))
}

/// An event that names ever more instances, of which one does not require tokens; and a sweep that
/// finds ever more violators, in observe mode, where it is not EC2's request rate that is measured.
pub(crate) async fn curves(functions: &[Function], ec2: &Ec2, work: &Path) -> Result<Vec<Curve>, Error> {
    let mut curves = Vec::new();
    for function in functions.iter().filter(|it| it.name != "bare") {
        curves.push(curve(function, "launch", |_| 1, launch, ec2, work).await?);
    }
    let mut sweep = functions[0].clone();
    sweep.variables.push(("IMDS_MODE", "observe"));
    let schedule = |_| include_str!("../../../events/ScheduledEvent/rule.json").to_owned();
    curves.push(curve(&sweep, "sweep", |instances| instances, schedule, ec2, work).await?);
    Ok(curves)
}

/// What events of a kind cost, by how many instances there are and how many of these are violators.
async fn curve(
    function: &Function,
    kind: &str,
    violators: fn(usize) -> usize,
    event: fn(usize) -> String,
    ec2: &Ec2,
    work: &Path,
) -> Result<Curve, Error> {
    eprintln!("the curve of {}, {kind}", function.name);
    let mut points = Vec::new();
    for instances in SIZES {
        ec2.hold(instances, violators(instances));
        points.push(point(function, ec2, &event(instances), instances, work).await?);
    }
    Ok(Curve { name: format!("{}, {kind}", function.name), points })
}

/// The second event of a process: the first has opened what it needs.
async fn point(function: &Function, ec2: &Ec2, event: &str, instances: usize, work: &Path) -> Result<Point, Error> {
    let mut running = function.start(ec2, &[], work).await?;
    running.invoke(event).await?;
    if let Some(first) = ec2.local.model().instances.get_mut(&id(0)) {
        "optional".clone_into(&mut first.metadata_options.http_tokens);
    }
    let cost = running.invoke(event).await?;
    let peak_kib = running.memory_kib("VmHWM")?;
    running.end().await?;
    Ok(Point { instances, cost, peak_kib })
}

/// The machine, since only it makes the numbers what they are.
pub(crate) fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("unknown", |it| it.1);
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!("{cores} cores of {model}")
}
