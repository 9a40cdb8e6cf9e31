//! Why a call of AWS failed, by what can be done about it: one type for all services.
//!
//! It knows the codes that every service of AWS shares. What a service answers beyond these stands
//! beside the calls of that service.

use std::error::Error as StdError;

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

/// Why a call of AWS failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Error {
    /// What can be done about it.
    pub class: Class,
    /// The service's error code, or the SDK's name of an error that is no answer.
    pub code: String,
    /// The service's message, and what to grant or whom to ask; of an error that is no answer, the
    /// whole chain of causes.
    pub message: String,
}

/// What can be done about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The request rate is used up. Wait for a turn, then call again.
    Throttled,
    /// The instance is in no state to be changed, or not yet. Call again in a while.
    NotReady,
    /// The service does not know the instance, or not yet. Call again in a while if it must exist.
    NotFound,
    /// A fault of the service or of the network, which the SDK's retries did not get over.
    Retryable,
    /// It fails until somebody changes something. Do not call again.
    Refused,
}

impl Class {
    /// Whether a later call can succeed without anybody changing anything.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        match self {
            Self::Throttled | Self::NotReady | Self::NotFound | Self::Retryable => true,
            Self::Refused => false,
        }
    }

    /// The class of a service's code, if it is one that is known.
    pub(super) fn of(code: &str, own_codes: OwnCodes) -> Option<Self> {
        own_codes(code).or_else(|| shared_codes(code))
    }
}

/// The class of a code that only one service answers, or answers in another sense than the others.
pub(super) type OwnCodes = fn(&str) -> Option<Class>;

impl Error {
    /// A call that was given up because the function's time-out was near.
    pub(crate) fn deadline_exceeded(what: &str) -> Self {
        Self {
            class: Class::Retryable,
            code: "DeadlineExceeded".to_owned(),
            message: format!("the function's time-out was near: {what}"),
        }
    }

    /// An answer that does not say what it must.
    pub(super) fn unreadable(message: String) -> Self {
        Self { class: Class::Retryable, code: "UnreadableAnswer".to_owned(), message }
    }

    /// An error of a call that needs the IAM action `action`.
    pub(super) fn from_sdk<E>(error: &SdkError<E, HttpResponse>, own_codes: OwnCodes, action: &str) -> Self
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        let answer = error.as_service_error().and_then(|answer| Some((answer.code()?, answer.message())));
        let Some((code, message)) = answer else {
            return Self { class: Class::Retryable, code: sdk_name(error).to_owned(), message: chain(error) };
        };
        let status = error.raw_response().map_or(0, |response| response.status().as_u16());
        let class = Class::of(code, own_codes).unwrap_or(by_status(status));
        let advice = if is_access_denied(code) { advice(action) } else { String::new() };
        Self { class, code: code.to_owned(), message: format!("{}{advice}", message.unwrap_or("no message")) }
    }
}

/// The class of an unknown code. Doubt about a fault of the service is no reason to give up; doubt
/// about a request is, since the same request fails again.
fn by_status(status: u16) -> Class {
    if status >= 500 { Class::Retryable } else { Class::Refused }
}

/// The class of a code that every service may answer, by AWS's list of common errors; credentials
/// and a clock that the function's next environment may have right are among what passes by itself.
fn shared_codes(code: &str) -> Option<Class> {
    match code {
        code if code.contains("Throttl") || code == "TooManyRequestsException" => Some(Class::Throttled),
        "ExpiredToken"
        | "ExpiredTokenException"
        | "InternalFailure"
        | "RequestExpired"
        | "RequestTimeTooSkewed"
        | "RequestTimeout"
        | "RequestTimeoutException"
        | "ServiceUnavailable" => Some(Class::Retryable),
        _ => None,
    }
}

fn is_access_denied(code: &str) -> bool {
    matches!(code, "AccessDenied" | "AccessDeniedException" | "AuthFailure" | "UnauthorizedOperation")
}

fn advice(action: &str) -> String {
    format!(" (grant {action} to the function's role, and see that no policy of the organization denies it)")
}

/// The SDK's name of an error that is no answer of the service.
fn sdk_name<E>(error: &SdkError<E, HttpResponse>) -> &'static str {
    match error {
        SdkError::ConstructionFailure(_) => "ConstructionFailure",
        SdkError::TimeoutError(_) => "TimeoutError",
        SdkError::DispatchFailure(_) => "DispatchFailure",
        SdkError::ResponseError(_) => "ResponseError",
        SdkError::ServiceError(_) => "ServiceError",
        _ => "SdkError",
    }
}

/// An error with all its causes.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
pub(super) mod tests {
    use aws_smithy_types::body::SdkBody;
    use aws_smithy_types::error::ErrorMetadata;

    use super::*;

    /// An answer of this code and status, as a service's table reads it.
    pub(in crate::aws) fn answered(own_codes: OwnCodes, code: &str, status: u16) -> Error {
        let answer = ErrorMetadata::builder().code(code).message("no").build();
        let response = HttpResponse::new(status.try_into().unwrap(), SdkBody::empty());
        Error::from_sdk(&SdkError::service_error(answer, response), own_codes, "ec2:DescribeInstances")
    }

    fn class(code: &str, status: u16) -> Class {
        answered(|_| None, code, status).class
    }

    #[test]
    fn what_every_service_answers_is_classed_by_its_code() {
        for code in ["Throttling", "ThrottlingException", "RequestThrottled", "TooManyRequestsException"] {
            assert_eq!(class(code, 400), Class::Throttled, "{code}");
        }
        for code in
            ["ExpiredTokenException", "RequestExpired", "RequestTimeout", "InternalFailure", "ServiceUnavailable"]
        {
            assert_eq!(class(code, 400), Class::Retryable, "{code}");
        }
        for code in ["AccessDeniedException", "ValidationError", "New"] {
            assert_eq!(class(code, 400), Class::Refused, "{code}");
        }
        assert_eq!(class("New", 503), Class::Retryable);
    }

    #[test]
    fn a_service_s_own_code_comes_before_what_all_share() {
        assert_eq!(answered(|_| Some(Class::NotReady), "Throttling", 400).class, Class::NotReady);
    }

    #[test]
    fn a_denial_names_the_action_to_grant() {
        let message = answered(|_| None, "AccessDeniedException", 400).message;
        assert!(message.starts_with("no (grant ec2:DescribeInstances"), "{message}");
        assert_eq!(answered(|_| None, "ValidationError", 400).message, "no");
    }

    #[test]
    fn an_error_that_is_no_answer_is_retryable_and_has_its_causes() {
        let cause = std::io::Error::other("connection reset by peer");
        let error: SdkError<ErrorMetadata, HttpResponse> = SdkError::timeout_error(cause);
        let error = Error::from_sdk(&error, |_| None, "ec2:DescribeInstances");
        assert_eq!((error.class, error.code.as_str()), (Class::Retryable, "TimeoutError"));
        assert!(error.message.ends_with(": connection reset by peer"), "{error}");
    }

    #[test]
    fn nothing_but_a_refusal_may_be_called_again() {
        for class in [Class::Throttled, Class::NotReady, Class::NotFound, Class::Retryable] {
            assert!(class.is_retryable(), "{class:?}");
        }
        assert!(!Class::Refused.is_retryable());
    }
}
