//! The tables and the plot.

use std::path::Path;
use std::time::Duration;

use plotters::prelude::*;

use crate::Error;
use crate::measure::{Curve, Quartiles, Row, machine};

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// `0.61 (0.58–0.66)`: the median, and between which values half of all lie.
fn spread(it: Quartiles) -> String {
    format!("{:.2} ({:.2}–{:.2})", ms(it.median), ms(it.low), ms(it.high))
}

fn ratio(of: Duration, to: Duration) -> f64 {
    of.as_secs_f64() / to.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "a ratio of a few digits")]
fn ratio_of_counts(of: u64, to: u64) -> f64 {
    of as f64 / to as f64
}

/// A number where there is one.
fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "–".to_owned(), |it| it.to_string())
}

/// The whole report.
pub(crate) fn markdown(rows: &[Row], curves: &[Curve]) -> String {
    let mut text = format!(
        "# What the function costs\n\nWritten by `make bench` on {}, shared with others: \
         believe the ratios and the counts. An event is a launch of one instance that does not require tokens. \
         Every function ran as a process under a Runtime API, against one local EC2 behind TLS, on 127.0.0.1.\n\n\
         - *SDK alone*: the same calls of EC2 by the same client, and nothing else: the floor of a function that uses \
         the SDK. It reports nothing and logs nothing.\n\
         - *no SDK*: the same calls of EC2, written by hand, without pages, retries, errors or a report: the floor.\n\
         - *bare*: lambda_runtime and nothing else.\n\
         - *boto3*: a Python function that does the same.\n\
         - *Cloud Custodian*: its own handler, with the equivalent policy.\n\n",
        machine()
    );
    text += &ratios(rows);
    text += "\n";
    text += &against_sdk_alone(rows);
    text += "\n";
    text += &goals_table(rows);
    text += "\nMilliseconds, the median and in brackets the quartiles:\n\n";
    text += &durations(rows);
    text += "\nCounts, of instructions by callgrind, where it is installed, of what is no interpreter's; a page fault \
             is a page of memory that the kernel had to map. The log is that of a warm event:\n\n";
    text += &counts(rows);
    text += "\n## As the number of instances grows\n\nA launch of so many instances, one of which does not require \
             tokens; and a sweep in observe mode that finds so many violators.\n\n![CPU by instances](curve.svg)\n\n";
    text + &points(curves)
}

/// A table in Markdown.
fn table(header: &str, rows: impl Iterator<Item = Vec<String>>) -> String {
    let dashes = "|---".repeat(header.split(" | ").count());
    let rows = rows.map(|row| format!("| {} |", row.join(" | ")));
    let lines: Vec<_> = [format!("| {header} |"), format!("{dashes}|")].into_iter().chain(rows).collect();
    lines.join("\n") + "\n"
}

/// How many times as much as the real function.
fn ratios(rows: &[Row]) -> String {
    let own = &rows[0];
    let row = |row: &Row| {
        let columns = [
            ratio(row.init_cpu.median, own.init_cpu.median),
            ratio(row.first_cpu.median, own.first_cpu.median),
            ratio(row.warm_cpu.median, own.warm_cpu.median),
            ratio(row.warm_wall.median, own.warm_wall.median),
            ratio_of_counts(row.resident_kib as u64, own.resident_kib as u64),
        ];
        let columns = columns.map(|it| format!("{it:.1}")).to_vec();
        [vec![row.name.to_owned()], columns, vec![row.calls.to_string()]].concat()
    };
    let header = "times imds-enforcer's | init CPU | first event CPU | warm event CPU | warm event wall | memory | \
                  calls of EC2";
    table(header, rows.iter().map(row))
}

fn row<'a>(rows: &'a [Row], name: &str) -> Option<&'a Row> {
    rows.iter().find(|row| row.name == name)
}

