//! The integration tests, one binary: linking the EC2 SDK once is enough.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests may"
)]

mod claims;
mod cloudwatch;
mod fake;
mod fault_stand;
mod faults;
mod grace;
mod handler;
mod harness;
mod hostile;
mod in_process;
mod log;
mod mended;
mod month;
mod process;
mod property;
mod results;
mod roots;
mod runtime_api;
mod samples;
mod scale;
mod soak;
mod stand_in;
mod watch;
