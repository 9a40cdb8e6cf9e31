//! The parameters of a request in EC2's query protocol: `Filter.1.Value.2=optional`.

use std::collections::BTreeMap;

use crate::answer::Error;

/// The parameters of one request, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parameters(BTreeMap<String, String>);

impl Parameters {
    /// Reads a URL-encoded form.
    #[must_use]
    pub fn parse(form: &[u8]) -> Self {
        Self(form_urlencoded::parse(form).into_owned().collect())
    }

    /// One value.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The values of `prefix.1`, `prefix.2`, … in the order of their numbers.
    #[must_use]
    pub fn list(&self, prefix: &str) -> Vec<&str> {
        self.indices(prefix).into_iter().filter_map(|n| self.get(&format!("{prefix}.{n}"))).collect()
    }

    /// The numbers under `prefix`, in order.
    #[must_use]
    pub fn indices(&self, prefix: &str) -> Vec<u32> {
        let numbers = self
            .names()
            .filter_map(|name| name.strip_prefix(prefix)?.strip_prefix('.')?.split('.').next()?.parse().ok());
        let mut numbers: Vec<u32> = numbers.collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// A number, if it was given.
    ///
    /// # Errors
    ///
    /// `InvalidParameterValue` for what is no number in `range`.
    pub fn number(&self, name: &str, range: std::ops::RangeInclusive<u32>) -> Result<Option<u32>, Error> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.parse() {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => Err(Error::new(
                "InvalidParameterValue",
                format!("Value ({value}) for parameter {name} is invalid; expected {range:?}"),
            )),
        }
    }

    /// One of `words`, if it was given.
    ///
    /// # Errors
    ///
    /// `InvalidParameterValue` for any other word.
    pub fn word(&self, name: &str, words: &[&str]) -> Result<Option<String>, Error> {
        match self.get(name) {
            None => Ok(None),
            Some(value) if words.contains(&value) => Ok(Some(value.to_owned())),
            Some(value) => Err(Error::new(
                "InvalidParameterValue",
                format!("Value ({value}) for parameter {name} is invalid; expected one of {words:?}"),
            )),
        }
    }

    /// Refuses parameters that the stand-in does not have, so that none is silently ignored.
    ///
    /// # Errors
    ///
    /// `UnknownParameter`, naming the first.
    pub fn only(&self, prefixes: &[&str]) -> Result<(), Error> {
        let known = |name: &str| {
            ["Action", "Version", "DryRun"].contains(&name)
                || prefixes.iter().any(|prefix| {
                    name == *prefix || name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'))
                })
        };
        match self.names().find(|name| !known(name)) {
            Some(name) => {
                Err(Error::new("UnknownParameter", format!("The local EC2 has no parameter {name} for this action")))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_ordered_by_number() {
        let parameters = Parameters::parse(b"InstanceId.10=c&InstanceId.2=b&InstanceId.1=a&InstanceIdx.1=no");
        assert_eq!(parameters.list("InstanceId"), ["a", "b", "c"]);
    }

    #[test]
    fn an_unknown_parameter_is_refused() {
        let parameters = Parameters::parse(b"Action=RunInstances&ImageId=ami-1&ImageIdea=x");
        assert_eq!(parameters.only(&["ImageId"]).unwrap_err().code, "UnknownParameter");
    }
}
