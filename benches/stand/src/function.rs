//! A function under test as a process, and what it costs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::Error;
use crate::ec2::Ec2;
use crate::runtime_api::{Answer, RuntimeApi};

/// A function, and how it is started.
#[derive(Debug, Clone)]
pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) command: Vec<String>,
    pub(crate) folder: PathBuf,
    pub(crate) variables: Vec<(&'static str, &'static str)>,
    /// What would be uploaded, where it is packed.
    pub(crate) zip: Option<PathBuf>,
}

/// What an event costs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) wall: Duration,
    /// Of all threads of the process.
    pub(crate) cpu: Duration,
    pub(crate) calls: usize,
    /// Pages that the kernel had to map.
    pub(crate) faults: usize,
}

/// A function that is ready for its first event.
pub(crate) struct Running<'a> {
    ec2: &'a Ec2,
    api: RuntimeApi,
    child: Child,
    pid: Pid,
    log: PathBuf,
    /// From the start of the process until it asked for the first event.
    pub(crate) init: Cost,
}

impl Function {
    /// Whether it is a binary of its own, and not a script for an interpreter.
    pub(crate) fn is_binary(&self) -> bool {
        self.command.len() == 1
    }

    /// Starts it, after the words of `before`, such as a profiler and its options.
    pub(crate) async fn start<'a>(&self, ec2: &'a Ec2, before: &[String], logs: &Path) -> Result<Running<'a>, Error> {
        let mut api = RuntimeApi::start().await?;
        let words: Vec<_> = before.iter().chain(&self.command).collect();
        let log = logs.join(format!("{}.log", self.name.replace(' ', "-")));
        let output = File::create(&log)?;
        let begin = Instant::now();
        let child = Command::new(words[0])
            .args(&words[1..])
            .current_dir(&self.folder)
            .env_clear()
            .envs([("PATH", std::env::var("PATH")?), ("AWS_LAMBDA_RUNTIME_API", api.address.clone())])
            .envs([("AWS_ENDPOINT_URL_EC2", &ec2.endpoint), ("AWS_ENDPOINT_URL", &ec2.endpoint)])
            .envs([("SSL_CERT_FILE", &ec2.few_roots), ("AWS_CA_BUNDLE", &ec2.many_roots)])
            .env("LAMBDA_TASK_ROOT", &self.folder)
            .envs([("AWS_REGION", "us-east-1"), ("AWS_DEFAULT_REGION", "us-east-1")])
            .envs([("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "not-a-secret")])
            .envs([("AWS_CONFIG_FILE", "/dev/null"), ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")])
            .envs([("AWS_LAMBDA_FUNCTION_NAME", "bench"), ("AWS_LAMBDA_FUNCTION_VERSION", "1")])
            .envs([("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"), ("AWS_EC2_METADATA_DISABLED", "true")])
            .envs(self.variables.iter().copied())
            .stderr(output.try_clone()?)
            .stdout(output)
            .kill_on_drop(true)
            .spawn()?;
        let pid = Pid::from_raw(child.id().ok_or("the process has ended")?.try_into()?);
        api.ready().await.map_err(|error| format!("{}: {error}: {}", self.name, tail(&log)))?;
        let init = Cost { wall: begin.elapsed(), cpu: cpu(pid)?, calls: ec2.calls(), faults: faults(pid)? };
        Ok(Running { ec2, api, child, pid, log, init })
    }
}

impl Running<'_> {
    /// Hands it an event, and answers what that cost. Its answer must be no error.
    pub(crate) async fn invoke(&mut self, event: &str) -> Result<Cost, Error> {
        let (cpu_before, calls_before, faults_before) = (cpu(self.pid)?, self.ec2.calls(), faults(self.pid)?);
        let Answer { wall, failed, body } = self.api.invoke(event).await?;
        if failed {
            return Err(format!("{body}: {}", tail(&self.log)).into());
        }
        Ok(Cost {
            wall,
            cpu: cpu(self.pid)?.saturating_sub(cpu_before),
            calls: self.ec2.calls() - calls_before,
            faults: faults(self.pid)? - faults_before,
        })
    }

    /// How many bytes it has logged so far.
    pub(crate) fn logged(&self) -> Result<usize, Error> {
        Ok(fs::metadata(&self.log)?.len().try_into()?)
    }

    /// A line of `/proc/…/status`, in KiB: `VmRSS`, or at the most `VmHWM`.
    pub(crate) fn memory_kib(&self, line: &str) -> Result<usize, Error> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|it| it.strip_prefix(line)?.strip_prefix(':')).ok_or("no such line")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// Ends it, as a shutdown does, and waits for what it still writes.
    pub(crate) async fn end(mut self) -> Result<(), Error> {
        kill(self.pid, Signal::SIGTERM)?;
        self.child.wait().await?;
        Ok(())
    }
}

/// The CPU time that all threads of a process have used, those that ended too.
fn cpu(pid: Pid) -> Result<Duration, Error> {
    Ok(Duration::from(clock_getcpuclockid(pid)?.now()?))
}

/// The minor page faults of a process so far.
fn faults(pid: Pid) -> Result<usize, Error> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, after_name) = stat.rsplit_once(')').ok_or("no name in stat")?;
    Ok(after_name.split_whitespace().nth(7).ok_or("no faults in stat")?.parse()?)
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.chars().rev().take(2000).collect::<Vec<_>>().into_iter().rev().collect()
}
