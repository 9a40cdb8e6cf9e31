//! A command of the AWS CLI as text. What stands in it comes from tags and events, which others
//! write: every word is quoted for the shell into which the command will be pasted.

use std::borrow::Cow;

/// A command of the AWS CLI, to which options are added.
#[derive(Debug, Clone)]
pub(super) struct Command(String);

impl Command {
    pub(super) fn new(service_and_action: &str, region: &str) -> Self {
        Self(format!("aws {service_and_action}")).option("--region", region)
    }

    pub(super) fn option(self, name: &str, value: &str) -> Self {
        self.raw(name, &quoted(value))
    }

    /// Adds an option with a value that the shell is to expand.
    pub(super) fn raw(self, name: &str, value: &str) -> Self {
        Self(format!("{} {name} {value}", self.0))
    }

    /// The command, without the lines of its output that hold this word.
    pub(super) fn without_lines_of(self, word: &str) -> Self {
        Self(format!("{} | grep -v {}", self.0, quoted(word)))
    }

    /// A line of the shell that keeps in a variable what the command prints.
    pub(super) fn kept_as(self, variable: &str) -> String {
        format!("{variable}=$({})", self.0)
    }

    /// A line of the shell that runs the command only where a test of the shell holds.
    pub(super) fn only_if(self, test: &str) -> String {
        format!("[ {test} ] && {}", self.0)
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }
}

/// A word as the shell takes it. A NUL, which no shell takes, is left out.
pub(super) fn quoted(word: &str) -> Cow<'_, str> {
    match shlex::try_quote(word) {
        Ok(quoted) => quoted,
        Err(_) => Cow::Owned(quoted(&word.replace('\0', "")).into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_one_word_of_the_shell_and_no_more() {
        for name in ["$(reboot)", "a b", "';reboot;'", "`reboot`", "a\nb", "\"a\"", "", "-n", "ü", "a\0b"] {
            let command = Command::new("elasticbeanstalk update-environment", "us-east-1");
            let command = command.option("--environment-name", name).option("--output", "text").into_text();
            let words = shlex::split(&command).unwrap();
            let at = words.iter().position(|word| word == "--environment-name").unwrap();
            assert_eq!((words[at + 1].as_str(), words.len()), (name.replace('\0', "").as_str(), 9), "{command}");
        }
    }
}
