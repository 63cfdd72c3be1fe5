//! Metrics in Prometheus' words: what there is (`table`), values and their text, and the file that short-lived processes
//! keep together (`textfile`).
//!
//! Knows names, labels and numbers; where they come from is its users' business. docs/monitoring.md has the table, and
//! docs/decisions/metrics.md why the text is written here and not by a crate.

pub mod table;
pub mod textfile;

use std::collections::BTreeMap;
use std::fmt::Write;

use self::table::{Metric, TABLE};

/// Values of metrics of one archive. Each has the label `archive`.
#[derive(Clone, Debug, PartialEq)]
pub struct Samples {
    archive: String,
    values: BTreeMap<(&'static str, String), f64>,
}

impl Samples {
    /// None yet, of the archive at this address.
    pub fn of(archive: &str) -> Samples {
        Samples { archive: archive.to_owned(), values: BTreeMap::new() }
    }

    /// The value of a metric with these labels. One that is not a number is left out.
    pub fn set(&mut self, metric: &'static Metric, labels: &[(&str, &str)], value: f64) {
        if value.is_finite() {
            self.values.insert(self.key(metric, labels), value);
        }
    }

    /// Adds to a counter.
    pub fn add(&mut self, metric: &'static Metric, labels: &[(&str, &str)], more: f64) {
        *self.values.entry(self.key(metric, labels)).or_default() += more;
    }

    /// Takes all of these over, in place of those that are there.
    pub fn merge(&mut self, others: Samples) {
        self.values.extend(others.values);
    }

    /// Keeps the values of these metrics alone.
    pub fn retain(&mut self, keep: impl Fn(&Metric) -> bool) {
        self.values.retain(|(name, _), _| find(name).is_some_and(&keep));
    }

    fn key(&self, metric: &'static Metric, labels: &[(&str, &str)]) -> (&'static str, String) {
        debug_assert!(labels.iter().map(|(name, _)| *name).eq(metric.labels.iter().copied()), "{}", metric.name);
        let mut text = format!("archive=\"{}\"", escape(&self.archive));
        for (name, value) in labels {
            text.push_str(&format!(",{name}=\"{}\"", escape(value)));
        }
        (metric.name, text)
    }

    /// In the text format (Prometheus documentation, "Exposition formats"), metric by metric.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for Metric { name, kind, help, .. } in TABLE {
            let mut values =
                self.values.range((*name, String::new())..).take_while(|((of, _), _)| of == name).peekable();
            if values.peek().is_none() {
                continue;
            }
            // Writing to a string does not fail.
            let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} {}", kind.word());
            for ((_, labels), value) in values {
                let _ = writeln!(text, "{name}{{{labels}}} {value}");
            }
        }
        text
    }

    /// What [`Samples::text`] wrote; lines of anything else are passed over.
    pub fn read(archive: &str, text: &str) -> Samples {
        let mut samples = Samples::of(archive);
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let parts = line.rsplit_once("} ").and_then(|(rest, value)| Some((rest.split_once('{')?, value)));
            let Some(((name, labels), value)) = parts else { continue };
            if let (Some(metric), Ok(value)) = (find(name), value.parse::<f64>()) {
                samples.values.insert((metric.name, labels.to_owned()), value);
            }
        }
        samples
    }
}

fn find(name: &str) -> Option<&'static Metric> {
    TABLE.iter().copied().find(|metric| metric.name == name)
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_written_is_read_as_it_was(
            archive in ".{0,20}", verb in ".{0,12}", count in 0u64..1 << 50, seconds in 0f64..1e9,
        ) {
            let mut samples = Samples::of(&archive);
            samples.add(&table::RUNS, &[("verb", &verb), ("result", "ok")], count as f64);
            samples.set(&table::LAST_RUN_SECONDS, &[("verb", &verb)], seconds);
            prop_assert_eq!(&Samples::read(&archive, &samples.text()), &samples);
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,64}|(walden_runs_total[{}\" ,a-z=0-9]{0,32}\n){0,3}") {
            let _ = Samples::read("x", &text);
        }
    }

    #[test]
    fn counters_add_up_and_gauges_are_replaced() {
        let mut samples = Samples::of("file:///a");
        for value in [1.0, 2.5] {
            samples.add(&table::RUN_SECONDS, &[("verb", "wal-push")], value);
            samples.set(&table::LAST_RUN_SECONDS, &[("verb", "wal-push")], value);
        }
        let text = samples.text();
        assert!(text.contains("walden_run_seconds_total{archive=\"file:///a\",verb=\"wal-push\"} 3.5\n"), "{text}");
        assert!(text.contains("walden_last_run_seconds{archive=\"file:///a\",verb=\"wal-push\"} 2.5\n"), "{text}");
        assert!(text.contains("# TYPE walden_run_seconds_total counter\n"), "{text}");
    }
}
