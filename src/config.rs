//! What the environment variables mean.
//!
//! Pure: it is handed a way to look a variable up and never asks the environment itself. A value
//! that is not allowed is an error that stops the function from starting.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use chrono::NaiveDate;
use serde::Serialize;
use tracing_subscriber::filter::{LevelFilter, Targets};

use crate::policy::exact_day;
use crate::policy::exemption::Exemptions;

/// Everything that can be configured, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// `IMDS_MODE`.
    pub mode: Mode,
    /// `IMDS_LOG`.
    pub log: Targets,
    /// `IMDS_EXEMPTION_TAG` and `IMDS_EXEMPTION_MAX_DAYS`; without a tag there are no exemptions.
    pub exemptions: Option<Exemptions>,
    /// `IMDS_RESULT_BUS`: a name or an ARN.
    pub result_bus: Option<String>,
    /// `IMDS_ENFORCE_SINCE`, if it is a day.
    pub enforce_since: Option<NaiveDate>,
    /// `IMDS_GRACE_DAYS`, if it is not 0.
    pub grace_days: Option<u16>,
    /// `IMDS_SWEEP_LIMIT`, if it is not 0.
    pub sweep_limit: Option<usize>,
    /// `IMDS_WATCH_REFUSALS`, in hours, if it is not `off`.
    pub watch_refusals: Option<u16>,
}

/// Whether the function writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Require tokens where they are not required.
    #[default]
    Enforce,
    /// Only report where they would be.
    Observe,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        })
    }
}

impl FromStr for Mode {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "enforce" => Ok(Self::Enforce),
            "observe" => Ok(Self::Observe),
            _ => Err(()),
        }
    }
}

/// A variable with a value that is not allowed. The function does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("environment variable {variable} is {value:?}; allowed: {allowed}")]
pub struct ConfigError {
    variable: &'static str,
    value: String,
    allowed: &'static str,
}

impl Config {
    /// Reads the configuration; `var` answers a variable's value, or `None` where it is not set.
    /// An empty value is as good as none.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], naming the first variable that has a value it may not have.
    pub fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mode = parse(&var, "IMDS_MODE", "enforce, observe", |text| text.parse().ok())?;
        let log = parse(
            &var,
            "IMDS_LOG",
            "off, error, warn, info, debug, trace, or target=level, separated by commas",
            log_filter,
        )?;
        let tag = parse(
            &var,
            "IMDS_EXEMPTION_TAG",
            "a tag's key of at most 128 characters that does not begin with aws:",
            tag_key,
        )?;
        let max_days = parse(&var, "IMDS_EXEMPTION_MAX_DAYS", "a number from 1 to 365", |text| number(text, 1..=365))?;
        let result_bus = parse(&var, "IMDS_RESULT_BUS", "the name or the ARN of an EventBridge bus", bus)?;
        let since = parse(&var, "IMDS_ENFORCE_SINCE", "all, or a day in UTC as YYYY-MM-DD", enforce_since)?;
        let grace = parse(&var, "IMDS_GRACE_DAYS", "a number from 0 to 90", |text| number(text, 0..=90))?;
        let limit = parse(&var, "IMDS_SWEEP_LIMIT", "a number from 0 to 100000", |text| number(text, 0..=100_000))?;
        let watch = parse(&var, "IMDS_WATCH_REFUSALS", "off, or a number of hours from 1 to 24", watch_hours)?;
        Ok(Self {
            mode: mode.unwrap_or_default(),
            log: log.unwrap_or_else(Self::default_log),
            exemptions: tag.map(|tag| Exemptions { tag, max_days: max_days.unwrap_or(MAX_DAYS) }),
            result_bus,
            enforce_since: since.flatten(),
            grace_days: grace.filter(|days| *days > 0),
            sweep_limit: limit.filter(|limit| *limit > 0),
            watch_refusals: watch.filter(|hours| *hours > 0),
        })
    }

    /// What is logged unless `IMDS_LOG` says otherwise, and before it is known: `info`.
    #[must_use]
    pub fn default_log() -> Targets {
        without_repetition(Targets::new().with_default(LevelFilter::INFO))
    }
}

