//! CloudWatch's metrics and alarms: what was measured minute by minute, and when an alarm of the
//! template would have been on.

use std::collections::{BTreeMap, VecDeque};

use serde_json::Value;

use super::template::Alarm;

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

    /// When an alarm was on between two times, each in seconds since 1970.
    pub(crate) fn evaluate(&self, alarm: &Alarm, from: i64, to: i64) -> Fired {
        let none = BTreeMap::new();
        let values = self.0.get(&key(&alarm.namespace, &alarm.metric, &alarm.dimensions)).unwrap_or(&none);
        let period = i64::try_from(alarm.period).unwrap();
        let mut last = VecDeque::new();
        let mut fired = Fired::default();
        let mut is_on = false;
        for begin in (from.div_euclid(period)..to.div_euclid(period)).map(|n| n * period) {
            let minutes = values.range(begin / 60..(begin + period) / 60).flat_map(|(_, values)| values);
            last.push_back(statistic(&alarm.statistic, minutes.copied().collect()));
            if last.len() > alarm.evaluation_periods {
                last.pop_front();
            }
            is_on = state(alarm, &last, is_on);
            if is_on {
                fired.extend(begin + period, period);
            }
        }
        fired
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

/// Whether an alarm is on after these periods, of which the last is the latest. A period without data
/// counts as the alarm says; where it says nothing, it neither fires nor clears.
fn state(alarm: &Alarm, periods: &VecDeque<Option<f64>>, was_on: bool) -> bool {
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
    use super::*;

    fn alarm(statistic: &str, comparison: &str, periods: usize, datapoints: usize, missing: &str) -> Alarm {
        Alarm {
            name: "Alarm".to_owned(),
            namespace: "N".to_owned(),
            metric: "M".to_owned(),
            dimensions: [("D".to_owned(), "d".to_owned())].into(),
            statistic: statistic.to_owned(),
            period: 300,
            evaluation_periods: periods,
            datapoints,
            threshold: 1.0,
            comparison: comparison.to_owned(),
            missing: missing.to_owned(),
        }
    }

    /// When the alarm is on, in periods, given a value in each of these periods.
    fn on(alarm: &Alarm, values: &[(i64, f64)]) -> Vec<(i64, i64)> {
        let mut metrics = Metrics::default();
        for (period, value) in values {
            metrics.add("N", "M", &[("D", "d")], period * 300 + 7, *value);
        }
        let fired = metrics.evaluate(alarm, 0, 3000);
        fired.on.iter().map(|(from, to)| (from / 300, to / 300)).collect()
    }

    #[test]
    fn an_alarm_is_on_while_enough_of_its_periods_breach() {
        let sum = |periods, datapoints, missing| alarm("Sum", "GreaterThanThreshold", periods, datapoints, missing);
        let values = [(1, 1.0), (1, 1.0), (2, 1.0), (3, 5.0), (5, 5.0)];
        assert_eq!(on(&sum(1, 1, "notBreaching"), &values), [(2, 3), (4, 5), (6, 7)]);
        assert_eq!(on(&sum(3, 2, "notBreaching"), &values), [(4, 5), (6, 7)]);
        assert_eq!(on(&sum(2, 2, "notBreaching"), &values), [] as [(i64, i64); 0]);
        assert_eq!(on(&sum(1, 1, "ignore"), &values), [(2, 3), (4, 11)]);
        assert_eq!(on(&sum(1, 1, "missing"), &values), [(2, 3), (4, 5), (6, 7)]);
        let none = alarm("Sum", "LessThanThreshold", 3, 3, "breaching");
        assert_eq!(on(&none, &values), [(9, 11)]);
        assert_eq!(on(&alarm("Maximum", "GreaterThanThreshold", 1, 1, "notBreaching"), &values), [(4, 5), (6, 7)]);
    }
}
