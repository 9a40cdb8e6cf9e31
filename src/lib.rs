//! Requires IMDSv2 session tokens on EC2 instances, within seconds of a launch or a downgrade.
//!
//! An AWS Lambda function hands each EventBridge event to [`enforce::Enforcer::handle`]: the event
//! says which instances to look at, EC2 describes them, [`policy::decide`] decides about each, and
//! where tokens are not required, they are required by the one call that can only ever tighten.
//! The answer is a [`report::Report`].
//!
//! # Decisions
//!
//! | instance state | `http_endpoint` | `http_tokens` | exempt | decision |
//! |---|---|---|---|---|
//! | shutting-down, terminated | any | any | any | `Gone` |
//! | any other | `disabled` | any | any | `EndpointDisabled` |
//! | any other | anything else | `required` | any | `Compliant` |
//! | any other | anything else | anything else | yes | `Exempt` |
//! | any other | anything else | anything else | no | `RequireTokens` |
//!
//! # Layout
//!
//! | module | knows |
//! |---|---|
//! | [`instance`] | EC2's words for an instance: the ground floor |
//! | [`event`] | what an invocation's JSON asks for; pure |
//! | [`exemption`] | what a tag must say to exempt, and until when; pure |
//! | [`policy`] | the decision table, and what is warned of; pure |
//! | [`cause`] | why tokens are not required, and what mends that; pure |
//! | [`aws_command`] | commands of the AWS CLI that a report suggests; pure |
//! | [`report`] | what was done, as data; pure |
//! | [`result_event`] | what is told of an instance on a bus; pure |
//! | [`metrics`] | metrics in CloudWatch's embedded format; pure |
//! | [`config`] | what the environment variables mean; pure |
//! | [`request_rate`] | how fast an action of EC2 may be called |
//! | [`ec2`] | the port to EC2 and the SDK behind it: the only file that names the SDK for EC2 |
//! | [`cloudwatch`] | the port to CloudWatch, for a sweep that spares instances in use |
//! | [`eventbridge`] | the port to EventBridge, for results on a bus |
//! | [`http`] | the SDK's HTTP client: TLS, roots, proxies |
//! | [`enforce`] | one invocation from event to report |
//! | [`publish`] | results on their way to the bus |
//! | [`telemetry`] | the log |
//!
//! Arrows run one way: the binary, then `enforce`, then the others, then `instance`.

pub mod aws_command;
pub mod cause;
pub mod cloudwatch;
pub mod config;
pub mod ec2;
pub mod enforce;
pub mod event;
pub mod eventbridge;
pub mod exemption;
pub mod http;
pub mod instance;
pub mod metrics;
pub mod policy;
pub mod publish;
pub mod report;
pub mod request_rate;
pub mod result_event;
pub mod telemetry;
