//! The stand-in as a process: its help, its files and its control paths.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

const BINARY: &str = env!("CARGO_BIN_EXE_local-ec2");

/// A running stand-in. It ends when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Starts it and answers where it serves, which is the first line it prints.
fn start(arguments: &[&str]) -> (Process, String) {
    let mut child = Command::new(BINARY).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (Process(child), line.trim().to_owned())
}

fn get(endpoint: &str, path: &str) -> serde_json::Value {
    let body = ureq::get(format!("{endpoint}/_local/{path}")).call().unwrap().body_mut().read_to_string().unwrap();
    serde_json::from_str(&body).unwrap()
}

#[test]
fn its_help_says_that_it_is_a_stand_in() {
    let output = Command::new(BINARY).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(help.contains("stand-in") && help.contains("It is NOT EC2"), "{help}");
}

#[test]
fn it_serves_the_instances_of_a_file_on_this_machine_alone() {
    let fleet = concat!(env!("CARGO_MANIFEST_DIR"), "/../fleet.json");
    let (_process, endpoint) = start(&["--instances", fleet]);
    assert!(endpoint.starts_with("http://127.0.0.1:"), "{endpoint}");
    assert!(get(&endpoint, "instances").as_array().unwrap().len() > 100);
    assert_eq!(get(&endpoint, "counts"), serde_json::json!({}));
}

#[test]
fn its_control_paths_set_instances_and_faults_and_refuse_what_they_cannot_read() {
    let (_process, endpoint) = start(&[]);
    let post = |path: &str, body: &str| ureq::post(format!("{endpoint}/_local/{path}")).send(body);
    post("instances", r#"[{"instance_id": "i-1a2b3c4d", "metadata_options": {"http_tokens": "required"}}]"#).unwrap();
    assert_eq!(get(&endpoint, "instances")[0]["metadata_options"]["http_tokens"], "required");
    assert_eq!(get(&endpoint, "instances")[0]["metadata_options"]["http_put_response_hop_limit"], 1);
    post("faults", r#"[{"action": "DescribeInstances", "kind": "drop_connection"}]"#).unwrap();
    post("clock", "1000").unwrap();
    for (path, body) in [
        ("instances", "{"),
        ("instances", r#"[{"id": "i-1a2b3c4d"}]"#),
        ("faults", "[7]"),
        ("clock", "soon"),
        ("nowhere", ""),
    ] {
        assert!(post(path, body).is_err(), "{path} {body}");
    }
}

#[test]
fn a_file_it_cannot_read_is_named() {
    let output = Command::new(BINARY).args(["--instances", "no-such-file.json"]).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("no-such-file.json"));
}
