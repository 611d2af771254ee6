//! Draws a gateway's state in a terminal.

use ratatui::Frame as Screen;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Sparkline, Table};
use traffic_dam::fleet::Light;
use traffic_dam::server::admin::live::{Frame, LiveEvent, SecondPoint};
use traffic_dam::view::{CanaryState, GatewayView, PoolView, StrangerView, WorkerView};

use super::timestamp::when;

/// Seconds of history: as many as a wide terminal has columns.
const SECONDS: usize = 300;
/// Minimum number of rows for the full layout.
const TALL: u16 = 36;
/// Minimum number of rows for charts, and for callers, rules and events.
const MEDIUM: u16 = 20;
/// How to quit, with a blank before it.
const QUIT: &str = " q: quit";
/// Minimum number of columns for bars.
const WIDE: u16 = 110;
/// Number of events in the history.
const EVENTS: usize = 50;
/// Seconds over which rates are averaged: one second alone flickers.
const BREATH: usize = 10;

/// State to draw.
#[derive(Debug, Default)]
pub(super) struct View {
    points: Vec<SecondPoint>,
    events: Vec<LiveEvent>,
    scene: GatewayView,
    /// Why no frames arrive; `None` while they do.
    trouble: Option<String>,
}

impl View {
    /// Applies a frame, or records why none arrives.
    pub(super) fn take(&mut self, news: Result<Frame, String>) {
        let frame = match news {
            Ok(frame) => frame,
            Err(why) => return self.trouble = Some(why),
        };
        self.trouble = None;
        if frame.whole {
            self.points.clear();
            self.events.clear();
        }
        self.points.extend(frame.points);
        self.points.drain(..self.points.len().saturating_sub(SECONDS));
        self.events.extend(frame.events);
        self.events.drain(..self.events.len().saturating_sub(EVENTS));
        self.scene = frame.scene;
    }

    /// Draws everything, with times relative to `now_ms`, in milliseconds since 1970.
    pub(super) fn draw(&self, screen: &mut Screen<'_>, now_ms: u64) {
        let height = screen.area().height;
        let lines = |pool: &PoolView| pool.workers.len() + pool.strangers.iter().flatten().count() + 1;
        let workers = self.scene.pools.iter().map(lines).sum::<usize>();
        let workers = u16::try_from(workers.min(usize::from(height / 3).max(4))).unwrap_or(u16::MAX);
        // A small screen drops all else before the workers.
        let (lengths, lists) = match height {
            ..MEDIUM => ([3, 0, 0, workers + 2, 0], 0),
            MEDIUM..TALL => ([3, 3, 0, workers + 2, 3], 4),
            TALL.. => ([3, 5, 5, workers + 3, 6], 4),
        };
        let [head, level, ttft, pools, events] = lengths.map(Constraint::Length);
        let [head, level, ttft, pools, lists, events] =
            Layout::vertical([head, level, ttft, pools, Constraint::Min(lists), events]).areas(screen.area());
        self.head(screen, head);
        self.level(screen, level);
        self.first_tokens(screen, ttft);
        self.workers(screen, pools);
        let [callers, rules] =
            Layout::horizontal([Constraint::Percentage(45), Constraint::Percentage(55)]).areas(lists);
        self.callers(screen, callers);
        self.rules(screen, rules);
        let line = |event: &LiveEvent| Line::from(format!("{}  {}", when(event.at_ms, now_ms), event.text));
        let newest: Vec<_> = self.events.iter().rev().map(line).collect();
        screen.render_widget(Paragraph::new(newest).block(titled("Last events (UTC)")), events);
    }

