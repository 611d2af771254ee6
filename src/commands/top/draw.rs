//! Draws a gateway's state in a terminal.

use ratatui::Frame as Screen;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Row, Sparkline, Table};
use traffic_dam::fleet::Light;
use traffic_dam::server::admin::live::{Frame, LiveEvent, SecondPoint};
use traffic_dam::view::{CanaryState, GatewayView, PoolView, StrangerView, WorkerView};

use super::timestamp::when;

/// Seconds of history: as many as a wide terminal has columns.
const SECONDS: usize = 300;
/// Minimum number of rows for the full layout.
const TALL: u16 = 36;
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
        // A small screen drops the charts before the workers.
        let lengths = if height < TALL { [3, 3, 0, workers + 2, 3] } else { [3, 5, 5, workers + 3, 6] };
        let [head, level, ttft, pools, events] = lengths.map(Constraint::Length);
        let [head, level, ttft, pools, lists, events] =
            Layout::vertical([head, level, ttft, pools, Constraint::Min(4), events]).areas(screen.area());
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
            Span::from(format!("  gateways {}   q: quit", scene.gateways)),
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
    let blank = || Line::from("");
    let canary = pool.canary.as_ref().filter(|canary| canary.state == CanaryState::UnderWay);
    let canary = canary.map(|canary| format!("{} % goes to {}", canary.share * 100.0, canary.new));
    let name = Line::from(format!("{} ({active})", pool.name));
    let cells = [name, blank(), blank(), blank(), blank(), blank(), Line::from(canary.unwrap_or_default())];
    Row::new(cells).style(Style::new().add_modifier(Modifier::BOLD))
}

/// A process that takes the pool's jobs and is none of its workers.
fn stranger(stranger: &StrangerView) -> Row<'_> {
    let blank = || Line::from("");
    let why = Line::from(format!("stranger: {}", stranger.why).red().bold());
    Row::new([Line::from(format!("  {}", stranger.worker)), blank(), blank(), blank(), blank(), blank(), why])
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
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use traffic_dam::view::{CallerView, CanaryView, HeartbeatView, RuleUseView};

    fn frame(whole: bool, at_ms: u64) -> Frame {
        let worker = WorkerView {
            id: "w-blue".into(),
            colour: "blue".into(),
            light: Light::Green,
            why: Some("full: 4 of 4".into()),
            in_flight: 3,
            limit: 4,
            eligible: true,
            said: Some(HeartbeatView { kv_used: Some(0.5), ..HeartbeatView::default() }),
            ..WorkerView::default()
        };
        let member = WorkerView {
            id: "pod-7".into(),
            eligible: false,
            member_of: Some("w-blue".into()),
            ..worker.clone()
        };
        Frame {
            whole,
            points: vec![SecondPoint {
                at_ms,
                seconds: 1.0,
                offered: 20,
                admitted: 5,
                gone: 2,
                refused: [("rate_limited".into(), 15)].into(),
                in_flight: 3,
                limit: 4,
                ttft: vec![0, 4, 1],
                ..SecondPoint::default()
            }],
            events: vec![LiveEvent { at_ms: 3_723_000, text: "the gateway started".to_owned() }],
            scene: GatewayView {
                version: "1.2.3".into(),
                phase: "running".into(),
                ttft_slo_ms: 1000,
                ttft_buckets: vec![0.1, 0.5],
                redis: Some(false),
                pools: vec![PoolView {
                    name: "chat".into(),
                    active: Some("blue".into()),
                    workers: vec![worker.clone(), member],
                    canary: Some(CanaryView { new: "green".into(), share: 0.05, ..CanaryView::default() }),
                    strangers: Some(vec![StrangerView {
                        worker: "x9".into(),
                        why: "takes jobs of blue".into(),
                    }]),
                    ..PoolView::default()
                }],
                callers: vec![CallerView { id: "key:team-a".into(), requests: 7.5, ..CallerView::default() }],
                rules: vec![RuleUseView { name: "burst".into(), used: Some(0.93), ..RuleUseView::default() }],
                ..GatewayView::default()
            },
        }
    }

    fn screen(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame, 3_724_000)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn everything_that_matters_is_on_the_screen() {
        let mut view = View::default();
        assert!(screen(&view, 120, 40).contains("connecting…"));
        view.take(Ok(frame(true, 1)));
        view.take(Ok(frame(false, 2)));
        let shown = screen(&view, 120, 40);
        for text in [
            "1.2.3  running  Redis lost  heartbeats not used  discovery not used",
            "offered 20.0/s  admitted 5.0/s  refused 15.0/s",
            "failed 0.0/s  left 2.0/s  in flight 3/4  waiting 0  rate_limited 15",
            "chat (blue)",
            "5 % goes to green",
            "└ pod-7 (standby)",
            "stranger: takes jobs of blue",
            "● green",
            "███████████████····· 3/4",
            "50 %",
            "key:team-a",
            "93 %",
            "Last events (UTC)",
            "01:02:03Z  the gateway started",
            "late       ░░",
            "≤ half     ▒▒",
        ] {
            assert!(shown.contains(text), "missing {text} in\n{shown}");
        }
        let usual = screen(&view, 80, 24);
        for text in ["left 2.0/s", "w-blue", "● green", "3/4", "full: 4 of 4", "93 %", "the gateway started"]
        {
            assert!(usual.contains(text), "a usual terminal shows {text}:\n{usual}");
        }
        view.take(Err("no data for 5 s".to_owned()));
        assert!(screen(&view, 120, 40).contains("UNREACHABLE: no data for 5 s"));
    }

    #[test]
    fn a_clock_that_is_set_back_stops_nothing() {
        let mut view = View::default();
        for frame in [frame(true, 9000), frame(false, 10_000), frame(false, 2000)] {
            view.take(Ok(frame));
        }
        let at: Vec<_> = view.points.iter().map(|point| point.at_ms).collect();
        assert_eq!(at, [9000, 10_000, 2000]);
        (0..2 * SECONDS as u64).for_each(|at| view.take(Ok(frame(false, at))));
        assert_eq!((view.points.len(), view.events.len()), (SECONDS, EVENTS));
    }

    #[test]
    fn a_small_or_empty_screen_is_drawn_too() {
        let mut view = View::default();
        for (width, height) in [(120, 40), (20, 5), (1, 1)] {
            screen(&view, width, height);
            view.take(Ok(frame(true, 1)));
            screen(&view, width, height);
        }
    }
}