/// The instructions of one function, as many times those of another, where they were counted.
fn instructions(of: &Row, to: &Row) -> [Option<f64>; 3] {
    let counted = of.instructions.zip(to.instructions);
    [0, 1, 2].map(|n| counted.map(|(of, to)| ratio_of_counts(of[n], to[n])))
}

/// How many times as much as the SDK alone the real function takes.
fn against_sdk_alone(rows: &[Row]) -> String {
    let (Some(own), Some(sdk)) = (rows.first(), row(rows, "SDK alone")) else { return String::new() };
    let [init, first, warm] = instructions(own, sdk);
    let columns = [
        Some(ratio(own.init_cpu.median, sdk.init_cpu.median)),
        Some(ratio(own.first_cpu.median, sdk.first_cpu.median)),
        Some(ratio(own.warm_cpu.median, sdk.warm_cpu.median)),
        init,
        first,
        warm,
        Some(ratio_of_counts(own.resident_kib as u64, sdk.resident_kib as u64)),
        own.zip.zip(sdk.zip).map(|(own, sdk)| ratio_of_counts(own, sdk)),
    ];
    let columns = columns.map(|it| or_dash(it.map(|it| format!("{it:.2}")))).to_vec();
    let header = "times SDK alone's | init CPU | first event CPU | warm event CPU | init instructions | first event | \
                  warm event | memory | zip";
    table(header, std::iter::once([vec![own.name.to_owned()], columns].concat()))
}

/// What the function is held to.
struct Goal {
    what: String,
    /// Nothing where it was not measured.
    is: Option<f64>,
    at_most: f64,
    decimals: usize,
}

impl Goal {
    fn times(what: &str, of: &str, is: Option<f64>, at_most: f64) -> Self {
        Self { what: format!("{what}, times that of *{of}*"), is, at_most, decimals: 2 }
    }

    #[expect(clippy::cast_precision_loss, reason = "far below where a number loses its last digit")]
    fn amount(what: &str, is: Option<u64>, at_most: f64) -> Self {
        Self { what: what.to_owned(), is: is.map(|it| it as f64), at_most, decimals: 0 }
    }

    fn verdict(&self) -> &'static str {
        match self.is {
            None => "not measured",
            Some(is) if is <= self.at_most => "yes",
            Some(_) => "no",
        }
    }

    fn number(&self, number: f64) -> String {
        format!("{number:.*}", self.decimals)
    }
}

fn goals(rows: &[Row]) -> Vec<Goal> {
    let [Some(own), Some(sdk), Some(floor), Some(bare)] =
        ["imds-enforcer", "SDK alone", "no SDK", "bare"].map(|name| row(rows, name))
    else {
        return Vec::new();
    };
    let [_, first, warm] = instructions(own, sdk);
    let first_cpu = |of: &Row| Some(ratio(own.first_cpu.median, of.first_cpu.median));
    let warm_cpu = |of: &Row| Some(ratio(own.warm_cpu.median, of.warm_cpu.median));
    vec![
        Goal::times("first event CPU", sdk.name, first_cpu(sdk), 1.15),
        Goal::times("warm event CPU", sdk.name, warm_cpu(sdk), 1.15),
        Goal::times("first event instructions", sdk.name, first, 1.15),
        Goal::times("warm event instructions", sdk.name, warm, 1.15),
        Goal::amount("log of a launch of one violator, bytes", own.logged.map(|it| it as u64), 2000.0),
        Goal::times("init CPU", bare.name, Some(ratio(own.init_cpu.median, bare.init_cpu.median)), 2.5),
        Goal::times("first event CPU", floor.name, first_cpu(floor), 2.0),
        Goal::times("warm event CPU", floor.name, warm_cpu(floor), 3.0),
        Goal::amount("resident, kB", Some(own.resident_kib as u64 * 1024 / 1000), 10_000.0),
        Goal::amount("zip, bytes", own.zip, 3_300_000.0),
    ]
}

