//! Requires IMDSv2 session tokens on EC2 instances, within seconds of a launch or a downgrade.
//!
//! An AWS Lambda function hands each EventBridge event to [`enforce::Enforcer::handle`]: the event
//! says which instances to look at, EC2 describes them, [`policy::decide`] decides about each, and
//! where tokens are not required, they are required by the one call that can only ever tighten.
//! The answer is a [`report::Report`].
//!
//! # Decisions
//!
//! | instance state | `http_endpoint` | `http_tokens` | managed by a service | exempt | decision |
//! |---|---|---|---|---|---|
//! | shutting-down, terminated | any | any | any | any | `Gone` |
//! | any other | `disabled` | any | any | any | `EndpointDisabled` |
//! | any other | anything else | `required` | any | any | `Compliant` |
//! | any other | anything else | anything else | yes | any | `Managed` |
//! | any other | anything else | anything else | no | yes | `Exempt` |
//! | any other | anything else | anything else | no | no | `RequireTokens` |
//!
//! # Layout
//!
//! | room | knows |
//! |---|---|
//! | [`instance`] | EC2's words for an instance: the ground floor |
//! | [`policy`] | the decision table, exemptions, what is new, old or loosened, and what is warned of; pure |
//! | [`event`] | what an invocation's JSON asks for, as a bare event or an SQS batch, and what CloudTrail recorded of the call; pure |
//! | [`cause`] | why tokens are not required, and the commands that mend that; pure |
//! | [`report`] | what was done, as data: the answer, results for a bus, metrics; pure |
//! | [`config`] | what the environment variables mean; pure |
//! | [`aws`] | the ports to EC2, CloudWatch and EventBridge, and the SDK behind them |
//! | [`enforce`] | one invocation from event to report |
//! | [`telemetry`] | the log |
//!
//! Arrows run one way: the binary, then `enforce`, then the others, then `instance`.

pub mod aws;
pub mod cause;
pub mod config;
pub mod enforce;
pub mod event;
pub mod instance;
pub mod policy;
pub mod report;
pub mod telemetry;
