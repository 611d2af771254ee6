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
                strangers: Some(vec![StrangerView { worker: "x9".into(), why: "takes jobs of blue".into() }]),
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
    for text in ["left 2.0/s", "w-blue", "● green", "3/4", "full: 4 of 4", "93 %", "the gateway started"] {
        assert!(usual.contains(text), "a usual terminal shows {text}:\n{usual}");
    }
    assert!(usual.contains("q: quit") && usual.contains("chat (blue)"), "{usual}");
    let small = screen(&view, 60, 10);
    for text in ["Traffic Dam", "q: quit", "chat (blue)", "w-blue"] {
        assert!(small.contains(text), "a small terminal shows {text}:\n{small}");
    }
    view.take(Err("no data for 5 s".to_owned()));
    assert!(screen(&view, 120, 40).contains("UNREACHABLE: no data for 5 s"));
}

#[test]
fn a_pool_without_a_colour_is_named_in_full() {
    let mut view = View::default();
    let mut frame = frame(true, 1);
    frame.scene.pools[0].active = None;
    view.take(Ok(frame));
    for (width, height) in [(60, 10), (80, 24), (200, 50)] {
        let shown = screen(&view, width, height);
        assert!(shown.contains("chat (every colour)"), "{shown}");
    }
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
