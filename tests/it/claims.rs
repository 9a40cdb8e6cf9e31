//! What documentation and layout claim, held to the code.

use std::path::{Path, PathBuf};

use imds_enforcer::aws::ec2::IAM_ACTIONS;
use imds_enforcer::cause::Kind;
use imds_enforcer::config::{Config, Mode};
use imds_enforcer::event::EventSummary;
use imds_enforcer::report::{Instances, Published, Report, Watched};
use serde_json::Value;

use crate::harness::*;

/// The manuals, each beside what it explains.
const MANUALS: [&str; 9] = [
    "README.md",
    "benches/README.md",
    "events/README.md",
    "infra/README.md",
    "infra/guardrails/README.md",
    "tests/README.md",
    "tests/fuzz/README.md",
    "tests/infra/README.md",
    "tests/local-ec2/README.md",
];

/// The rows of the Markdown table that begins with this header, without blanks and marks.
fn table(text: &str, header: &str) -> Vec<String> {
    let text = text.replace("//! ", "");
    let from = text.find(header).unwrap_or_else(|| panic!("no table begins with {header:?}"));
    let rows = text[from..].lines().take_while(|line| line.starts_with('|'));
    rows.map(|row| row.chars().filter(|c| !matches!(c, ' ' | '`' | '-')).collect()).collect()
}

/// Every source file of the function, with its text.
fn sources() -> Vec<(PathBuf, String)> {
    fn files(folder: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
    }
    let files = files(&root().join("src")).into_iter().filter(|path| path.extension().is_some_and(|it| it == "rs"));
    files.map(|path| (path.clone(), text(path))).collect()
}

#[test]
fn the_readme_is_a_page() {
    let lines = text("README.md").lines().count();
    assert!(lines <= 200, "{lines} lines");
}

/// Where a text's links lead, without those to the web.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.starts_with("https://")).collect()
}

/// The anchors of a text's headings, as GitHub names them.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let anchor = |heading: &str| -> String {
        let heading = heading.to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_of_the_manuals_leads_to_a_file_and_a_heading() {
    for manual in MANUALS {
        let (content, place) = (text(manual), root().join(manual));
        for link in links(&content) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { place.clone() } else { place.with_file_name(path) };
            assert!(target.exists(), "{manual}: {link}");
            let is_heading = |anchor: &str| anchors(&text(&target)).iter().any(|it| it == anchor);
            assert!(anchor.is_empty() || is_heading(anchor), "{manual}: {link}");
        }
    }
}

#[test]
fn the_decision_table_of_the_manual_is_that_of_the_code() {
    let header = "| instance state |";
    let of_code = table(&text("src/lib.rs"), header);
    assert_eq!(of_code.len(), 8);
    assert_eq!(table(&text("README.md"), header), of_code);
}

#[test]
fn every_variable_that_is_read_is_in_the_manual() {
    let read = std::cell::RefCell::new(Vec::new());
    let config = Config::from_vars(|name| {
        read.borrow_mut().push(name.to_owned());
        None
    });
    assert!(config.is_ok());
    for variable in read.into_inner() {
        assert!(text("README.md").contains(&format!("| `{variable}` |")), "{variable}");
    }
}

#[test]
fn the_manual_names_every_command_of_the_makefile() {
    let makefile = text("Makefile");
    let targets = makefile
        .lines()
        .filter_map(|line| line.split_once(": ##").or_else(|| line.split_once(" ##"))?.0.split(':').next());
    let targets: Vec<_> = targets.filter(|target| !target.starts_with('\t')).collect();
    assert!(targets.contains(&"demo") && targets.contains(&"test") && targets.contains(&"check"), "{targets:?}");
    for target in targets {
        assert!(
            text("README.md").contains(&format!("`make {target}`"))
                || text("README.md").contains(&format!("make {target}\n")),
            "make {target}"
        );
    }
}

/// The names of all properties that a JSON Schema has, at any depth.
fn properties(schema: &Value) -> Vec<String> {
    let Some(fields) = schema.as_object() else { return Vec::new() };
    let own = fields.get("properties").and_then(Value::as_object);
    let own = own.into_iter().flat_map(|it| it.keys().cloned());
    own.chain(fields.values().flat_map(properties)).collect()
}

#[test]
fn every_field_of_the_schema_and_of_the_report_is_in_the_manual() {
    let schema: Value = serde_json::from_str(&text("events/schema/result-2.json")).unwrap();
    let event = EventSummary::default();
    let report = Report {
        ignored: Some(String::new()),
        results: Some(Published::default()),
        watch: Some(Watched::default()),
        unlisted: 1,
        ..Report::new(Mode::Enforce, event, Instances::default(), None)
    };
    let report = serde_json::to_value(report).unwrap();
    let counts = report["counts"].as_object().unwrap().keys();
    let fields = properties(&schema).into_iter().chain(report.as_object().unwrap().keys().chain(counts).cloned());
    let manual = text("events/README.md");
    for field in fields {
        assert!(manual.contains(&format!("`{field}`")), "{field} is not in the manual");
    }
}

