//! The choice of a worker by what it has read before.

use super::*;
use crate::request::PromptPrefix;
use crate::shed::WorkerFailure;
use crate::shed::settings::PrefixSettings;

/// Ranks as a fleet does: differently for each session.
const RANKED: Pick = Pick {
    any: PICK.any,
    rank: |session, key| {
        (session ^ key)
            .wrapping_mul(0xbf58_476d_1ce4_e5b9)
            .rotate_left(31)
            .wrapping_mul(0x94d0_49bb_1331_11eb)
    },
    below_session_share: PICK.below_session_share,
};

fn gate(settings: GateSettings, members: &[PoolMember]) -> Gate {
    let mut gate = Gate::new(Arc::from("default"), settings.clone(), RANKED, 7);
    gate.rebuild(settings, members.to_vec(), Nanos::ZERO);
    gate
}

fn by_prefix() -> GateSettings {
    GateSettings { prefix: Some(PrefixSettings::default()), fleet_factor: 1.0, ..settings() }
}

/// Returns a prompt of 64 tokens per block, made of `parts`: the blocks of a text, by its name.
fn prompt(caller: &str, parts: &[(u64, u64)]) -> PermitRequest {
    let mut parent = 0_u64;
    let blocks: Box<[u64]> = parts
        .iter()
        .flat_map(|(name, blocks)| (0..*blocks).map(move |place| name * 1000 + place))
        .map(|block| {
            parent = (parent ^ block).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
            parent
        })
        .collect();
    let length = blocks.len() as u64;
    let prefix = Some(Arc::new(PromptPrefix { blocks, bytes: length * 256 }));
    PermitRequest { prompt_tokens: length * 64, prefix, ..ask(caller) }
}

fn workers(count: u32) -> Vec<PoolMember> {
    (0..count).map(|number| member(&format!("w{number}"), 16)).collect()
}

/// Serves a request, whose answer comes at once. Returns the worker.
fn serve(gate: &mut Gate, ask: &PermitRequest, cached: Option<u64>, now: Nanos) -> Arc<str> {
    let grant = granted(gate, ask, now);
    gate.dispatched(grant.permit, now);
    gate.first_token(grant.permit, now);
    if let Some(cached) = cached {
        gate.report_cached(grant.permit, cached);
    }
    gate.release(grant.permit, Ending::Complete, 50, now);
    grant.worker
}

fn prefill(gate: &Gate, worker: &str) -> u64 {
    let snapshot = gate.snapshot(at(0));
    snapshot.workers.iter().find(|state| *state.id == *worker).unwrap().prefill_tokens
}

#[test]
fn a_conversation_returns_to_its_worker_and_only_what_is_new_counts_as_unread() {
    let mut gate = gate(by_prefix(), &workers(4));
    for conversation in 1..40 {
        let first = serve(&mut gate, &prompt("a", &[(conversation, 20)]), None, at(0));
        // Other requests occupy the worker: fewer than what the prefix saves.
        let beside: Vec<_> =
            (0..2).map(|_| granted(&mut gate, &ask("b"), at(0))).map(|grant| grant.permit).collect();
        let second = granted(&mut gate, &prompt("a", &[(conversation, 24)]), at(0));
        assert_eq!(second.worker, first);
        let unread = prefill(&gate, &first);
        assert!((256..=456).contains(&unread), "{unread} tokens: 256 new ones, and those beside");
        gate.release(second.permit, Ending::ClientGone, 0, at(0));
        beside.into_iter().for_each(|permit| gate.release(permit, Ending::ClientGone, 0, at(0)));
    }
    assert!(
        gate.snapshot(at(0)).workers.iter().all(|worker| (worker.tokens, worker.prefill_tokens) == (0, 0))
    );
}

#[test]
fn one_system_prompt_of_all_has_no_single_home() {
    let mut gate = gate(by_prefix(), &workers(4));
    let mut served = [0; 4];
    for conversation in 1..400 {
        let worker = serve(&mut gate, &prompt("a", &[(0, 16), (conversation, 20)]), None, at(0));
        served[worker[1..].parse::<usize>().unwrap()] += 1;
    }
    assert!(served.iter().all(|count| (60..140).contains(count)), "{served:?}");
}

#[test]
fn gateways_that_do_not_know_of_each_other_choose_the_same_home() {
    let mut gates: Vec<Gate> = (0..2).map(|_| gate(by_prefix(), &workers(8))).collect();
    // Both know the system prompt, from other conversations.
    for gate in &mut gates {
        (900..990).for_each(|other| _ = serve(gate, &prompt("a", &[(0, 16), (other, 4)]), None, at(0)));
    }
    for conversation in 1..50 {
        let [first, second] = [20, 28].map(|blocks| prompt("a", &[(0, 16), (conversation, blocks)]));
        let (one, other) =
            (serve(&mut gates[0], &first, None, at(0)), serve(&mut gates[1], &second, None, at(0)));
        assert_eq!(one, other, "conversation {conversation}");
    }
}

#[test]
fn a_worker_with_too_much_to_read_loses_the_prompt_to_another() {
    let mut gate = gate(by_prefix(), &workers(2));
    let home = serve(&mut gate, &prompt("a", &[(1, 20)]), None, at(0));
    // As much unread there as the prefix saves, and more.
    let long = prompt("b", &[(1, 20), (2, 40)]);
    let busy = granted(&mut gate, &long, at(0));
    assert_eq!(busy.worker, home);
    let moved = granted(&mut gate, &prompt("a", &[(1, 21)]), at(0));
    assert_ne!(moved.worker, home);
}

