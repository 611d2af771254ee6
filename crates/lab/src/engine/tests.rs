use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use traffic_dam_core::clock::Nanos;

/// Results of a fixed number of clients, each of which asks again as soon as it is answered.
struct Run {
    tokens_per_second: f64,
    ttft_p50: Duration,
    preempted: u32,
}

fn closed_loop(spec: &EngineSpec, clients: u64, prompt: u64, output: u32, length: Duration) -> Run {
    let mut engine = EngineModel::new(spec.clone());
    let mut asked = HashMap::new();
    let mut submitted = 0;
    let mut ttft = Vec::new();
    let (mut tokens, mut preempted) = (0_u32, 0_u32);
    let end = Nanos::ZERO + length;
    let mut now = Nanos::ZERO;
    while now < end {
        for _ in asked.len() as u64..clients {
            engine.submit(submitted, prompt, output, now).unwrap();
            asked.insert(submitted, now);
            submitted += 1;
        }
        now = engine.next_event().unwrap();
        engine.advance(now, &mut |at, event| match event {
            SequenceEvent::Token { id, index } => {
                tokens += 1;
                if index == 0 {
                    ttft.push(at.since(asked[&id]));
                }
            }
            SequenceEvent::Finished { id } => assert!(asked.remove(&id).is_some()),
            SequenceEvent::Preempted { .. } => preempted += 1,
            SequenceEvent::Started { .. } => {}
        });
    }
    ttft.sort_unstable();
    Run {
        tokens_per_second: f64::from(tokens) / length.as_secs_f64(),
        ttft_p50: ttft[ttft.len() / 2],
        preempted,
    }
}

fn all_events(engine: &mut EngineModel) -> Vec<(Nanos, SequenceEvent)> {
    let mut events = Vec::new();
    engine.advance(Nanos::MAX, &mut |at, event| events.push((at, event)));
    events
}

#[test]
fn an_idle_worker_takes_its_base_its_prefill_and_one_step() {
    let spec = EngineSpec { step_tokens: 4096, ..EngineSpec::default() };
    let mut engine = EngineModel::new(spec.clone());
    engine.submit(1, 800, 3, Nanos::ZERO).unwrap();
    let step = spec.token_time + spec.token_time_per_seq;
    let first = Nanos::ZERO + spec.prefill_base + Duration::from_millis(100) + step;
    assert_eq!(
        all_events(&mut engine),
        [
            (first, SequenceEvent::Token { id: 1, index: 0 }),
            (first + step, SequenceEvent::Token { id: 1, index: 1 }),
            (first + step * 2, SequenceEvent::Token { id: 1, index: 2 }),
            (first + step * 2, SequenceEvent::Finished { id: 1 }),
        ]
    );
}

#[test]
fn throughput_rises_to_the_slots_and_is_flat_beyond() {
    let spec = EngineSpec::default();
    let runs: Vec<_> = [1, 2, 4, 8, 16, 64]
        .map(|clients| closed_loop(&spec, clients, 40, 100, Duration::from_secs(120)))
        .into_iter()
        .collect();
    for pair in runs[..4].windows(2) {
        assert!(pair[1].tokens_per_second > 1.6 * pair[0].tokens_per_second);
    }
    let full = &runs[3];
    for beyond in &runs[4..] {
        let ratio = beyond.tokens_per_second / full.tokens_per_second;
        assert!((0.98..1.05).contains(&ratio), "throughput beyond the slots: {ratio} of full");
        assert!(beyond.ttft_p50 > 20 * full.ttft_p50, "{:?} after {:?}", beyond.ttft_p50, full.ttft_p50);
    }
    assert!(full.ttft_p50 < Duration::from_millis(100));
}

#[test]
fn more_sequences_than_the_cache_holds_lower_throughput() {
    // Eight sequences of 1800 tokens fit; 64 slots admit many more.
    let spec = EngineSpec { slots: 64, kv_tokens: 8 * 1800, ..EngineSpec::default() };
    let minutes = Duration::from_secs(120);
    let fits = closed_loop(&spec, 8, 1500, 300, minutes);
    let thrashes = closed_loop(&spec, 16, 1500, 300, minutes);
    let roomy = closed_loop(&EngineSpec { kv_tokens: 1_000_000, ..spec }, 16, 1500, 300, minutes);
    assert_eq!((fits.preempted, roomy.preempted), (0, 0));
    assert!(thrashes.preempted > 100, "{} preempted", thrashes.preempted);
    assert!(thrashes.tokens_per_second < 0.7 * fits.tokens_per_second);
    assert!(roomy.tokens_per_second > 1.2 * fits.tokens_per_second);
}

