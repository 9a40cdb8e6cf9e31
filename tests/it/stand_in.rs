//! Keeps the local EC2 honest: boto3, AWS's own client for Python, drives it and reads its answers.

use std::process::Command;
use std::time::{Duration, Instant};

use local_ec2::LocalEc2;
use local_ec2::model::Model;

use crate::harness::*;

/// The Python that `make test` sets up, with the packages of `tests/requirements.txt`.
pub(crate) fn python() -> std::path::PathBuf {
    let python = root().join(".venv/bin/python");
    assert!(python.exists(), "{} is missing: `make test` sets it up", python.display());
    python
}

#[test]
fn boto3_drives_it_without_complaint() {
    let ec2 = LocalEc2::start(0, Model::with_transition(Duration::from_mins(1))).unwrap();
    let output = Command::new(python()).arg(root().join("tests/it/stand_in.py")).arg(ec2.endpoint()).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(printed.ends_with("boto3 agrees\n"), "{printed}");
}

#[test]
fn an_unlimited_account_is_never_throttled_and_any_other_is() {
    let ec2 = local_ec2(violators(1));
    let now = Instant::now();
    let describe = |ec2: &LocalEc2| {
        let parameters = local_ec2::query::Parameters::parse(b"Action=DescribeInstances&MaxResults=5");
        ec2.model().call(DESCRIBE, &parameters, now)
    };
    let refused = (0..150).filter_map(|_| describe(&ec2).err()).collect::<Vec<_>>();
    assert_eq!(refused.len(), 50, "the bucket holds a hundred");
    assert!(refused.iter().all(|error| error.code == "RequestLimitExceeded"));
    ec2.model().buckets.unlimited = true;
    assert!((0..150).all(|_| describe(&ec2).is_ok()));
}