#[test]
fn the_report_in_the_manual_is_the_answer_to_its_sample() {
    let manual = text("events/README.md");
    let shown = manual.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let shown: Value = serde_json::from_str(shown).unwrap();
    let snapshot = text("tests/it/snapshots/RunInstances.auto-scaling.snap");
    let snapshot: Value = serde_json::from_str(snapshot.splitn(3, "---\n").nth(2).unwrap()).unwrap();
    assert_eq!(shown, snapshot["answer"]);
}

#[test]
fn the_manual_names_the_metric_of_each_alarm() {
    let (manual, template) = (text("infra/README.md"), text("infra/template.yaml"));
    let alarms: Vec<_> = template.split("    Type: AWS::CloudWatch::Alarm\n").collect();
    assert_eq!(alarms.len(), 12);
    for pair in alarms.windows(2) {
        let name = pair[0].lines().last().unwrap().trim().trim_end_matches(':');
        let value = |key: &str| pair[1].lines().find_map(|line| line.trim().strip_prefix(key)).unwrap();
        let mut rows = manual.lines().filter(|row| row.starts_with(&format!("| `{name}`")));
        let metric = format!(" | `{}`, `{}`, ", value("Namespace: "), value("MetricName: "));
        assert!(rows.any(|row| row.contains(&metric)), "{name}{metric}");
    }
}

#[test]
fn every_alarm_every_metric_and_every_kind_of_cause_has_its_place_in_the_manual() {
    let (manual, template) = (text("infra/README.md"), text("infra/template.yaml"));
    let alarms: Vec<_> = template.lines().filter_map(|line| line.strip_prefix("  ")?.strip_suffix("Alarm:")).collect();
    assert_eq!(alarms.len(), 11, "{alarms:?}");
    for alarm in alarms {
        assert!(manual.contains(&format!("### `{alarm}Alarm`\n")), "{alarm}");
    }
    let source = text("src/report/metrics.rs");
    let metrics = source.split("#[cfg(test)]").next().unwrap().split('"').skip(1).step_by(2);
    let metrics = metrics.filter(|it| {
        ["Instances", "SweepInstances", "Ec2", "Results", "TimeTo"].iter().any(|start| it.starts_with(start))
    });
    for metric in metrics {
        assert!(manual.contains(&format!("`{metric}`")), "{metric}");
    }
    let manual = text("events/README.md");
    let rows = manual.split("| `kind` | when |").nth(1).unwrap().split("\n\n").next().unwrap();
    let places: Vec<_> = Kind::ALL.iter().map(|kind| rows.find(&format!("`{}`", kind.as_str()))).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "each kind in its place: {places:?}");
}

#[test]
fn the_measurements_of_the_manual_are_the_latest() {
    let header = "| times imds-enforcer's |";
    let latest = table(&text("benches/results/report.md"), header);
    assert_eq!(latest.len(), 8);
    let manual = table(&text("benches/README.md"), header);
    assert_eq!(manual, latest, "after `make bench`, its first table goes into benches/README.md");
}

#[test]
fn every_source_file_says_what_it_knows() {
    for (path, source) in sources() {
        assert!(source.starts_with("//! "), "{}", path.display());
    }
}

#[test]
fn only_one_file_names_each_sdk_and_that_of_ec2_lists_the_actions_of_its_calls() {
    for (path, source) in sources() {
        let code = source.split("#[cfg(test)]").next().unwrap();
        for (sdk, file) in [
            ("aws_sdk_ec2", "ec2.rs"),
            ("aws_sdk_cloudwatch", "cloudwatch.rs"),
            ("aws_sdk_eventbridge", "eventbridge.rs"),
        ] {
            assert_eq!(code.contains(sdk), path.ends_with(format!("src/aws/{file}")), "{}", path.display());
        }
    }
    let source = text("src/aws/ec2.rs");
    let clients = source.split("self.client").skip(1);
    let calls = clients.filter_map(|rest| rest.trim_start().strip_prefix('.')?.split("()").next());
    let mut calls: Vec<_> = calls.map(|call| format!("ec2:{}", pascal_case(call))).collect();
    calls.sort();
    calls.dedup();
    assert_eq!(calls, IAM_ACTIONS);
}

fn pascal_case(snake_case: &str) -> String {
    let capitalize = |word: &str| word[..1].to_uppercase() + &word[1..];
    snake_case.split('_').map(capitalize).collect()
}

#[test]
fn nothing_in_the_function_can_loosen_an_instance() {
    for (path, source) in sources() {
        assert!(!source.contains("HttpTokensState::Optional"), "{}", path.display());
        assert!(!source.contains("InstanceMetadataEndpointState::Disabled"), "{}", path.display());
    }
}