fn parse<T>(
    var: impl Fn(&str) -> Option<String>,
    variable: &'static str,
    allowed: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, ConfigError> {
    let Some(value) = var(variable).filter(|value| !value.is_empty()) else { return Ok(None) };
    parse(&value).map(Some).ok_or(ConfigError { variable, value, allowed })
}

/// `IMDS_EXEMPTION_MAX_DAYS`, unless it says otherwise.
const MAX_DAYS: u16 = 90;

/// A tag's key; those that begin with `aws:` are not the account's to set.
fn tag_key(text: &str) -> Option<String> {
    let is_of_aws = text.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("aws:"));
    (!is_of_aws && text.chars().count() <= 128).then(|| text.to_owned())
}

fn number<T: FromStr + PartialOrd>(text: &str, allowed: RangeInclusive<T>) -> Option<T> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| is_plain && allowed.contains(number))
}

/// A day, or nothing for all that there is.
#[expect(clippy::option_option, reason = "no value that is allowed, no day, a day")]
fn enforce_since(text: &str) -> Option<Option<NaiveDate>> {
    if text == "all" { Some(None) } else { exact_day(text).map(Some) }
}

/// Over how many hours refused calls are watched; 0 where they are not.
fn watch_hours(text: &str) -> Option<u16> {
    if text == "off" { Some(0) } else { number(text, 1..=24) }
}

/// The name of a bus, or its ARN.
fn bus(text: &str) -> Option<String> {
    let name = match text.strip_prefix("arn:") {
        Some(arn) => arn.split_once(":events:")?.1.split_once(":event-bus/")?.1,
        None => text,
    };
    let belongs = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/');
    (!name.is_empty() && name.len() <= 256 && name.chars().all(belongs)).then(|| text.to_owned())
}

/// A tracing filter. [`Targets`] takes a bare word that is no level for a target, which would
/// silence everything else, so such a word is refused.
fn log_filter(text: &str) -> Option<Targets> {
    let is_directive = |part: &str| part.contains('=') || part.parse::<LevelFilter>().is_ok();
    let filter = text.split(',').map(str::trim).all(is_directive).then(|| text.parse().ok())?;
    filter.map(without_repetition)
}

/// Where the runtime logs each error that the function has logged already.
const REPETITION: &str = "lambda_runtime::layers::panic";

