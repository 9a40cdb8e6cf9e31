//! The decision: what one described instance is to have done to it.
//!
//! Pure. It sees the described state alone, never an event, so our own change coming back and a
//! replayed event decide to do nothing. Where the state leaves a doubt, it acts.

pub mod exemption;
pub mod standing;

use chrono::NaiveDate;

use crate::instance::{HttpEndpoint, HttpTokens, Instance, InstanceState};

/// What is to be done about an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Terminated, or about to be: nothing is left to protect.
    Gone,
    /// The metadata service is closed: nothing to attack, never touched.
    EndpointDisabled,
    /// Tokens are required already.
    Compliant,
    /// Tokens are not required, and a service manages the instance: EC2 lets nobody else change it.
    Managed,
    /// Tokens are not required, and an exemption in force allows that.
    Exempt,
    /// Tokens are not required: require them.
    RequireTokens,
}

/// Decides about `instance`; `exempt` says whether an exemption in force covers it.
///
/// Only the exact word `required` is compliant and only `disabled` is closed: an option that EC2
/// left out, or a word that is not known, leads to [`Decision::RequireTokens`].
#[must_use]
pub fn decide(instance: &Instance, exempt: bool) -> Decision {
    let options = &instance.metadata_options;
    if matches!(instance.state, InstanceState::ShuttingDown | InstanceState::Terminated) {
        Decision::Gone
    } else if options.http_endpoint == Some(HttpEndpoint::Disabled) {
        Decision::EndpointDisabled
    } else if options.http_tokens == Some(HttpTokens::Required) {
        Decision::Compliant
    } else if instance.managed_by.is_some() {
        Decision::Managed
    } else if exempt {
        Decision::Exempt
    } else {
        Decision::RequireTokens
    }
}

/// The day that a text names exactly as `YYYY-MM-DD`: a shorter spelling may be meant as another day.
#[must_use]
pub fn exact_day(text: &str) -> Option<NaiveDate> {
    let belongs = |(n, byte): (usize, u8)| if matches!(n, 4 | 7) { byte == b'-' } else { byte.is_ascii_digit() };
    let is_plain = text.len() == 10 && text.bytes().enumerate().all(belongs);
    is_plain.then(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok())?
}

/// The warning on a container host whose tokens are, or would be, required.
pub const HOP_LIMIT_WARNING: &str = "tokens are required with a hop limit of 1, and this looks like a host of containers: workloads that ask through \
     a network of their own get no credentials; raise http_put_response_hop_limit to 2, or give them roles of their own";

/// The warning that a hop limit of 1 may keep containers from their credentials, where tokens are,
/// or would be, required.
#[must_use]
pub fn hop_limit_warning(instance: &Instance, decision: Decision) -> Option<&'static str> {
    let is_required = matches!(decision, Decision::Compliant | Decision::RequireTokens);
    let is_one = instance.metadata_options.http_put_response_hop_limit == Some(1);
    (is_required && is_one && instance.hosts_containers()).then_some(HOP_LIMIT_WARNING)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::MetadataOptions;

    fn instance(state: &str, http_endpoint: Option<&str>, http_tokens: Option<&str>) -> Instance {
        let metadata_options = MetadataOptions {
            http_endpoint: http_endpoint.map(Into::into),
            http_tokens: http_tokens.map(Into::into),
            ..MetadataOptions::default()
        };
        Instance::new("i-0123456789abcdef0".parse().unwrap(), state.into(), metadata_options)
    }

    /// The decision table of the README, written out as the order of its rows.
    fn table(
        state: &str,
        http_endpoint: Option<&str>,
        http_tokens: Option<&str>,
        managed: bool,
        exempt: bool,
    ) -> Decision {
        match (state, http_endpoint, http_tokens, managed, exempt) {
            ("shutting-down" | "terminated", _, _, _, _) => Decision::Gone,
            (_, Some("disabled"), _, _, _) => Decision::EndpointDisabled,
            (_, _, Some("required"), _, _) => Decision::Compliant,
            (_, _, _, true, _) => Decision::Managed,
            (_, _, _, false, true) => Decision::Exempt,
            (_, _, _, false, false) => Decision::RequireTokens,
        }
    }

    #[test]
    fn every_combination_decides_as_the_table_says() {
        let states = ["pending", "running", "stopping", "stopped", "shutting-down", "terminated", "hibernated"];
        let endpoints = [None, Some("enabled"), Some("disabled"), Some("Disabled"), Some("")];
        let tokens = [None, Some("required"), Some("optional"), Some("Required"), Some("")];
        for state in states {
            for endpoint in endpoints {
                for token in tokens {
                    for (managed, exempt) in [(false, false), (false, true), (true, false), (true, true)] {
                        let managed_by = managed.then(|| "eks.amazonaws.com".to_owned());
                        let instance = Instance { managed_by, ..instance(state, endpoint, token) };
                        assert_eq!(
                            decide(&instance, exempt),
                            table(state, endpoint, token, managed, exempt),
                            "{state} {endpoint:?} {token:?} managed={managed} exempt={exempt}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_hop_limit_of_one_is_warned_of_on_hosts_of_containers_whose_tokens_are_or_would_be_required() {
        let mut host = instance("running", Some("enabled"), Some("optional"));
        host.metadata_options.http_put_response_hop_limit = Some(1);
        host.tags.insert("eks:cluster-name".to_owned(), "blue".to_owned());
        for (decision, warned) in [
            (Decision::Compliant, true),
            (Decision::RequireTokens, true),
            (Decision::Exempt, false),
            (Decision::Managed, false),
            (Decision::EndpointDisabled, false),
            (Decision::Gone, false),
        ] {
            assert_eq!(hop_limit_warning(&host, decision).is_some(), warned, "{decision:?}");
        }
        host.metadata_options.http_put_response_hop_limit = Some(2);
        assert_eq!(hop_limit_warning(&host, Decision::Compliant), None);
        host.metadata_options.http_put_response_hop_limit = Some(1);
        host.tags.clear();
        assert_eq!(hop_limit_warning(&host, Decision::Compliant), None);
    }

    #[test]
    fn doubt_means_act() {
        assert_eq!(decide(&instance("running", None, None), false), Decision::RequireTokens);
        assert_eq!(decide(&instance("moved", Some("DISABLED"), Some("yes")), false), Decision::RequireTokens);
    }
}
