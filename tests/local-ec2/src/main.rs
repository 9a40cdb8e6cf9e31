//! The stand-in as a process, for demonstrations and for tests in other languages.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use local_ec2::LocalEc2;
use local_ec2::model::{Instance, Model};

/// A stand-in for EC2 on 127.0.0.1, for demonstrations and tests. It is NOT EC2: it has a few
/// actions, keeps everything in memory, checks no permission, and costs nothing.
///
/// Point a client at it with `AWS_ENDPOINT_URL_EC2`. GET `/_local/counts` says how often each action
/// was called; POST `/_local/instances` and `/_local/faults` take JSON lists,
/// and `/_local/clock` the milliseconds that are to pass at once.
#[derive(Debug, Parser)]
#[command(name = "local-ec2", version)]
struct Arguments {
    /// The port to listen on; 0 takes any that is free.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// A JSON list of instances to begin with, as POST `/_local/instances` takes it.
    #[arg(long)]
    instances: Option<PathBuf>,
    /// How long an instance is pending, stopping or shutting down, and changed options pending.
    #[arg(long, default_value_t = 500)]
    transition_ms: u64,
    /// Never answer `RequestLimitExceeded`.
    #[arg(long)]
    unlimited: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("local-ec2: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let mut model = Model::with_transition(Duration::from_millis(arguments.transition_ms));
    model.buckets.unlimited = arguments.unlimited;
    if let Some(path) = &arguments.instances {
        let name = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let json = std::fs::read(path).map_err(|error| name(&error))?;
        let instances: Vec<Instance> = serde_json::from_slice(&json).map_err(|error| name(&error))?;
        for instance in instances {
            model.put(instance);
        }
    }
    let server = LocalEc2::start(arguments.port, model)?;
    println!("{}", server.endpoint());
    Ok(server.wait()?)
}
