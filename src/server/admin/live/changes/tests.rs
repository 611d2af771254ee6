use super::*;
use crate::view::{HeartbeatView, SourceView};

fn told(changes: Vec<FleetChange>) -> Vec<String> {
    changes.iter().map(FleetChange::to_string).collect()
}

fn scene(workers: &[(&str, Light)]) -> GatewayView {
    let worker = |(id, light): &(&str, Light)| WorkerView {
        id: (*id).into(),
        colour: "blue".into(),
        light: *light,
        why: (*light == Light::Red).then(|| "it cannot be reached".into()),
        limit: 8,
        eligible: true,
        ..WorkerView::default()
    };
    let workers = workers.iter().map(worker).collect();
    let pool = PoolView { name: "chat".into(), active: Some("blue".into()), workers, ..PoolView::default() };
    GatewayView { phase: "running".into(), pools: vec![pool], feed: Some(true), ..GatewayView::default() }
}

#[test]
fn each_change_is_a_line_and_a_busy_worker_is_none() {
    let before = scene(&[("a", Light::Green), ("b", Light::Red), ("c", Light::Green), ("d", Light::Yellow)]);
    let mut after =
        scene(&[("a", Light::Red), ("b", Light::Green), ("d", Light::Green), ("e", Light::Green)]);
    assert_eq!(
        told(changes(&before, &after)),
        [
            "worker c left",
            "worker e joined",
            "worker a turned red: it cannot be reached",
            "worker b recovered"
        ]
    );
    after.pools[0].workers = before.pools[0].workers.clone();
    assert!(changes(&before, &after).is_empty());
    after.pools[0].active = Some("green".into());
    let why = "takes jobs of green and sends no heartbeats".into();
    after.pools[0].strangers = Some(vec![StrangerView { worker: "x9".into(), why }]);
    after.maintenance = true;
    after.phase = "draining".into();
    after.feed = Some(false);
    after.discovery = vec![SourceView { away: vec!["a".into()], ..SourceView::default() }];
    after.reloads = (1, 1);
    assert_eq!(
        told(changes(&before, &after)),
        [
            "the gateway is draining",
            "closed for maintenance",
            "heartbeats: lost",
            "discovery: lost",
            "settings reloaded",
            "changed settings refused; the log says why",
            "pool chat: active colour is now green",
            "pool chat: x9 takes jobs of green and sends no heartbeats"
        ]
    );
    assert!(changes(&after, &after).is_empty());
}

#[test]
fn versions_that_share_a_side_are_a_line() {
    let side = |versions: &[&str]| {
        let names: Vec<_> = (0..versions.len()).map(|index| format!("w{index}")).collect();
        let mut scene = scene(&names.iter().map(|name| (&**name, Light::Green)).collect::<Vec<_>>());
        for (worker, version) in scene.pools[0].workers.iter_mut().zip(versions) {
            worker.member_of = Some("chat.blue".into());
            worker.said =
                Some(HeartbeatView { version: Some((*version).into()), ..HeartbeatView::default() });
        }
        scene
    };
    let (one, two) = (side(&["1", "1"]), side(&["1", "2"]));
    let line = "pool chat: several versions share the jobs of chat.blue: 1, 2";
    assert_eq!(told(changes(&one, &two)), [line]);
    assert!(changes(&two, &two).is_empty() && changes(&two, &one).is_empty());
}

#[test]
fn a_canary_is_a_line_when_it_begins_and_one_when_it_ends() {
    let with = |canary| {
        let mut scene = scene(&[]);
        scene.pools[0].canary = canary;
        scene
    };
    let begun = CanaryView {
        epoch: 4,
        old: "blue".into(),
        new: "green".into(),
        share: 0.05,
        ..CanaryView::default()
    };
    let further = CanaryView { elapsed_ms: 1000, ..begun.clone() };
    let why = Some("3.0 % of its requests failed".into());
    let ended = CanaryView { state: CanaryState::Reverted, why, ..further.clone() };
    let next = CanaryView { epoch: 6, ..begun.clone() };
    for (before, after, line) in [
        (None, Some(&begun), "pool chat: a canary began: green gets 5 % beside blue"),
        (Some(&begun), Some(&further), ""),
        (
            Some(&further),
            Some(&ended),
            "pool chat: the canary of green went back: 3.0 % of its requests failed",
        ),
        (Some(&ended), Some(&next), "pool chat: a canary began: green gets 5 % beside blue"),
        (Some(&begun), None, "pool chat: the canary of green ended"),
    ] {
        let lines = told(changes(&with(before.cloned()), &with(after.cloned())));
        assert_eq!(lines.join("; "), line);
    }
}

#[test]
fn a_fleet_that_goes_as_a_whole_is_a_few_lines() {
    let ids: Vec<_> = (0..1000).map(|index| format!("w{index:03}")).collect();
    let all: Vec<_> = ids.iter().map(|id| (&**id, Light::Green)).collect();
    let lines = told(changes(&scene(&all), &scene(&[])));
    assert_eq!((lines.len(), lines.last().unwrap().as_str()), (NAMED + 1, "995 more workers: left"));
}

#[test]
fn the_first_look_tells_who_is_red() {
    let mut scene = scene(&[("a", Light::Green), ("b", Light::Red), ("c", Light::Yellow), ("d", Light::Red)]);
    scene.pools[0].workers[3].eligible = false;
    assert_eq!(told(first(&scene)), ["the gateway started", "worker b turned red: it cannot be reached"]);
}
