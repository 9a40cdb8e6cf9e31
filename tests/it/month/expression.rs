//! `CloudWatch`'s metric math, as far as the template's alarms use it: sums of series, arithmetic, and
//! how both treat what has no value.
//!
//! It refuses what AWS advises not to use in alarms, such as the sum of one series over its time.

/// An expression over the values of one period.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Expression {
    Number(f64),
    /// A metric, by its id.
    Id(String),
    /// All metrics.
    Metrics,
    List(Vec<Self>),
    Sum(Box<Self>),
    Times(Box<Self>, Box<Self>),
    Plus(Box<Self>, Box<Self>),
}

/// What an expression comes to in one period.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Scalar(f64),
    /// A series, which may have no value in this period.
    Series(Option<f64>),
    List(Vec<Option<f64>>),
}

impl Expression {
    /// Reads an expression, which must be one that is known here.
    pub(crate) fn parse(text: &str) -> Self {
        let text: String = text.split_whitespace().collect();
        let mut rest = text.as_str();
        let expression = sum(&mut rest);
        assert!(rest.is_empty(), "{rest} of {text} is not known here");
        expression
    }

    /// The value in a period, given each metric's id and value.
    pub(crate) fn value(&self, metrics: &[(&str, Option<f64>)]) -> Option<f64> {
        match self.evaluate(metrics) {
            Value::Series(value) => value,
            other @ (Value::Scalar(_) | Value::List(_)) => panic!("an alarm is on one series, not on {other:?}"),
        }
    }

    fn evaluate(&self, metrics: &[(&str, Option<f64>)]) -> Value {
        match self {
            Self::Number(number) => Value::Scalar(*number),
            Self::Id(id) => Value::Series(metrics.iter().find(|(name, _)| name == id).unwrap().1),
            Self::Metrics => Value::List(metrics.iter().map(|(_, value)| *value).collect()),
            Self::List(items) => Value::List(items.iter().map(|it| it.value(metrics)).collect()),
            Self::Sum(of) => match of.evaluate(metrics) {
                // What is missing counts as zero, and where all is missing there is no value. AWS documents no
                // rule for a metric that has never had any data: that it counts as a missing point is assumed.
                Value::List(values) => Value::Series(values.into_iter().flatten().reduce(|sum, it| sum + it)),
                other @ (Value::Scalar(_) | Value::Series(_)) => {
                    panic!("the sum of {other:?} over its time is not for alarms")
                }
            },
            Self::Times(left, right) => combine(&left.evaluate(metrics), &right.evaluate(metrics), |a, b| a * b),
            Self::Plus(left, right) => combine(&left.evaluate(metrics), &right.evaluate(metrics), |a, b| a + b),
        }
    }
}

/// Of two series, a missing value counts as zero where the other has one.
fn combine(left: &Value, right: &Value, with: impl Fn(f64, f64) -> f64) -> Value {
    match (left, right) {
        (Value::Scalar(a), Value::Scalar(b)) => Value::Scalar(with(*a, *b)),
        (Value::Scalar(a), Value::Series(b)) => Value::Series(b.map(|b| with(*a, b))),
        (Value::Series(a), Value::Scalar(b)) => Value::Series(a.map(|a| with(a, *b))),
        (Value::Series(None), Value::Series(None)) => Value::Series(None),
        (Value::Series(a), Value::Series(b)) => Value::Series(Some(with(a.unwrap_or(0.0), b.unwrap_or(0.0)))),
        other => panic!("{other:?} is not known here"),
    }
}

fn sum(rest: &mut &str) -> Expression {
    let mut left = product(rest);
    while take(rest, "+") {
        left = Expression::Plus(Box::new(left), Box::new(product(rest)));
    }
    left
}

fn product(rest: &mut &str) -> Expression {
    let mut left = factor(rest);
    while take(rest, "*") {
        left = Expression::Times(Box::new(left), Box::new(factor(rest)));
    }
    left
}

fn factor(rest: &mut &str) -> Expression {
    if take(rest, "METRICS()") {
        return Expression::Metrics;
    }
    if take(rest, "SUM(") {
        let of = sum(rest);
        assert!(take(rest, ")"), "a bracket is not closed before {rest}");
        return Expression::Sum(Box::new(of));
    }
    if take(rest, "[") {
        let mut items = vec![sum(rest)];
        while take(rest, ",") {
            items.push(sum(rest));
        }
        assert!(take(rest, "]"), "a list is not closed before {rest}");
        return Expression::List(items);
    }
    let length = rest.find(|it: char| !it.is_ascii_alphanumeric() && it != '.' && it != '_').unwrap_or(rest.len());
    let (word, after) = rest.split_at(length);
    *rest = after;
    let is_id = word.starts_with(|it: char| it.is_ascii_lowercase());
    word.parse().map_or_else(
        |_| if is_id { Expression::Id(word.to_owned()) } else { panic!("{word}{after} is not known here") },
        Expression::Number,
    )
}

/// Whether a text begins so: then it goes on after it.
fn take(rest: &mut &str, word: &str) -> bool {
    rest.strip_prefix(word).inspect(|after| *rest = after).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an expression makes of the values of two metrics, `a` and `b`.
    fn of(text: &str, a: Option<f64>, b: Option<f64>) -> Option<f64> {
        Expression::parse(text).value(&[("a", a), ("b", b)])
    }

    #[test]
    fn what_is_missing_counts_as_zero_where_something_is_not() {
        for text in ["a + b", "SUM([a, b])", "SUM(METRICS())"] {
            assert_eq!(of(text, Some(2.0), Some(3.0)), Some(5.0), "{text}");
            assert_eq!(of(text, None, Some(3.0)), Some(3.0), "{text}");
            assert_eq!(of(text, Some(2.0), None), Some(2.0), "{text}");
            assert_eq!(of(text, None, None), None, "{text}");
        }
    }

    #[test]
    fn a_series_that_is_there_makes_zeros_of_what_another_lacks() {
        let text = "SUM([a, 0 * b])";
        assert_eq!(of(text, None, Some(7.0)), Some(0.0), "an hour of the stack without a sweep");
        assert_eq!(of(text, Some(1.0), Some(7.0)), Some(1.0));
        assert_eq!(of(text, None, None), None, "an hour before the stack");
        assert_eq!(of("0 * b", Some(1.0), None), None, "a number makes no value where there is none");
    }

    #[test]
    #[should_panic(expected = "over its time is not for alarms")]
    fn the_sum_of_one_series_over_its_time_is_refused() {
        of("a + SUM(b)", Some(1.0), Some(1.0));
    }
}