    fn head(&self, screen: &mut Screen<'_>, area: Rect) {
        let scene = &self.scene;
        let state = match &self.trouble {
            Some(why) => format!("UNREACHABLE: {why}").red().bold(),
            None if scene.version.is_empty() => "connecting…".dim(),
            None if scene.maintenance => "closed for maintenance".red().bold(),
            None => Span::from(scene.phase.to_string()),
        };
        let works = |works: Option<bool>| match works {
            Some(true) => "works".green(),
            Some(false) => "lost".red().bold(),
            None => "not used".dim(),
        };
        let all = scene.discovery.iter().all(|source| source.away.is_empty());
        let discovery = (!scene.discovery.is_empty()).then_some(all);
        let first = Line::from_iter([
            "Traffic Dam ".bold(),
            Span::from(scene.version.to_string()),
            "  ".into(),
            state,
            "  Redis ".into(),
            works(scene.redis),
            "  heartbeats ".into(),
            works(scene.feed),
            "  discovery ".into(),
            works(discovery),
            Span::from(format!("  gateways {}", scene.gateways)),
        ]);
        let now = self.points.last().cloned().unwrap_or_default();
        let rate = |count: fn(&SecondPoint) -> u64| self.rate(count);
        let second = format!(
            "offered {:.1}/s  admitted {:.1}/s  refused {:.1}/s  in time {:.1}/s",
            rate(|point| point.offered),
            rate(|point| point.admitted),
            rate(refused),
            rate(|point| point.good),
        );
        let mut reasons =
            now.refused.iter().map(|(reason, count)| format!("{reason} {count}")).collect::<Vec<_>>();
        if reasons.is_empty() {
            reasons.push("nothing refused in the last second".to_owned());
        }
        let waiting = now.queue.values().sum::<u64>();
        let third = Line::from_iter([
            Span::from(format!(
                "failed {:.1}/s  left {:.1}/s  in flight {}/{}  waiting {waiting}  ",
                rate(|point| point.failed),
                rate(|point| point.gone),
                now.in_flight,
                now.limit
            )),
            reasons.join("  ").dim(),
        ]);
        screen.render_widget(Paragraph::new(vec![first, Line::from(second), third]), area);
        // At the right end, over what does not fit: whoever does not know the program needs it.
        let columns = u16::try_from(QUIT.len()).unwrap_or(u16::MAX).min(area.width);
        let corner = Rect { x: area.right() - columns, width: columns, height: area.height.min(1), ..area };
        screen.render_widget(Paragraph::new(QUIT), corner);
    }

    fn level(&self, screen: &mut Screen<'_>, area: Rect) {
        let [offered, admitted, refusals] = Layout::horizontal([Constraint::Fill(1); 3]).areas(area);
        let line = |screen: &mut Screen<'_>, area: Rect, title, count: fn(&SecondPoint) -> u64, colour| {
            let per_second =
                |point: &SecondPoint| (count(point) as f64 / point.seconds.max(0.001)).round() as u64;
            let shown = self.points.iter().rev().take(usize::from(area.width)).map(per_second);
            let mut shown: Vec<_> = shown.collect();
            shown.reverse();
            screen.render_widget(
                Sparkline::default().data(shown).style(Style::new().fg(colour)).block(titled(title)),
                area,
            );
        };
        line(screen, offered, "Offered /s", |point| point.offered, Color::Gray);
        line(screen, admitted, "Admitted /s", |point| point.admitted, Color::Blue);
        line(screen, refusals, "Refused /s", refused, Color::Red);
    }

    /// Draws a column per second and a row per range of TTFT; denser cells have more requests.
    fn first_tokens(&self, screen: &mut Screen<'_>, area: Rect) {
        let bounds = &self.scene.ttft_buckets;
        let promise = self.scene.ttft_slo_ms as f64 / 1000.0;
        let ranges: [(&str, f64, f64); 4] = [
            ("late       ", promise, f64::INFINITY),
            ("≤ SLO      ", promise / 2.0, promise),
            ("≤ half     ", promise / 10.0, promise / 2.0),
            ("≤ a tenth  ", -1.0, promise / 10.0),
        ];
        let width = usize::from(area.width).saturating_sub(12);
        let from = self.points.len().saturating_sub(width);
        let rows = ranges.map(|(label, above, upto)| {
            let within = |row: usize| {
                bounds.get(row).is_none_or(|bound| *bound > above)
                    && bounds.get(row).copied().unwrap_or(f64::INFINITY) <= upto
            };
            let cell = |point: &SecondPoint| {
                let count: u64 = point
                    .ttft
                    .iter()
                    .enumerate()
                    .filter(|(row, _)| within(*row))
                    .map(|(_, count)| count)
                    .sum();
                match count {
                    0 => ' ',
                    1 => '░',
                    2..=9 => '▒',
                    10..=99 => '▓',
                    _ => '█',
                }
            };
            let cells: String = self.points.iter().skip(from).map(cell).collect();
            let cells = if above >= promise { cells.red() } else { cells.blue() };
            Line::from(vec![label.dim(), cells])
        });
        screen.render_widget(
            Paragraph::new(rows.to_vec()).block(titled(format!("Time to first token, SLO {promise} s"))),
            area,
        );
    }

    fn workers(&self, screen: &mut Screen<'_>, area: Rect) {
        let wide = area.width >= WIDE;
        let mut rows = Vec::new();
        for pool in &self.scene.pools {
            rows.push(about(pool));
            rows.extend(pool.strangers.iter().flatten().map(stranger));
            rows.extend(pool.workers.iter().map(|one| worker(one, wide)));
        }
        let widths = if wide { [20, 9, 9, 30, 6, 9] } else { [15, 9, 7, 9, 6, 8] }.map(Constraint::Length);
        let widths = widths.into_iter().chain([Constraint::Fill(1)]);
        let head = ["Worker", "light", "colour", "in flight", "KV", "heard", "why"];
        let head = Row::new(head).style(Style::new().dim());
        screen.render_widget(Table::new(rows, widths).header(head).block(titled("Pools and workers")), area);
    }

    fn callers(&self, screen: &mut Screen<'_>, area: Rect) {
        let rows = self.scene.callers.iter().map(|caller| {
            Row::new([
                caller.id.to_string(),
                format!("{:.1}", caller.requests),
                format!("{:.1}", caller.refused),
                format!("{:.0}", caller.tokens),
            ])
        });
        let widths =
            [Constraint::Min(16), Constraint::Length(8), Constraint::Length(8), Constraint::Length(8)];
        let head = Row::new(["Caller", "req/s", "ref/s", "tok/s"]).style(Style::new().dim());
        screen.render_widget(Table::new(rows, widths).header(head).block(titled("Top callers")), area);
    }

    fn rules(&self, screen: &mut Screen<'_>, area: Rect) {
        let rows = self.scene.rules.iter().map(|rule| {
            let colour = if rule.used.is_some_and(|used| used >= 0.8) { Color::Red } else { Color::Reset };
            Row::new([
                rule.name.to_string(),
                rule.used.map_or_else(|| "–".to_owned(), |used| format!("{:.0} %", used * 100.0)),
                rule.caller.as_ref().map_or_else(|| "–".to_owned(), ToString::to_string),
                rule.refused.to_string(),
            ])
            .style(Style::new().fg(colour))
        });
        let widths = [Constraint::Min(14), Constraint::Length(7), Constraint::Min(12), Constraint::Length(7)];
        let head = Row::new(["Rule", "full", "by", "ref/s"]).style(Style::new().dim());
        screen.render_widget(Table::new(rows, widths).header(head).block(titled("Rules")), area);
    }

    fn rate(&self, count: fn(&SecondPoint) -> u64) -> f64 {
        let last = self.points.iter().rev().take(BREATH);
        let (sum, seconds) =
            last.fold((0, 0.0), |(sum, seconds), point| (sum + count(point), seconds + point.seconds));
        if seconds > 0.0 { sum as f64 / seconds } else { 0.0 }
    }
}