#[test]
fn a_long_prompt_slows_the_others_by_its_chunks_only() {
    let spec = EngineSpec::default();
    let mut engine = EngineModel::new(spec.clone());
    engine.submit(1, 10, 500, Nanos::ZERO).unwrap();
    engine.submit(2, 20_000, 2, Nanos::from_millis(100)).unwrap();
    let tokens: Vec<Nanos> = all_events(&mut engine)
        .into_iter()
        .filter_map(|(at, event)| matches!(event, SequenceEvent::Token { id: 1, .. }).then_some(at))
        .collect();
    let longest = tokens.windows(2).map(|pair| pair[1].since(pair[0])).max().unwrap();
    assert_eq!(longest, spec.step_time(2, u64::from(spec.step_tokens) - 1));
    assert!(longest < Duration::from_millis(100), "against 2.5 s for the whole prompt");
}

#[test]
fn a_preempted_sequence_goes_first_and_repeats_no_token() {
    // Two of 10 + 20 tokens do not fit into 40; each alone does.
    let mut engine = EngineModel::new(EngineSpec { kv_tokens: 40, ..EngineSpec::default() });
    for id in 1..=3 {
        engine.submit(id, 10, 20, Nanos::ZERO).unwrap();
    }
    let events: Vec<SequenceEvent> = all_events(&mut engine).into_iter().map(|(_, event)| event).collect();
    assert!(events.contains(&SequenceEvent::Preempted { id: 2 }));
    let finished: Vec<u64> = events
        .iter()
        .filter_map(|event| if let SequenceEvent::Finished { id } = event { Some(*id) } else { None })
        .collect();
    assert_eq!(finished, [1, 2, 3]);
    for wanted in 1..=3 {
        let indices = events.iter().filter_map(|event| match event {
            SequenceEvent::Token { id, index } if *id == wanted => Some(*index),
            _ => None,
        });
        assert!(indices.eq(0..20));
    }
}

#[test]
fn a_prompt_that_never_fits_is_refused_and_a_long_output_is_cut() {
    let mut engine = EngineModel::new(EngineSpec { kv_tokens: 100, ..EngineSpec::default() });
    assert_eq!(engine.submit(1, 100, 1, Nanos::ZERO), Err(PromptTooLong { prompt: 100, kv_tokens: 100 }));
    engine.submit(2, 60, 1000, Nanos::ZERO).unwrap();
    let tokens = all_events(&mut engine).len() - 1;
    assert_eq!((tokens, engine.unfinished(), engine.kv_used()), (40, 0, 0));
}

#[test]
fn a_cache_that_shrinks_keeps_whom_it_can_and_names_the_others() {
    let mut engine = EngineModel::new(EngineSpec { kv_tokens: 400, ..EngineSpec::default() });
    for (id, prompt, output) in [(1, 50, 30), (2, 90, 200), (3, 150, 20)] {
        engine.submit(id, prompt, output, Nanos::ZERO).unwrap();
    }
    engine.advance(Nanos::from_millis(200), &mut |_, _| {});
    assert_eq!(engine.running(), 3);
    assert_eq!(engine.set_kv_tokens(100), [3]);
    assert_eq!(engine.unfinished(), 2);
    let mut tokens = HashMap::new();
    while let Some(next) = engine.next_event() {
        engine.advance(next, &mut |_, event| {
            if let SequenceEvent::Token { id, index } = event {
                tokens.insert(id, index + 1);
            }
        });
        assert!(engine.kv_used() <= 100, "{} held", engine.kv_used());
    }
    // The long one is cut to the ten tokens left beside its prompt.
    assert_eq!((tokens[&1], tokens[&2], engine.unfinished(), engine.kv_used()), (30, 10, 0, 0));
}

