//! A section of the document: prose, tables and checks.

use std::fmt::Write;

use traffic_dam_lab::evidence::markdown::write_table;

/// A table; the first column is text, the others are numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    pub(crate) head: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<const N: usize>(head: [&str; N]) -> Self {
        Self { head: head.map(str::to_owned).to_vec(), rows: Vec::new() }
    }

    fn write(&self, out: &mut String) {
        write_table(out, &self.head, &self.rows, 1);
    }
}

/// A target for a value.
#[derive(Clone, Debug)]
pub(crate) struct Check {
    pub(crate) what: String,
    pub(crate) wanted: String,
    pub(crate) got: String,
    pub(crate) held: bool,
}

impl Check {
    /// Checks that a value is at least `least`, both shown with `digits` decimals.
    pub(crate) fn at_least(
        what: impl Into<String>,
        least: f64,
        got: Option<f64>,
        show: fn(f64) -> String,
    ) -> Self {
        Self::new(what, ("≥", least, "just below"), got, show, |got| got >= least)
    }

    /// Checks that a value is at most `most`.
    pub(crate) fn at_most(
        what: impl Into<String>,
        most: f64,
        got: Option<f64>,
        show: fn(f64) -> String,
    ) -> Self {
        Self::new(what, ("≤", most, "just above"), got, show, |got| got <= most)
    }

    fn new(
        what: impl Into<String>,
        (sign, bound, beyond): (&str, f64, &str),
        got: Option<f64>,
        show: fn(f64) -> String,
        holds: impl Fn(f64) -> bool,
    ) -> Self {
        // A value that was not measured misses its target.
        let held = got.is_some_and(holds);
        let figure = show(bound);
        let got = match got.map(show) {
            None => "nothing measured".to_owned(),
            // Rounding would hide the miss.
            Some(got) if !held && got == figure => format!("{got}, {beyond}"),
            Some(got) => got,
        };
        Self { what: what.into(), wanted: format!("{sign} {figure}"), got, held }
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Section {
    pub(crate) title: String,
    pub(crate) text: String,
    pub(crate) tables: Vec<(String, Table)>,
    /// Names of pictures beside the document, with their captions.
    pub(crate) pictures: Vec<(String, String)>,
    pub(crate) checks: Vec<Check>,
    /// Notes below the tables.
    pub(crate) notes: Vec<String>,
    /// Reasons why parts of it do not count.
    pub(crate) faults: Vec<String>,
}

impl Section {
    pub(crate) fn new(title: &str, text: impl Into<String>) -> Self {
        Self { title: title.to_owned(), text: text.into(), ..Self::default() }
    }

    /// Records that a run does not count, and why.
    pub(crate) fn fault(&mut self, run: &str, faults: &[String]) {
        self.faults.extend(faults.iter().map(|fault| format!("{run}: {fault}")));
    }

    pub(crate) fn write(&self, out: &mut String) {
        let mut paragraph = |text: &str| {
            out.push_str(text);
            out.push_str("\n\n");
        };
        paragraph(&format!("## {}", self.title));
        if !self.text.is_empty() {
            paragraph(&self.text);
        }
        for (file, shows) in &self.pictures {
            paragraph(&format!("![{shows}]({file})"));
        }
        self.write_tables(out);
        for note in &self.notes {
            writeln!(out, "* {note}").unwrap_or_default();
        }
        for fault in &self.faults {
            writeln!(out, "* **Does not count**: {fault}.").unwrap_or_default();
        }
        if !(self.notes.is_empty() && self.faults.is_empty()) {
            out.push('\n');
        }
    }

    /// Writes only the tables.
    pub(crate) fn write_tables(&self, out: &mut String) {
        for (title, table) in &self.tables {
            if !title.is_empty() {
                out.push_str(title);
                out.push_str("\n\n");
            }
            table.write(out);
            out.push('\n');
        }
    }
}

pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

pub(crate) fn millis(ms: f64) -> String {
    if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

pub(crate) fn ratio(value: f64) -> String {
    format!("{value:.3}")
}

pub(crate) fn seconds(value: f64) -> String {
    format!("{value:.1} s")
}

/// Formats milliseconds for a table whose head names the unit.
pub(crate) fn bare(ms: Option<f64>) -> String {
    ms.map_or_else(|| "–".to_owned(), |ms| if ms < 10.0 { format!("{ms:.2}") } else { format!("{ms:.0}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_was_not_reached() {
        assert!(!Check::at_most("x", 1.0, None, ratio).held);
        assert!(Check::at_most("x", 1.0, Some(1.0), ratio).held);
        assert!(!Check::at_least("x", 0.98, Some(0.979), ratio).held);
        assert!(!Check::at_least("x", 0.98, Some(f64::NAN), ratio).held);
        assert_eq!(Check::at_least("x", 0.98, Some(0.97996), ratio).got, "0.980, just below");
        assert_eq!(Check::at_most("x", 0.98, Some(0.98004), ratio).got, "0.980, just above");
    }

    #[test]
    fn a_section_is_markdown() {
        let mut table = Table::new(["arm", "goodput/s"]);
        table.rows.push(vec!["a".to_owned(), "1".to_owned()]);
        let mut section = Section::new("Loads", "Text.");
        section.tables.push((String::new(), table));
        section.fault("a at 2×", &["too late".to_owned()]);
        let mut out = String::new();
        section.write(&mut out);
        assert_eq!(
            out,
            "## Loads\n\nText.\n\n| arm | goodput/s |\n| --- | ---: |\n| a | 1 |\n\n\
             * **Does not count**: a at 2×: too late.\n\n"
        );
    }
}
