//! A stand-in for EC2, for demonstrations and tests. It is not EC2.
//!
//! It serves on 127.0.0.1 the few actions that `imds-enforcer` and its tests use, and does by
//! them what EC2 documents: metadata options change one by one, are `pending` before they are
//! `applied`, requests are throttled by token buckets, pages count instances. What it does not
//! have, it refuses with `InvalidAction`, `InvalidParameterValue` or `UnknownParameter`; it never
//! answers as if it had done something. It knows no IAM: [`model::Model::deny`] and `denies_closed` refuse instead.
//!
//! # Layout
//!
//! | module | knows |
//! |---|---|
//! | [`model`] | instances, and what each action does to them |
//! | [`query`] | the parameters of a request in EC2's query protocol |
//! | [`answer`] | answers and errors as EC2's XML |
//! | [`bucket`] | token buckets |
//! | [`fault`] | faults to be injected, by action and count |
//! | [`exchange`] | one request, one reply, without sockets |
//! | [`server`] | HTTP, and the control paths for a process apart |

pub mod answer;
pub mod bucket;
pub mod exchange;
pub mod fault;
pub mod model;
pub mod query;
pub mod server;

pub use server::LocalEc2;
