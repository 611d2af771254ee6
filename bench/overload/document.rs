//! The document: written whole by every run, so that it always is what a run printed.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::figures::Rate;
use crate::machine;
use crate::plan::{Options, PATIENCE, WORKER};
use crate::section::{Section, Table};

/// What the document says before its sections.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) options: &'a Options,
    /// Of the usual worker, where it was used.
    pub(crate) peak: Option<Rate>,
    pub(crate) took: Duration,
}

impl Frame<'_> {
    /// The document's text.
    pub(crate) fn text(&self, sections: &[Section]) -> String {
        let mut out = String::from(
            "# Overload\n\nWhat becomes of goodput when more is asked for than a worker can give. `make overload` wrote \
             this file.\n\n",
        );
        self.verdict(sections, &mut out);
        self.method(&mut out);
        sections.iter().for_each(|section| section.write(&mut out));
        let end = out.trim_end().len();
        out.truncate(end);
        out.push('\n');
        out
    }

    fn verdict(&self, sections: &[Section], out: &mut String) {
        let checks: Vec<_> = sections.iter().flat_map(|section| &section.checks).collect();
        let faults = sections.iter().map(|section| section.faults.len()).sum::<usize>();
        let missed = checks.iter().filter(|check| !check.held).count();
        let mut line =
            |text: std::fmt::Arguments<'_>| out.write_fmt(format_args!("{text}\n\n")).unwrap_or_default();
        line(format_args!("## What was to hold"));
        line(format_args!(
            "{} of {} figures were reached, {missed} were missed.",
            checks.len() - missed,
            checks.len()
        ));
        if faults > 0 {
            line(format_args!("{faults} runs do not count, or were not made; each is named in its section."));
        }
        if checks.is_empty() {
            return;
        }
        let mut table = Table::new(["", "wanted", "measured", ""]);
        for check in checks {
            let held = if check.held { "" } else { "**missed**" };
            let cells = [&check.what, &check.wanted, &check.got, held];
            table.rows.push(cells.map(str::to_owned).to_vec());
        }
        Section { title: String::new(), tables: vec![(String::new(), table)], ..Section::default() }
            .write_tables(out);
    }

    fn method(&self, out: &mut String) {
        let Self { options, peak, took } = self;
        let nginx = options.nginx.as_deref().map_or_else(|| "not installed".to_owned(), version);
        let text = format!(
            "## How it was measured\n\n\
             {machine}, {date}; gateway, worker and generator are processes of their own that share them, on loopback. \
             nginx: {nginx}. The run took {minutes:.0} minutes; every load was measured for {seconds} s after a \
             warm-up.\n\n\
             {worker}The generator draws all arrivals before a run and never waits for an answer; times count from when a \
             request was due. A run in which it took more than 70 % of a core, in which more than 1 % of requests left \
             over 5 ms late, or in which a complete stream has no TTFT does not count, and says so. A client gives up \
             when {patience} s have brought it no token.\n\n",
            machine = machine::description(),
            date = options.date,
            minutes = took.as_secs_f64() / 60.0,
            seconds = options.seconds,
            worker = peak.map(worker).unwrap_or_default(),
            patience = PATIENCE.as_secs(),
        );
        out.push_str(&text);
    }

    /// Writes the document.
    pub(crate) fn write(&self, sections: &[Section]) -> std::io::Result<()> {
        fs::create_dir_all(&self.options.out)?;
        fs::write(self.options.out.join("overload.md"), self.text(sections))
    }
}

/// What the usual worker is, and gives.
fn worker(peak: Rate) -> String {
    format!(
        "The worker is simulated (`traffic-dam worker`): {slots} slots, 15 ms a token and 0.3 ms more for each \
         sequence in the batch, prompts at 40 000 tokens/s, answers of {output} tokens on average (log-normal, \
         128 at the most). Prompts have 150 tokens in the median, 1500 at the most. At its best, kept just full by \
         clients that ask again as soon as they are answered, it gives **{requests:.1} answers or {tokens:.0} tokens per \
         second**: the capacity, and the peak, of all that follows.\n\n",
        slots = WORKER.slots,
        output = WORKER.mean_output,
        requests = peak.requests,
        tokens = peak.tokens,
    )
}

/// What `nginx -v` says of itself.
fn version(nginx: &Path) -> String {
    let said = Command::new(nginx).arg("-v").output().map(|output| output.stderr).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    said.trim().rsplit(": ").next().unwrap_or_default().to_owned()
}