#[test]
fn a_prompt_read_apart_holds_its_slot_and_slows_nobody() {
    let spec = EngineSpec { slots: 2, prefill_base: Duration::ZERO, ..EngineSpec::default() };
    let mut engine = EngineModel::new(spec.clone());
    engine.submit(1, 10, 100, Nanos::ZERO).unwrap();
    let reading = Duration::from_millis(407);
    for id in [2, 3] {
        engine.submit_timed(id, 4000, 2, Some(reading), Nanos::from_millis(100)).unwrap();
    }
    let mut running = 0;
    let mut events = Vec::new();
    while let Some(next) = engine.next_event() {
        engine.advance(next, &mut |at, event| events.push((at, event)));
        running = running.max(engine.running());
    }
    assert_eq!(running, 2);
    let at = |wanted: SequenceEvent| events.iter().find(|(_, event)| *event == wanted).unwrap().0;
    let token = |id, index| at(SequenceEvent::Token { id, index });
    // The second gets its slot with a step; the third when the second has left.
    let slot = token(2, 0).since(Nanos::ZERO).checked_sub(reading).unwrap();
    assert!((Duration::from_millis(100)..Duration::from_millis(130)).contains(&slot), "{slot:?}");
    assert_eq!(token(3, 0), at(SequenceEvent::Finished { id: 2 }) + reading);
    // No step takes longer because a prompt is read.
    let longest = (1..99).map(|index| token(1, index + 1).since(token(1, index))).max().unwrap();
    assert_eq!(longest, spec.step_time(2, 0));
}

#[test]
fn slots_that_are_lost_are_those_of_the_youngest() {
    let mut engine = EngineModel::new(EngineSpec { slots: 4, ..EngineSpec::default() });
    for id in 1..=4 {
        engine.submit(id, 10, 20, Nanos::ZERO).unwrap();
    }
    engine.submit_timed(5, 10, 20, Some(Duration::from_millis(50)), Nanos::ZERO).unwrap();
    engine.advance(Nanos::from_millis(200), &mut |_, _| {});
    assert_eq!((engine.running(), engine.waiting()), (4, 1));
    engine.set_slots(2);
    let events = all_events(&mut engine);
    let preempted: Vec<u64> = events
        .iter()
        .filter_map(|(_, event)| if let SequenceEvent::Preempted { id } = event { Some(*id) } else { None })
        .collect();
    assert_eq!(preempted, [4, 3]);
    let finished: Vec<u64> = events
        .iter()
        .filter_map(|(_, event)| if let SequenceEvent::Finished { id } = event { Some(*id) } else { None })
        .collect();
    assert_eq!(finished, [1, 2, 3, 4, 5]);
}

/// The most slots that a worker of these tests has.
const MOST_SLOTS: u32 = 12;

#[derive(Clone, Debug)]
enum Op {
    Submit { prompt: u64, output: u32, first_token: Option<u64> },
    Slots { slots: u32 },
    Cancel { id: u64 },
    Wait { millis: u64 },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (1_u64..120, 1_u32..60, proptest::option::of(0_u64..300))
            .prop_map(|(prompt, output, first_token)| Op::Submit { prompt, output, first_token }),
        1 => (1..=MOST_SLOTS).prop_map(|slots| Op::Slots { slots }),
        1 => (0_u64..60).prop_map(|id| Op::Cancel { id }),
        3 => (0_u64..400).prop_map(|millis| Op::Wait { millis }),
    ];
    proptest::collection::vec(op, 1..80)
}