#[test]
fn a_worker_that_has_nothing_cached_any_more_is_found_out() {
    let mut gate = gate(by_prefix(), &workers(2));
    let turn = |conversation, blocks| prompt("a", &[(conversation, blocks)]);
    let home = serve(&mut gate, &turn(1, 20), Some(0), at(0));
    let expected = |gate: &mut Gate, ask: &PermitRequest| {
        let grant = granted(gate, ask, at(0));
        let unread = prefill(gate, &grant.worker);
        gate.release(grant.permit, Ending::ClientGone, 0, at(0));
        (grant.worker, ask.prompt_tokens - unread)
    };
    assert_eq!(expected(&mut gate, &turn(1, 24)), (Arc::clone(&home), 1280));
    // It reports nothing where all is expected: twice, as two equal prompts may have come at once.
    serve(&mut gate, &turn(1, 24), Some(0), at(0));
    let (_, cached) = expected(&mut gate, &turn(1, 24));
    assert!((1000..1280).contains(&cached), "{cached} after the first");
    serve(&mut gate, &turn(1, 28), Some(0), at(0));
    let figures = gate.snapshot(at(0)).cached;
    assert!(figures.reported == Some(0.0) && figures.estimated > Some(0.5), "{figures:?}");
    let other: Vec<PermitRequest> = (2..10).map(|conversation| turn(conversation, 20)).collect();
    other.iter().for_each(|ask| _ = serve(&mut gate, ask, None, at(0)));
    // Once it has the blocks again and says so, they count again.
    for blocks in 29..40 {
        serve(&mut gate, &turn(1, blocks), Some((blocks - 1) * 64), at(0));
    }
    let (worker, cached) = expected(&mut gate, &turn(1, 40));
    assert!(worker == home && cached > 2300, "{cached} of 2560");
}

#[test]
fn a_worker_that_cannot_be_reached_is_taken_to_be_empty_when_it_is_back() {
    let mut gate = gate(by_prefix(), &workers(2));
    let home = serve(&mut gate, &prompt("a", &[(1, 20)]), None, at(0));
    let grant = granted(&mut gate, &prompt("a", &[(1, 24)]), at(0));
    assert_eq!(grant.worker, home);
    gate.dispatched(grant.permit, at(0));
    gate.worker_failed(grant.permit, WorkerFailure::Connect, at(0));
    let elsewhere = gate.reassign(grant.permit, at(0)).unwrap();
    assert_ne!(elsewhere, home);
    assert_eq!(prefill(&gate, &elsewhere), 24 * 64, "nothing of it is cached there");
}

#[test]
fn callers_are_charged_for_what_workers_must_read() {
    // Two callers ask for the same at one full worker; one of them with prefixes that it has.
    let mut gate = gate(
        GateSettings { queue_wait: Duration::from_secs(60), queue_length: 64, ..by_prefix() },
        &[member("w1", 1)],
    );
    serve(&mut gate, &prompt("known", &[(1, 40)]), None, at(0));
    let running = granted(&mut gate, &ask("other"), at(0));
    for number in 0..10 {
        waiting(&mut gate, &prompt("known", &[(1, 40), (2 + number, 1)]), at(0));
        waiting(&mut gate, &prompt("new", &[(100 + number, 41)]), at(0));
    }
    let mut permit = running.permit;
    let mut served: Vec<u64> = Vec::new();
    for _ in 0..10 {
        gate.dispatched(permit, at(1));
        gate.release(permit, Ending::Complete, 50, at(1));
        let (id, outcome) = gate.take_outcomes().next().unwrap();
        served.push(id.0 % 2);
        permit = outcome.unwrap().permit;
    }
    let known = served.iter().filter(|parity| **parity == 0).count();
    // A cached prompt costs 64 + 2 · 50 tokens, a new one 2624 + 100.
    assert!(known >= 8, "{served:?}");
}

#[test]
fn switched_off_or_for_short_prompts_nothing_is_remembered() {
    let mut off = gate(settings(), &workers(4));
    let mut index = gate(by_prefix(), &workers(4));
    for conversation in 1..20 {
        serve(&mut off, &prompt("a", &[(conversation, 20)]), Some(5), at(0));
        serve(&mut index, &ask("a"), Some(5), at(0));
    }
    for gate in [&off, &index] {
        assert_eq!(gate.snapshot(at(0)).cached, crate::shed::PrefixFigures::default());
        assert_eq!(gate.prefixes.blocks(), 0);
    }
}

#[test]
fn among_many_workers_a_conversation_is_found_again() {
    let mut gate = gate(by_prefix(), &workers(200));
    let homes: Vec<_> =
        (1..300).map(|number| serve(&mut gate, &prompt("a", &[(0, 16), (number, 8)]), None, at(0))).collect();
    for (number, home) in (1..300).zip(&homes) {
        assert_eq!(serve(&mut gate, &prompt("a", &[(0, 16), (number, 12)]), None, at(0)), *home);
    }
    let mut used: Vec<_> = homes.clone();
    used.sort_unstable();
    used.dedup();
    assert!(used.len() > 100, "{} of 200 workers", used.len());
}
