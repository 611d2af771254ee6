//! Writes the document. Every run writes it whole, so that all of it comes from one run.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use traffic_dam_lab::evidence::lateness::LATE_MS;

use crate::figures::Rate;
use crate::machine;
use crate::plan::{Options, PATIENCE, WORKER};
use crate::section::{Section, Table};

/// What the document says before its sections.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) options: &'a Options,
    /// Peak of the default worker, if it was used.
    pub(crate) peak: Option<Rate>,
    pub(crate) took: Duration,
}

impl Frame<'_> {
    pub(crate) fn text(&self, sections: &[Section]) -> String {
        let mut out = String::from(
            "# Overload\n\n\
             This page shows the goodput when the load is higher than the capacity of a worker. \
             `make overload` wrote this file. In the tables, *dam* is this gateway. Its slots are \
             configured, except in rows with *size not told* or *not told*.\n\n",
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
        line(format_args!("## Expectations"));
        line(format_args!(
            "{} of {} targets were met, {missed} were missed.",
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
             {machine}, {date}. The gateway, the worker and the generator are separate processes that share \
             these cores, on loopback. nginx: {nginx}. The run took {minutes:.0} minutes; every load was \
             measured for {seconds} s after a warm-up.\n\n\
             {worker}The generator draws all arrivals before a run and never waits for an answer; times \
             count from the moment when a request was due. A run does not count, and is marked, if the \
             generator used more than 70 % of a core, if more than 1 % of requests left over {late} ms late, \
             or if a complete stream has no TTFT. A client gives up after {patience} s without a token.\n\n",
            machine = machine::description(),
            date = options.date,
            minutes = took.as_secs_f64() / 60.0,
            seconds = options.seconds,
            worker = peak.map(worker).unwrap_or_default(),
            late = LATE_MS,
            patience = PATIENCE.as_secs(),
        );
        out.push_str(&text);
    }

    pub(crate) fn write(&self, sections: &[Section]) -> std::io::Result<()> {
        fs::create_dir_all(&self.options.out)?;
        fs::write(self.options.out.join("overload.md"), self.text(sections))
    }
}

/// Describes the default worker and its peak.
fn worker(peak: Rate) -> String {
    format!(
        "The worker is simulated (`traffic-dam worker`): {slots} slots, 15 ms per token plus 0.3 ms for each \
         sequence in the batch, prompts at 40 000 tokens/s, answers of {output} tokens on average \
         (log-normal, at most 128). Prompts have a median of 150 tokens, and at most 1500. Its maximum, \
         measured with clients that keep it just full and send the next request as soon as they have an \
         answer, is **{requests:.1} answers or {tokens:.0} tokens per second**. This is the capacity, and \
         the peak, in all sections.\n\n",
        slots = WORKER.slots,
        output = WORKER.mean_output,
        requests = peak.requests,
        tokens = peak.tokens,
    )
}

/// Returns the output of `nginx -v`.
fn version(nginx: &Path) -> String {
    let said = Command::new(nginx).arg("-v").output().map(|output| output.stderr).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    said.trim().rsplit(": ").next().unwrap_or_default().to_owned()
}
