//! What the environment variables mean.
//!
//! Pure: it is handed a way to look a variable up and never asks the environment itself. A value
//! that is not allowed is an error that stops the function from starting.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use tracing_subscriber::filter::{LevelFilter, Targets};

/// Everything that can be configured, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// `IMDS_MODE`.
    pub mode: Mode,
    /// `IMDS_LOG`.
    pub log: Targets,
}

/// Whether the function writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Require tokens where they are not required.
    #[default]
    Enforce,
    /// Only tell where they would be.
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

/// Variables of the contract that this version does not support. To run as if such a variable were
/// empty could enforce an instance that its owner believes exempt, so a value is refused.
const NOT_YET: [&str; 2] = ["IMDS_EXEMPTION_TAG", "IMDS_RESULT_BUS"];

impl Config {
    /// Reads the configuration; `var` answers a variable's value, or `None` where it is not set.
    /// An empty value is as good as none.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], naming the first variable that has a value it may not have.
    pub fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        for variable in NOT_YET {
            parse(&var, variable, "nothing: this version does not support it", |_| None::<()>)?;
        }
        let mode = parse(&var, "IMDS_MODE", "enforce, observe", |text| text.parse().ok())?;
        let log = parse(
            &var,
            "IMDS_LOG",
            "off, error, warn, info, debug, trace, or target=level, separated by commas",
            log_filter,
        )?;
        Ok(Self { mode: mode.unwrap_or_default(), log: log.unwrap_or_else(Self::default_log) })
    }

    /// What is logged unless `IMDS_LOG` says otherwise, and before it is known: `info`, without the
    /// line in which the runtime repeats each error that this function has logged already.
    #[must_use]
    pub fn default_log() -> Targets {
        Targets::new().with_default(LevelFilter::INFO).with_target("lambda_runtime::layers::panic", LevelFilter::OFF)
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

/// A tracing filter. [`Targets`] takes a bare word that is no level for a target, which would
/// silence everything else, so such a word is refused.
fn log_filter(text: &str) -> Option<Targets> {
    let is_directive = |part: &str| part.contains('=') || part.parse::<LevelFilter>().is_ok();
    text.split(',').map(str::trim).all(is_directive).then(|| text.parse().ok())?
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
    fn an_empty_value_is_the_default() {
        for variable in ["IMDS_MODE", "IMDS_LOG", "IMDS_EXEMPTION_TAG", "IMDS_RESULT_BUS"] {
            assert_eq!(with(variable, "").unwrap().mode, Mode::Enforce);
        }
    }

    #[test]
    fn each_allowed_value_is_read() {
        assert_eq!(with("IMDS_MODE", "observe").unwrap().mode, Mode::Observe);
        assert_eq!(with("IMDS_MODE", "enforce").unwrap().mode, Mode::Enforce);
        assert!(with("IMDS_LOG", "warn,imds_enforcer=debug").is_ok());
    }

    #[test]
    fn a_refusal_names_variable_value_and_what_is_allowed() {
        for (variable, value, allowed) in [
            ("IMDS_MODE", "Enforce", "enforce, observe"),
            ("IMDS_MODE", " observe", "enforce, observe"),
            ("IMDS_LOG", "loud", "error, warn, info"),
            ("IMDS_LOG", "imds_enforcer=loud", "error, warn, info"),
            ("IMDS_EXEMPTION_TAG", "imds-exempt", "does not support"),
            ("IMDS_RESULT_BUS", "default", "does not support"),
        ] {
            let message = with(variable, value).unwrap_err().to_string();
            for part in [variable, value, allowed] {
                assert!(message.contains(part), "{part:?} in {message:?}");
            }
        }
    }
}