fn goals_table(rows: &[Row]) -> String {
    let goals = goals(rows).into_iter().map(|goal| {
        let is = or_dash(goal.is.map(|is| goal.number(is)));
        vec![goal.what.clone(), is, goal.number(goal.at_most), goal.verdict().to_owned()]
    });
    table("imds-enforcer | is | goal, at most | holds", goals)
}

/// Whether every goal holds, in one line.
pub(crate) fn verdict(rows: &[Row]) -> String {
    let goals = goals(rows);
    let open: Vec<_> = goals.iter().filter(|goal| goal.verdict() != "yes").collect();
    if open.is_empty() {
        return format!("All {} goals hold.", goals.len());
    }
    let open = open.iter().map(|goal| {
        let is = or_dash(goal.is.map(|is| goal.number(is)));
        format!("{}: {is}, at most {} ({})", goal.what, goal.number(goal.at_most), goal.verdict())
    });
    format!("Of {} goals these do not hold:\n- {}", goals.len(), open.collect::<Vec<_>>().join("\n- "))
}

fn durations(rows: &[Row]) -> String {
    let row = |row: &Row| {
        let columns = [row.init_wall, row.init_cpu, row.first_wall, row.first_cpu, row.warm_wall, row.warm_cpu];
        let (name, resident) = (row.name.to_owned(), row.resident_kib.to_string());
        [vec![name], columns.map(spread).to_vec(), vec![resident]].concat()
    };
    let header = " | init wall | init CPU | first wall | first CPU | warm wall | warm CPU | resident KiB";
    table(header, rows.iter().map(row))
}

fn counts(rows: &[Row]) -> String {
    let row = |row: &Row| {
        let thousands = |it: u64| (it / 1000).to_string();
        let instructions = row.instructions.map_or(["–", "–", "–"].map(str::to_owned), |it| it.map(thousands));
        let faults = row.faults.map(|it| it.to_string());
        let sizes = [or_dash(row.logged), or_dash(row.zip)];
        [vec![row.name.to_owned()], instructions.to_vec(), faults.to_vec(), sizes.to_vec()].concat()
    };
    let header = " | init, 1,000 instructions | first event | warm event | init, page faults | first event | \
                  warm event | log, bytes | zip, bytes";
    table(header, rows.iter().map(row))
}

fn points(curves: &[Curve]) -> String {
    let rows = curves.iter().flat_map(|curve| {
        curve.points.iter().map(|point| {
            vec![
                curve.name.clone(),
                point.instances.to_string(),
                format!("{:.2}", ms(point.cost.cpu)),
                format!("{:.2}", ms(point.cost.wall)),
                point.cost.calls.to_string(),
                point.peak_kib.to_string(),
            ]
        })
    });
    table(" | instances | CPU ms | wall ms | calls of EC2 | resident KiB at the most", rows)
}

/// CPU by instances, both in powers of ten.
pub(crate) fn plot(curves: &[Curve], path: &Path) -> Result<(), Error> {
    let area = SVGBackend::new(path, (900, 540)).into_drawing_area();
    area.fill(&WHITE)?;
    let highest = curves.iter().flat_map(|it| &it.points).map(|it| ms(it.cost.cpu)).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(&area)
        .margin(20)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .caption("CPU of one event, ms", ("sans-serif", 20))
        .build_cartesian_2d((1f64..10_000f64).log_scale(), (0.1f64..highest * 1.5).log_scale())?;
    chart.configure_mesh().x_desc("instances").y_desc("ms").draw()?;
    for (number, curve) in curves.iter().enumerate() {
        let color = Palette99::pick(number).to_rgba();
        #[expect(clippy::cast_precision_loss, reason = "at most ten thousand")]
        let points: Vec<_> = curve.points.iter().map(|it| (it.instances as f64, ms(it.cost.cpu))).collect();
        chart
            .draw_series(LineSeries::new(points.clone(), color.stroke_width(2)).point_size(3))?
            .label(&curve.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    area.present()?;
    Ok(())
}