/// A filter without the line in which the runtime repeats each error, unless the filter names it.
fn without_repetition(filter: Targets) -> Targets {
    let is_named = filter.iter().any(|(target, _)| target == REPETITION);
    if is_named { filter } else { filter.with_target(REPETITION, LevelFilter::OFF) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variable: &str, value: &str) -> Result<Config, ConfigError> {
        Config::from_vars(|name| (name == variable).then(|| value.to_owned()))
    }

    #[test]
    fn nothing_set_means_enforce_and_info() {
        let config = Config::from_vars(|_| None).unwrap();
        assert_eq!(config.mode, Mode::Enforce);
        assert_eq!(config.log.to_string(), "lambda_runtime::layers::panic=off,info");
    }

    #[test]
    fn the_runtime_repeats_no_error_unless_it_is_asked_to() {
        let filter = |text| with("IMDS_LOG", text).unwrap().log.to_string();
        assert_eq!(filter("info"), Config::default_log().to_string());
        assert_eq!(filter("warn,hyper=debug"), "lambda_runtime::layers::panic=off,hyper=debug,warn");
        assert_eq!(filter("lambda_runtime=debug"), "lambda_runtime::layers::panic=off,lambda_runtime=debug");
        assert_eq!(filter("lambda_runtime::layers::panic=error"), "lambda_runtime::layers::panic=error");
    }

    #[test]
    fn an_empty_value_is_the_default() {
        let variables = [
            "IMDS_MODE",
            "IMDS_LOG",
            "IMDS_EXEMPTION_TAG",
            "IMDS_RESULT_BUS",
            "IMDS_GRACE_DAYS",
            "IMDS_ENFORCE_SINCE",
            "IMDS_SWEEP_LIMIT",
        ];
        for variable in variables {
            let config = with(variable, "").unwrap();
            assert_eq!((config.mode, config.exemptions, config.result_bus), (Mode::Enforce, None, None));
            assert_eq!((config.grace_days, config.enforce_since, config.sweep_limit), (None, None, None));
        }
    }

    #[test]
    fn each_allowed_value_is_read() {
        assert_eq!(with("IMDS_MODE", "observe").unwrap().mode, Mode::Observe);
        assert_eq!(with("IMDS_MODE", "enforce").unwrap().mode, Mode::Enforce);
        assert!(with("IMDS_LOG", "warn,imds_enforcer=debug").is_ok());
        let exemptions = Exemptions { tag: "Security: imds".to_owned(), max_days: 90 };
        assert_eq!(with("IMDS_EXEMPTION_TAG", "Security: imds").unwrap().exemptions, Some(exemptions));
        for bus in ["security", "arn:aws-us-gov:events:us-gov-west-1:111122223333:event-bus/team/security.1"] {
            assert_eq!(with("IMDS_RESULT_BUS", bus).unwrap().result_bus.as_deref(), Some(bus));
        }
        for (days, expected) in [("14", Some(14)), ("0", None)] {
            assert_eq!(with("IMDS_GRACE_DAYS", days).unwrap().grace_days, expected);
        }
        for (since, expected) in [("2026-11-24", NaiveDate::from_ymd_opt(2026, 11, 24)), ("all", None)] {
            assert_eq!(with("IMDS_ENFORCE_SINCE", since).unwrap().enforce_since, expected);
        }
        for (limit, expected) in [("100000", Some(100_000)), ("0", None)] {
            assert_eq!(with("IMDS_SWEEP_LIMIT", limit).unwrap().sweep_limit, expected);
        }
        for (value, hours) in [("off", None), ("", None), ("1", Some(1)), ("24", Some(24))] {
            assert_eq!(with("IMDS_WATCH_REFUSALS", value).unwrap().watch_refusals, hours);
        }
    }

    #[test]
    fn the_horizon_of_exemptions_is_taken_with_the_tag() {
        let vars = |days: &'static str| {
            move |name: &str| match name {
                "IMDS_EXEMPTION_TAG" => Some("imds-exemption".to_owned()),
                "IMDS_EXEMPTION_MAX_DAYS" => Some(days.to_owned()),
                _ => None,
            }
        };
        assert_eq!(Config::from_vars(vars("365")).unwrap().exemptions.unwrap().max_days, 365);
        assert!(Config::from_vars(vars("366")).is_err());
        assert!(with("IMDS_EXEMPTION_MAX_DAYS", "0").is_err(), "wrong without a tag, too");
    }

    #[test]
    fn a_refusal_names_variable_value_and_what_is_allowed() {
        for (variable, value, allowed) in [
            ("IMDS_MODE", "Enforce", "enforce, observe"),
            ("IMDS_MODE", " observe", "enforce, observe"),
            ("IMDS_LOG", "loud", "error, warn, info"),
            ("IMDS_LOG", "imds_enforcer=loud", "error, warn, info"),
            ("IMDS_EXEMPTION_TAG", "AWS:imds", "does not begin with aws:"),
            ("IMDS_EXEMPTION_MAX_DAYS", "ninety", "a number from 1 to 365"),
            ("IMDS_EXEMPTION_MAX_DAYS", "+9", "a number from 1 to 365"),
            ("IMDS_RESULT_BUS", "my bus", "the name or the ARN"),
            ("IMDS_RESULT_BUS", "arn:aws:sns:us-east-1:111122223333:topic", "the name or the ARN"),
            ("IMDS_GRACE_DAYS", "91", "a number from 0 to 90"),
            ("IMDS_GRACE_DAYS", "-1", "a number from 0 to 90"),
            ("IMDS_ENFORCE_SINCE", "24.11.2026", "a day in UTC as YYYY-MM-DD"),
            ("IMDS_ENFORCE_SINCE", "2026-11-31", "all, or a day"),
            ("IMDS_SWEEP_LIMIT", "100001", "a number from 0 to 100000"),
            ("IMDS_WATCH_REFUSALS", "0", "off, or a number of hours from 1 to 24"),
            ("IMDS_WATCH_REFUSALS", "25", "off, or a number of hours from 1 to 24"),
            ("IMDS_WATCH_REFUSALS", "on", "off, or a number of hours from 1 to 24"),
        ] {
            let message = with(variable, value).unwrap_err().to_string();
            for part in [variable, value, allowed] {
                assert!(message.contains(part), "{part:?} in {message:?}");
            }
        }
    }
}