/// Runs `ops`, moving time event by event or operation by operation, and checks the invariants.
fn play(spec: &EngineSpec, ops: &[Op], by_event: bool) -> Vec<(Nanos, SequenceEvent)> {
    let mut engine = EngineModel::new(spec.clone());
    let mut events = Vec::new();
    let mut now = Nanos::ZERO;
    let (mut submitted, mut cancelled) = (0, 0);
    let mut outputs = Vec::new();
    // The most slots so far, and the current ones; no step takes longer than `longest`.
    let (mut most, mut slots) = (spec.slots, spec.slots);
    let longest = spec.step_time(MOST_SLOTS, u64::from(spec.step_tokens.max(MOST_SLOTS)));
    let run = |engine: &mut EngineModel, to: Nanos, events: &mut Vec<_>| {
        while let Some(next) = engine.next_event().filter(|next| by_event && *next <= to) {
            engine.advance(next, &mut |at, event| events.push((at, event)));
        }
        engine.advance(to, &mut |at, event| events.push((at, event)));
        assert!(engine.kv_used() <= spec.kv_tokens);
    };
    let finished = |events: &[(Nanos, SequenceEvent)]| {
        events.iter().filter(|(_, event)| matches!(event, SequenceEvent::Finished { .. })).count()
    };
    for op in ops {
        match *op {
            Op::Submit { prompt, output, first_token } => {
                let first_token = first_token.map(Duration::from_millis);
                engine.submit_timed(submitted, prompt, output, first_token, now).unwrap();
                outputs.push(output);
                submitted += 1;
            }
            Op::Slots { slots: new } => {
                // The sequences beyond the new number leave their slots at the next step.
                (most, slots) = (most.max(new), new);
                engine.set_slots(new);
            }
            Op::Cancel { id } => cancelled += usize::from(engine.cancel(id)),
            Op::Wait { millis } => {
                now = now + Duration::from_millis(millis);
                run(&mut engine, now, &mut events);
                let bound = if Duration::from_millis(millis) > longest { slots } else { most };
                assert!(engine.running() <= bound as usize, "{} of {bound} slots", engine.running());
            }
        }
        assert_eq!(submitted as usize, finished(&events) + cancelled + engine.unfinished());
    }
    run(&mut engine, Nanos::MAX, &mut events);
    assert_eq!((engine.unfinished(), engine.kv_used(), engine.next_event()), (0, 0, None));
    assert_eq!(submitted as usize, finished(&events) + cancelled);

    let mut next_token = vec![0; outputs.len()];
    for pair in events.windows(2) {
        assert!(pair[0].0 <= pair[1].0, "time ran backwards");
    }
    for (_, event) in &events {
        match *event {
            SequenceEvent::Token { id, index } => {
                assert_eq!(index, next_token[id as usize]);
                next_token[id as usize] += 1;
            }
            SequenceEvent::Finished { id } => assert_eq!(next_token[id as usize], outputs[id as usize]),
            SequenceEvent::Started { .. } | SequenceEvent::Preempted { .. } => {}
        }
    }
    events
}

#[test]
fn a_cached_beginning_is_not_read_again() {
    let spec = EngineSpec { prefix_cache: true, step_tokens: 4096, ..EngineSpec::default() };
    let mut engine = EngineModel::new(spec.clone());
    let text: Vec<u64> = (1..40).collect();
    let mut first_token = |id: u64, prompt: u64, blocks: &[u64], now: Nanos| {
        let sequence = NewSequence { id, prompt, output: 65, first_token: None, blocks: blocks.into() };
        engine.submit_sequence(sequence, now).unwrap();
        let events = all_events(&mut engine);
        let started = events.iter().find_map(|(_, event)| match event {
            SequenceEvent::Started { cached, .. } => Some(*cached),
            _ => None,
        });
        let first = events.iter().find(|(_, event)| matches!(event, SequenceEvent::Token { .. })).unwrap();
        (started.unwrap(), first.0.since(now), events.last().unwrap().0)
    };
    let reading = |tokens| spec.prefill_base + spec.step_time(1, tokens);
    let (cached, took, end) = first_token(1, 640, &text, Nanos::ZERO);
    assert_eq!((cached, took), (0, reading(640)));
    // Ten blocks of prompt and one of answer; 26 more tokens are new.
    let (cached, took, end) = first_token(2, 730, &text, end);
    assert_eq!((cached, took), (704, reading(26)));
    let (cached, took, end) = first_token(3, 640, &text, end);
    assert_eq!((cached, took), (639, reading(1)), "the last token is computed again");
    let other: Vec<u64> = (1..4).chain(100..110).collect();
    let (cached, took, _) = first_token(4, 640, &other, end);
    assert_eq!((cached, took), (192, reading(448)));
    assert_eq!(engine.kv_used(), 0);
}

proptest! {
    #[test]
    fn nothing_is_lost_and_a_run_is_a_function_of_its_inputs(
        ops in ops(), slots in 1_u32..12, kv_tokens in 180_u64..600, step_tokens in 1_u32..64,
    ) {
        let spec = EngineSpec { slots, kv_tokens, step_tokens, ..EngineSpec::default() };
        prop_assert_eq!(play(&spec, &ops, true), play(&spec, &ops, false));
    }
}