fn refused(point: &SecondPoint) -> u64 {
    point.refused.values().sum()
}

fn titled<'a>(title: impl Into<Line<'a>>) -> Block<'a> {
    Block::new().borders(ratatui::widgets::Borders::TOP).title(title)
}

fn about(pool: &PoolView) -> Row<'_> {
    let active = pool.active.as_ref().map_or_else(|| "every colour".to_owned(), ToString::to_string);
    let canary = pool.canary.as_ref().filter(|canary| canary.state == CanaryState::UnderWay);
    let canary = canary.map(|canary| format!("{} % goes to {}", canary.share * 100.0, canary.new));
    let name = Line::from(format!("{} ({active})", pool.name));
    heading(name, Line::from(canary.unwrap_or_default())).style(Style::new().add_modifier(Modifier::BOLD))
}

/// A process that takes the pool's jobs and is none of its workers.
fn stranger(stranger: &StrangerView) -> Row<'_> {
    let why = Line::from(format!("stranger: {}", stranger.why).red().bold());
    heading(Line::from(format!("  {}", stranger.worker)), why)
}

/// Returns a row of a name, which has the room of all columns but the last, and a text in the last.
fn heading<'a>(name: Line<'a>, last: Line<'a>) -> Row<'a> {
    Row::new([Cell::from(name).column_span(6), Cell::from(last)])
}

fn worker(worker: &WorkerView, wide: bool) -> Row<'_> {
    let light = match worker.light {
        Light::Green => "● green".green(),
        Light::Yellow => "▲ yellow".yellow(),
        Light::Red => "■ red".red().bold(),
    };
    let note = if worker.leaving {
        " (leaving)"
    } else if worker.eligible {
        ""
    } else if worker.member_of.is_some() {
        " (standby)"
    } else {
        " (no work)"
    };
    let width = 20;
    let filled =
        (worker.in_flight as usize * width).checked_div(worker.limit as usize).unwrap_or(0).min(width);
    let bar = format!("{}{} ", "█".repeat(filled), "·".repeat(width - filled));
    let bar = if wide { bar } else { String::new() };
    let said = worker.said.as_ref();
    let unknown = || "–".to_owned();
    let kv_used = said.and_then(|said| said.kv_used);
    Row::new([
        Line::from(format!("  {}{}{note}", if worker.member_of.is_some() { "└ " } else { "" }, worker.id)),
        Line::from(light),
        Line::from(worker.colour.to_string()),
        Line::from(format!("{bar}{}/{}", worker.in_flight, worker.limit)),
        Line::from(kv_used.map_or_else(unknown, |used| format!("{:.0} %", used * 100.0))),
        Line::from(said.map_or_else(unknown, |said| format!("{} ms", said.age_ms))),
        Line::from(worker.why.as_deref().unwrap_or_default()),
    ])
}

#[cfg(test)]
mod tests;
