//! Which certificates the function trusts: the real binary before a server of TLS.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use local_ec2::LocalEc2;

use crate::harness::*;
use crate::process::Function;
use crate::stand_in::python;

/// TLS before a local EC2, with an authority that nobody else knows. It ends when dropped.
struct Tls {
    process: Child,
    endpoint: String,
    authority: PathBuf,
}

impl Tls {
    fn before(ec2: &LocalEc2, name: &str) -> Self {
        let authority = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.pem"));
        let endpoint = ec2.endpoint();
        let port = endpoint.rsplit(':').next().unwrap();
        let mut process = Command::new(python())
            .arg(root().join("tests/it/tls.py"))
            .arg(port)
            .arg(&authority)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut port = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut port).unwrap();
        Self { process, endpoint: format!("https://localhost:{}", port.trim()), authority }
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

#[test]
fn roots_that_the_environment_names_are_trusted() {
    let ec2 = local_ec2(fleet());
    let tls = Tls::before(&ec2, "named");
    let variables = [("SSL_CERT_FILE", tls.authority.to_str().unwrap())];
    let function = Function::start("named-roots", &tls.endpoint, &variables);
    let report = function.invoke(&sample("RunInstances/three"));
    assert_eq!(report["counts"]["enforced"], 3, "{report}");
    assert!(!function.log().contains("Amazon's roots"), "{}", function.log());
}

#[test]
fn a_certificate_that_amazon_did_not_sign_is_tried_with_the_environments_roots() {
    let ec2 = local_ec2(fleet());
    let tls = Tls::before(&ec2, "unknown");
    let function = Function::start("unknown-roots", &tls.endpoint, &[]);
    let answer = function.invoke(&sample("RunInstances/three"));
    assert_eq!(answer["errorType"], "EnforcementIncomplete", "{answer}");
    assert!(answer["errorMessage"].as_str().unwrap().contains("UnknownIssuer"), "{answer}");
    assert_eq!(count(&ec2, DESCRIBE), 0, "no request is sent to whom nobody vouches for");
    assert!(function.log().contains("trying the environment's"), "{}", function.log());
}

#[test]
fn the_roots_of_the_function_are_those_of_amazon_as_others_know_them() {
    let known = std::fs::read_to_string(site_packages().join("certifi/cacert.pem")).unwrap();
    let own = text("src/aws/amazon_roots.pem");
    let blocks: Vec<_> = own.split("-----BEGIN").skip(1).map(|it| it.split("-----END").next().unwrap()).collect();
    assert_eq!(blocks.len(), 5);
    for block in blocks {
        assert!(known.contains(block), "{block}");
    }
}
