//! CloudWatch's metrics and alarms: what was measured minute by minute, and when an alarm of the
//! template would have been on.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::template::{Alarm, Series};

/// Values by metric and minute since 1970.
#[derive(Debug, Default)]
pub(crate) struct Metrics(BTreeMap<String, BTreeMap<i64, Vec<f64>>>);

/// How often an alarm fired, and the seconds since 1970 at which it was on, as ranges.
#[derive(Debug, Default, Clone)]
pub(crate) struct Fired {
    pub(crate) on: Vec<(i64, i64)>,
}

impl Fired {
    /// How long it was on, in hours.
    pub(crate) fn hours(&self) -> f64 {
        let seconds: i64 = self.on.iter().map(|(from, to)| to - from).sum();
        f64::from(i32::try_from(seconds).unwrap()) / 3600.0
    }

    /// Whether it was on at any time of a range.
    pub(crate) fn was_on_between(&self, from: i64, to: i64) -> bool {
        from < to && self.on.iter().any(|(begin, end)| *begin < to && *end > from)
    }
}

fn key(namespace: &str, metric: &str, dimensions: &BTreeMap<String, String>) -> String {
    let dimensions = dimensions.iter().map(|(name, value)| format!(" {name}={value}"));
    std::iter::once(format!("{namespace} {metric}")).chain(dimensions).collect()
}

impl Metrics {
    /// Adds a value at a time, in seconds since 1970.
    pub(crate) fn add(&mut self, namespace: &str, metric: &str, dimensions: &[(&str, &str)], time: i64, value: f64) {
        let dimensions = dimensions.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.insert(key(namespace, metric, &dimensions), time, value);
    }

    fn insert(&mut self, key: String, time: i64, value: f64) {
        self.0.entry(key).or_default().entry(time.div_euclid(60)).or_default().push(value);
    }

    /// Adds what a document of the embedded metric format declares.
    pub(crate) fn add_embedded(&mut self, document: &Value) {
        let time = document["_aws"]["Timestamp"].as_i64().unwrap() / 1000;
        for directive in document["_aws"]["CloudWatchMetrics"].as_array().unwrap() {
            let namespace = directive["Namespace"].as_str().unwrap();
            for names in directive["Dimensions"].as_array().unwrap() {
                let value = |name: &Value| document[name.as_str().unwrap()].as_str().unwrap().to_owned();
                let names = names.as_array().unwrap().iter();
                let dimensions = names.map(|name| (name.as_str().unwrap().to_owned(), value(name))).collect();
                for metric in directive["Metrics"].as_array().unwrap() {
                    let name = metric["Name"].as_str().unwrap();
                    let values = document[name].as_array().cloned();
                    for value in values.unwrap_or_else(|| vec![document[name].clone()]) {
                        self.insert(key(namespace, name, &dimensions), time, value.as_f64().unwrap());
                    }
                }
            }
        }
    }

    /// In how many hours each metric of a namespace was sent, which is what CloudWatch charges for.
    pub(crate) fn hours(&self, namespace: &str) -> BTreeMap<String, usize> {
        let of = |(key, minutes): (&String, &BTreeMap<i64, Vec<f64>>)| {
            let (_, name) = key.split_once(' ').filter(|(of, _)| *of == namespace)?;
            let hours: BTreeSet<_> = minutes.keys().map(|minute| minute.div_euclid(60)).collect();
            Some((name.split(' ').next()?.to_owned(), hours.len()))
        };
        self.0.iter().filter_map(of).collect()
    }

    /// When an alarm was on between two times, each in seconds since 1970.
    ///
    /// CloudWatch evaluates an alarm at the end of each minute, or each hour where it looks back for more
    /// than a day, over as many periods as it has, which end then.
    pub(crate) fn evaluate(&self, alarm: &Alarm, from: i64, to: i64) -> Fired {
        let period = i64::try_from(alarm.period).unwrap() / 60;
        let periods = i64::try_from(alarm.evaluation_periods).unwrap();
        let every = if period * periods > 24 * 60 { 60 } else { 1 };
        let (first, last) = (from.div_euclid(60), to.div_euclid(60));
        let values: Vec<_> = (first + 1..=last).map(|end| self.value(alarm, first.max(end - period), end)).collect();
        let value = |end: i64| usize::try_from(end - first - 1).ok().and_then(|index| values[index]);
        let mut fired = Fired::default();
        let mut is_on = false;
        for end in (first + 1..=last).filter(|end| (end - first) % every == 0) {
            let periods: Vec<_> = (0..periods).map(|n| value(end - n * period)).collect();
            is_on = state(alarm, &periods, is_on);
            if is_on {
                fired.extend(end * 60, every * 60);
            }
        }
        fired
    }

    /// What an alarm looks at, of the minutes from one to another.
    fn value(&self, alarm: &Alarm, from: i64, to: i64) -> Option<f64> {
        let none = BTreeMap::new();
        let of = |series: &Series| {
            let values = self.0.get(&key(&series.namespace, &series.metric, &series.dimensions)).unwrap_or(&none);
            statistic(&series.statistic, values.range(from..to).flat_map(|(_, values)| values).copied().collect())
        };
        let Some(expression) = &alarm.expression else { return of(&alarm.series[0]) };
        let metrics: Vec<_> = alarm.series.iter().map(|it| (it.id.as_str(), of(it))).collect();
        expression.value(&metrics)
    }
}

