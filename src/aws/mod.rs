//! The ways to AWS: a narrow port for each service, and its implementation by the SDK.
//!
//! The only room that names an SDK.

pub mod cloudwatch;
pub mod ec2;
pub mod eventbridge;
pub mod http;
pub mod request_rate;
