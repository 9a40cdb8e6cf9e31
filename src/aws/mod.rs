//! The ways to AWS: a narrow port for each service, and its implementation by the SDK.
//!
//! The only room that names an SDK. Each service's file holds the calls that the function can make
//! of it, and so the list of IAM actions that its role needs.

pub mod cloudwatch;
pub mod ec2;
mod error;
pub mod eventbridge;
pub mod http;
pub mod request_rate;

pub use error::{Class, Error};
