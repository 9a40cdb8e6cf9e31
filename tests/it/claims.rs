//! What documentation and layout claim, held to the code.

use std::path::PathBuf;

use imds_enforcer::config::Config;
use imds_enforcer::ec2::IAM_ACTIONS;

use crate::harness::*;

/// The rows of the Markdown table that begins with this header, without blanks and marks.
fn table(text: &str, header: &str) -> Vec<String> {
    let text = text.replace("//! ", "");
    let from = text.find(header).unwrap_or_else(|| panic!("no table begins with {header:?}"));
    let rows = text[from..].lines().take_while(|line| line.starts_with('|'));
    rows.map(|row| row.chars().filter(|c| !matches!(c, ' ' | '`' | '-')).collect()).collect()
}

fn sources() -> Vec<(PathBuf, String)> {
    let folders = ["src", "src/bin"].map(|folder| root().join(folder));
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap()).map(|file| file.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|it| it == "rs"));
    files.map(|path| (path.clone(), text(path))).collect()
}

#[test]
fn the_decision_table_of_the_manual_is_that_of_the_code() {
    let header = "| instance state |";
    let of_code = table(&text("src/lib.rs"), header);
    assert_eq!(of_code.len(), 7);
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

#[test]
fn the_measurements_of_the_manual_are_the_latest() {
    let header = "| times imds-enforcer's |";
    let latest = table(&text("benches/results/report.md"), header);
    assert_eq!(latest.len(), 7);
    assert_eq!(table(&text("README.md"), header), latest, "after `make bench`, its first table goes into the README");
}

#[test]
fn every_source_file_says_what_it_knows() {
    for (path, source) in sources() {
        assert!(source.starts_with("//! "), "{}", path.display());
    }
}

#[test]
fn only_one_file_names_the_sdk_for_ec2_and_its_actions_are_the_calls_it_makes() {
    for (path, source) in sources() {
        let code = source.split("#[cfg(test)]").next().unwrap();
        assert_eq!(code.contains("aws_sdk_ec2"), path.ends_with("src/ec2.rs"), "{}", path.display());
    }
    let source = text("src/ec2.rs");
    let calls =
        source.split("client").skip(1).filter_map(|rest| rest.trim_start().strip_prefix('.')?.split("()").next());
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
