//! What happened between two looks at a gateway, in words.
//!
//! Told from the difference of two scenes rather than by those to whom it happens, so that nothing on a request's way
//! has to speak to the page. What comes and goes within one second is not seen.

use std::collections::HashMap;
use std::sync::Arc;

use super::scene::{Scene, WorkerScene};
use crate::metrics::Light;

/// So many of one kind are named; of a fleet that goes as a whole the rest is a number.
const NAMED: usize = 5;

/// The lines for what differs.
pub(super) fn changes(before: &Scene, after: &Scene) -> Vec<String> {
    let mut lines = Vec::new();
    if before.phase != after.phase {
        lines.push(format!("the gateway is {}", after.phase));
    }
    if before.maintenance != after.maintenance {
        let what = if after.maintenance { "closed for maintenance" } else { "open again after maintenance" };
        lines.push(what.to_owned());
    }
    for (what, before, after) in
        [("heartbeats", before.feed, after.feed), ("Redis", before.redis, after.redis)]
    {
        match (before, after) {
            (Some(true) | None, Some(false)) => lines.push(format!("{what}: lost")),
            (Some(false), Some(true)) => lines.push(format!("{what}: back")),
            _ => {}
        }
    }
    if after.reloads.0 > before.reloads.0 {
        lines.push("settings reloaded".to_owned());
    }
    if after.reloads.1 > before.reloads.1 {
        lines.push("changed settings refused; the log says why".to_owned());
    }
    for pool in &after.pools {
        let old = before.pools.iter().find(|old| old.name == pool.name);
        if let (Some(old), Some(active)) = (old, &pool.active)
            && old.active.as_ref() != Some(active)
        {
            lines.push(format!("pool {}: {active} takes the work", pool.name));
        }
    }
    workers(before, after, &mut lines);
    lines
}

fn by_id(scene: &Scene) -> HashMap<&Arc<str>, &WorkerScene> {
    scene.pools.iter().flat_map(|pool| &pool.workers).map(|worker| (&worker.id, worker)).collect()
}

fn workers(before: &Scene, after: &Scene, lines: &mut Vec<String>) {
    let (old, new) = (by_id(before), by_id(after));
    let went = old.keys().filter(|id| !new.contains_key(**id));
    let came = new.keys().filter(|id| !old.contains_key(**id));
    // Between green and yellow a busy worker changes all the time.
    let red = |worker: &WorkerScene| worker.light == Light::Red;
    let both = || new.iter().filter_map(|(id, now)| Some((id, *now, *old.get(*id)?)));
    let failed = both().filter(|(_, now, then)| red(now) && !red(then)).map(|(id, ..)| id);
    let healed = both().filter(|(_, now, then)| !red(now) && red(then)).map(|(id, ..)| id);
    tell("went", went, lines);
    tell("came", came, lines);
    tell("turned red", failed, lines);
    tell("is red no longer", healed, lines);
}

fn tell<'a>(what: &str, ids: impl Iterator<Item = &'a &'a Arc<str>>, lines: &mut Vec<String>) {
    let mut ids: Vec<_> = ids.collect();
    ids.sort_unstable();
    lines.extend(ids.iter().take(NAMED).map(|id| format!("worker {id} {what}")));
    if ids.len() > NAMED {
        lines.push(format!("{} more workers: {what}", ids.len() - NAMED));
    }
}

#[cfg(test)]
mod tests {
    use super::super::scene::PoolScene;
    use super::*;

    fn scene(workers: &[(&str, Light)]) -> Scene {
        let worker = |(id, light): &(&str, Light)| WorkerScene {
            id: (*id).into(),
            colour: "blue".into(),
            light: *light,
            in_flight: 0,
            limit: 8,
            eligible: true,
            leaving: false,
            kv_used: None,
            age_ms: None,
        };
        let workers = workers.iter().map(worker).collect();
        let pool =
            PoolScene { name: "chat".into(), active: Some("blue".into()), workers, ..PoolScene::default() };
        Scene { phase: "running".into(), pools: vec![pool], feed: Some(true), ..Scene::default() }
    }

    #[test]
    fn each_change_is_a_line_and_a_busy_worker_is_none() {
        let before =
            scene(&[("a", Light::Green), ("b", Light::Red), ("c", Light::Green), ("d", Light::Yellow)]);
        let mut after =
            scene(&[("a", Light::Red), ("b", Light::Green), ("d", Light::Green), ("e", Light::Green)]);
        assert_eq!(
            changes(&before, &after),
            ["worker c went", "worker e came", "worker a turned red", "worker b is red no longer"]
        );
        after.pools[0].workers = before.pools[0].workers.clone();
        assert!(changes(&before, &after).is_empty());
        after.pools[0].active = Some("green".into());
        after.maintenance = true;
        after.phase = "draining".into();
        after.feed = Some(false);
        after.reloads = (1, 1);
        assert_eq!(
            changes(&before, &after),
            [
                "the gateway is draining",
                "closed for maintenance",
                "heartbeats: lost",
                "settings reloaded",
                "changed settings refused; the log says why",
                "pool chat: green takes the work"
            ]
        );
    }

    #[test]
    fn a_fleet_that_goes_as_a_whole_is_a_few_lines() {
        let ids: Vec<_> = (0..1000).map(|index| format!("w{index:03}")).collect();
        let all: Vec<_> = ids.iter().map(|id| (&**id, Light::Green)).collect();
        let lines = changes(&scene(&all), &scene(&[]));
        assert_eq!((lines.len(), lines.last().unwrap().as_str()), (NAMED + 1, "995 more workers: went"));
    }
}