impl Fired {
    /// It is on from a time for a period, or still.
    fn extend(&mut self, from: i64, period: i64) {
        match self.on.last_mut() {
            Some((_, to)) if *to == from => *to = from + period,
            _ => self.on.push((from, from + period)),
        }
    }
}

/// The statistic of what was measured in one period, if anything was.
fn statistic(name: &str, mut values: Vec<f64>) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    values.sort_by(f64::total_cmp);
    let count = f64::from(u32::try_from(values.len()).unwrap());
    Some(match name {
        "Sum" => values.iter().sum(),
        "Maximum" => values[values.len() - 1],
        "Minimum" => values[0],
        "Average" => values.iter().sum::<f64>() / count,
        "SampleCount" => count,
        other => panic!("the statistic {other} is not known here"),
    })
}

/// Whether an alarm is on after these periods. A period without data
/// counts as the alarm says; where it says nothing, it neither fires nor clears.
fn state(alarm: &Alarm, periods: &[Option<f64>], was_on: bool) -> bool {
    if periods.iter().all(Option::is_none) && matches!(alarm.missing.as_str(), "ignore" | "missing") {
        return was_on && alarm.missing == "ignore";
    }
    let breaches = |value: &Option<f64>| match value {
        None => alarm.missing == "breaching",
        Some(value) => match alarm.comparison.as_str() {
            "GreaterThanThreshold" => *value > alarm.threshold,
            "GreaterThanOrEqualToThreshold" => *value >= alarm.threshold,
            "LessThanThreshold" => *value < alarm.threshold,
            "LessThanOrEqualToThreshold" => *value <= alarm.threshold,
            other => panic!("the comparison {other} is not known here"),
        },
    };
    periods.len() >= alarm.datapoints && periods.iter().filter(|it| breaches(it)).count() >= alarm.datapoints
}

#[cfg(test)]
mod tests {
    use super::super::expression::Expression;
    use super::*;

    fn series(id: &str, metric: &str, statistic: &str) -> Series {
        Series {
            id: id.to_owned(),
            namespace: "N".to_owned(),
            metric: metric.to_owned(),
            dimensions: [("D".to_owned(), "d".to_owned())].into(),
            statistic: statistic.to_owned(),
        }
    }

    fn alarm(statistic: &str, comparison: &str, periods: usize, datapoints: usize, missing: &str) -> Alarm {
        Alarm {
            name: "Alarm".to_owned(),
            series: vec![series("", "M", statistic)],
            expression: None,
            period: 300,
            evaluation_periods: periods,
            datapoints,
            threshold: 1.0,
            comparison: comparison.to_owned(),
            missing: missing.to_owned(),
        }
    }

    /// The minutes at which the alarm is on, given values in some minutes of the metrics M and S.
    fn on(alarm: &Alarm, minutes: i64, values: &[(&str, i64, f64)]) -> Vec<(i64, i64)> {
        let mut metrics = Metrics::default();
        for (metric, minute, value) in values {
            metrics.add("N", metric, &[("D", "d")], minute * 60 + 7, *value);
        }
        let fired = metrics.evaluate(alarm, 0, minutes * 60);
        fired.on.iter().map(|(from, to)| (from / 60, to / 60)).collect()
    }

    #[test]
    fn an_alarm_is_on_while_enough_of_its_periods_breach() {
        let sum = |periods, datapoints, missing| alarm("Sum", "GreaterThanThreshold", periods, datapoints, missing);
        let (first, second) = (("M", 10, 5.0), ("M", 20, 5.0));
        assert_eq!(on(&sum(1, 1, "notBreaching"), 50, &[first, second]), [(11, 16), (21, 26)]);
        assert_eq!(on(&sum(1, 1, "notBreaching"), 50, &[("M", 20, 1.0), ("M", 23, 1.0)]), [(24, 26)]);
        assert_eq!(on(&sum(3, 2, "notBreaching"), 50, &[first, second]), [(21, 26)]);
        assert_eq!(on(&sum(2, 2, "notBreaching"), 50, &[first, second]), []);
        assert_eq!(on(&sum(2, 2, "notBreaching"), 50, &[first, ("M", 15, 5.0)]), [(16, 21)]);
        assert_eq!(on(&sum(1, 1, "ignore"), 50, &[first]), [(11, 51)]);
        assert_eq!(on(&sum(1, 1, "missing"), 50, &[first]), [(11, 16)]);
        let none = alarm("Sum", "LessThanThreshold", 3, 3, "breaching");
        assert_eq!(on(&none, 30, &[first]), [(1, 11), (26, 31)]);
    }

    #[test]
    fn an_alarm_that_looks_back_for_more_than_a_day_is_evaluated_each_hour() {
        let days = Alarm { period: 3600, ..alarm("Sum", "GreaterThanThreshold", 25, 1, "notBreaching") };
        assert_eq!(on(&days, 2000, &[("M", 10, 5.0)]), [(60, 26 * 60)]);
    }

    #[test]
    fn an_alarm_on_an_expression_sees_no_breach_where_no_metric_has_a_value() {
        let expression = Some(Expression::parse("SUM([m, 0 * s])"));
        let none = Alarm {
            series: vec![series("m", "M", "Sum"), series("s", "S", "Maximum")],
            expression,
            ..alarm("", "LessThanThreshold", 2, 2, "notBreaching")
        };
        let there = (10..40).map(|minute| ("S", minute, 7.0));
        let values: Vec<_> = there.chain([("M", 20, 1.0)]).collect();
        assert_eq!(on(&none, 60, &values), [(16, 21), (31, 45)]);
    }
}
