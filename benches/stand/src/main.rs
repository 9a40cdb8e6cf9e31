//! What the function costs, next to what one would have in its place: `make bench`.
//!
//! Every function is the real thing, as a process under a Runtime API, against the same local EC2
//! behind TLS. Only the ratios within one run mean anything: machines differ, and are shared.
//!
//! | module | knows |
//! |---|---|
//! | `runtime_api` | Lambda's Runtime API |
//! | `ec2` | the local EC2 behind TLS |
//! | `function` | a function as a process |
//! | `measure` | what is measured |
//! | `report` | tables and plot |

mod ec2;
mod function;
mod measure;
mod report;
mod runtime_api;

use std::fs;
use std::path::PathBuf;

use function::Function;

type Error = Box<dyn std::error::Error>;

/// Where things are, from the repository's root.
struct Paths {
    root: PathBuf,
    python: PathBuf,
    certifi: PathBuf,
    work: PathBuf,
}

impl Paths {
    /// From the arguments: the repository, the Python of the rivals, and certifi's roots.
    fn from_arguments() -> Result<Self, Error> {
        let [root, python, certifi] = std::env::args()
            .skip(1)
            .collect::<Vec<_>>()
            .try_into()
            .map_err(|_| "usage: bench REPOSITORY PYTHON CERTIFI, as `make bench` does")?;
        let root = fs::canonicalize(root)?;
        let work = root.join("target/bench");
        fs::create_dir_all(&work)?;
        Ok(Self { python: std::path::absolute(python)?, certifi: fs::canonicalize(certifi)?, work, root })
    }

    fn functions(&self) -> Vec<Function> {
        let built = |name: &str| self.root.join("target/bench-stand/release").join(name);
        let rivals = self.root.join("benches/rivals");
        let binary = |name, path: PathBuf| Function {
            name,
            command: vec![path.display().to_string()],
            folder: self.root.clone(),
            variables: Vec::new(),
            zip: None,
        };
        let packed = |name: &'static str, built: &str| Function {
            zip: Some(self.root.join("target").join(built).with_extension("zip")),
            ..binary(name, self.root.join("target/lambda").join(built).join("bootstrap"))
        };
        let python = |name, folder: PathBuf, handler: &str| Function {
            name,
            command: vec![self.python.display().to_string(), "-m".into(), "awslambdaric".into(), handler.into()],
            folder,
            variables: vec![("PYTHONDONTWRITEBYTECODE", "1")],
            zip: None,
        };
        vec![
            packed("imds-enforcer", "imds-enforcer"),
            packed("SDK alone", "sdk-alone"),
            binary("no SDK", built("floor")),
            binary("bare", built("bare")),
            python("boto3", rivals.clone(), "boto3_handler.handle"),
            python("Cloud Custodian", rivals.join("c7n"), "custodian_policy.run"),
        ]
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Error> {
    let paths = Paths::from_arguments()?;
    let ec2 = ec2::Ec2::start(&paths.work, &paths.certifi).await?;
    let functions = paths.functions();
    let rows = measure::rows(&functions, &ec2, &paths.work).await?;
    let curves = measure::curves(&functions, &ec2, &paths.work).await?;
    let results = paths.root.join("benches/results");
    fs::create_dir_all(&results)?;
    report::plot(&curves, &results.join("curve.svg"))?;
    let report = report::markdown(&rows, &curves);
    fs::write(results.join("report.md"), &report)?;
    println!("{report}");
    println!("{}", report::verdict(&rows));
    Ok(())
}
