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

fn ratio(of: Duration, to: Duration) -> String {
    format!("{:.1}", of.as_secs_f64() / to.as_secs_f64())
}

/// The whole report.
pub(crate) fn markdown(rows: &[Row], curves: &[Curve], zip: u64) -> String {
    let mut text = format!(
        "# What the function costs\n\nWritten by `make bench` on {}, shared with others: \
         believe the ratios and the counts. An event is a launch of one instance that does not require tokens. \
         Every function ran as a process under a Runtime API, against one local EC2 behind TLS, on 127.0.0.1.\n\n\
         - *no SDK*: the same calls of EC2, written by hand, without pages, retries, errors or a report: the floor.\n\
         - *bare*: lambda_runtime and nothing else.\n\
         - *boto3*: a Python function that does the same.\n\
         - *Cloud Custodian*: its own handler, with the equivalent policy.\n\n",
        machine()
    );
    text += &ratios(rows);
    text += "\n";
    text += &goals(rows, zip);
    text += "\nMilliseconds, the median and in brackets the quartiles:\n\n";
    text += &durations(rows);
    text += "\nCounts, of instructions by callgrind, where it is installed, of what is no interpreter's; a page fault \
             is a page of memory that the kernel had to map:\n\n";
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
        #[expect(clippy::cast_precision_loss, reason = "a ratio of one decimal")]
        let memory = row.resident_kib as f64 / own.resident_kib as f64;
        vec![
            row.name.to_owned(),
            ratio(row.init_cpu.median, own.init_cpu.median),
            ratio(row.first_cpu.median, own.first_cpu.median),
            ratio(row.warm_cpu.median, own.warm_cpu.median),
            ratio(row.warm_wall.median, own.warm_wall.median),
            format!("{memory:.1}"),
            row.calls.to_string(),
        ]
    };
    let header = "times imds-enforcer's | init CPU | first event CPU | warm event CPU | warm event wall | memory | \
                  calls of EC2";
    table(header, rows.iter().map(row))
}

/// What the function is held to.
fn goals(rows: &[Row], zip: u64) -> String {
    let [own, floor, bare, ..] = rows else { return String::new() };
    let goal = |what: &str, is: String, at_most: &str| vec![what.to_owned(), is, at_most.to_owned()];
    let kilobytes = (own.resident_kib * 1024 / 1000).to_string();
    let rows = [
        goal("init CPU, times that of *bare*", ratio(own.init_cpu.median, bare.init_cpu.median), "2.5"),
        goal("first event CPU, times that of *no SDK*", ratio(own.first_cpu.median, floor.first_cpu.median), "2"),
        goal("warm event CPU, times that of *no SDK*", ratio(own.warm_cpu.median, floor.warm_cpu.median), "3"),
        goal("resident, kB", kilobytes, "10,000"),
        goal("zip, bytes", zip.to_string(), "3,300,000"),
    ];
    table("imds-enforcer | is | goal, at most", rows.into_iter())
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
        [vec![row.name.to_owned()], instructions.to_vec(), row.faults.map(|it| it.to_string()).to_vec()].concat()
    };
    let header =
        " | init, 1,000 instructions | first event | warm event | init, page faults | first event | warm event";
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
