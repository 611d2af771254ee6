//! Measures the choice of a worker by prefixes: hashing a prompt, a permit with and without it, and
//! the memory of the index.
//!
//! `cargo bench --bench prefix`

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use traffic_dam::clock::Nanos;
use traffic_dam::fleet;
use traffic_dam::request::{Caller, Ending, PromptPrefix, RequestCost};
use traffic_dam::shed::settings::{GateSettings, LimitSource, PrefixSettings};
use traffic_dam::shed::{Gate, GateAnswer, PermitRequest, PoolMember, PrefixHasher, PrefixIndex};

const WORKERS: usize = 1000;
/// Blocks of a system prompt of 4 KiB, and of a whole prompt of 16 KiB.
const SYSTEM: u64 = 16;
const BLOCKS: u64 = 64;
/// Conversations: enough to fill the caches of all workers, with 2048 blocks each.
const CONVERSATIONS: u64 = 50_000;

fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
}

/// Returns the blocks of a conversation, after the common system prompt.
fn blocks(conversation: u64, length: u64) -> Box<[u64]> {
    let block = |place| mix(if place < SYSTEM { place } else { conversation << 16 | place });
    (0..length).map(block).collect()
}

fn ask(conversation: u64, length: u64) -> PermitRequest {
    let blocks = blocks(conversation, length);
    let prefix = Some(Arc::new(PromptPrefix { blocks, bytes: length * 256 + 100 }));
    let cost = RequestCost {
        prompt_tokens: length * 64,
        expected_output: 100,
        sequences: 1,
        stream: true,
        prefix,
        ..RequestCost::path()
    };
    PermitRequest::of(&Caller::new("key:a"), &cost)
}

fn gate() -> Gate {
    let settings = GateSettings {
        limit: LimitSource::Slots,
        prefix: Some(PrefixSettings { capacity: Some(131_072) }),
        ..GateSettings::default()
    };
    let mut gate = Gate::new(Arc::from("default"), settings.clone(), fleet::PICK, 7);
    let member = |number| PoolMember {
        id: Arc::from(format!("w{number}")),
        slots: Some(64),
        kv_tokens: None,
        eligible: true,
        external: None,
        canary: false,
    };
    gate.rebuild(settings, (0..WORKERS).map(member).collect(), Nanos::ZERO);
    gate
}

fn serve(gate: &mut Gate, ask: &PermitRequest) {
    if let Ok(GateAnswer::Granted(grant)) = gate.ask(ask, Nanos::ZERO) {
        gate.release(black_box(grant.permit), Ending::Complete, 100, Nanos::ZERO);
    }
}

fn hashing(criterion: &mut Criterion) {
    let hasher = PrefixHasher::new(&[7; 16]);
    for kib in [4, 16, 64] {
        let text = "The quick brown fox jumps over the lazy dog. ".repeat(kib * 1024 / 45 + 1);
        let text = &text.as_bytes()[..kib * 1024];
        criterion.bench_function(&format!("hash a prompt of {kib} KiB"), |bencher| {
            bencher.iter(|| {
                let mut chain = hasher.chain(&[b"team", b"red", b"model"]);
                chain.text(black_box(text));
                chain.finish()
            });
        });
    }
}

fn choosing(criterion: &mut Criterion) {
    let mut gate = gate();
    (0..CONVERSATIONS).for_each(|conversation| serve(&mut gate, &ask(conversation, BLOCKS)));
    let plain = PermitRequest { prefix: None, ..ask(0, BLOCKS) };
    criterion.bench_function("ask and release, 1000 workers, without prefixes", |bencher| {
        bencher.iter(|| serve(&mut gate, &plain));
    });
    let mut known: Vec<PermitRequest> =
        (CONVERSATIONS - 20_000..CONVERSATIONS).map(|conversation| ask(conversation, BLOCKS)).collect();
    fastrand::Rng::with_seed(1).shuffle(&mut known);
    let mut next = known.iter().cycle();
    criterion.bench_function("the same of known conversations, 64 blocks entered", |bencher| {
        bencher.iter(|| next.next().map(|ask| serve(&mut gate, ask)));
    });
    let mut fresh = CONVERSATIONS;
    criterion.bench_function("the same of new conversations, 64 blocks entered", |bencher| {
        bencher.iter_batched(
            || {
                fresh += 1;
                ask(fresh, BLOCKS)
            },
            |ask| serve(&mut gate, &ask),
            BatchSize::LargeInput,
        );
    });
}

/// The choice alone, without entering the prompt: what each worker has is looked up, as a gate does
/// it for those near the prompt.
fn looking(criterion: &mut Criterion) {
    let mut index = PrefixIndex::default();
    for conversation in 0..CONVERSATIONS {
        index.add(mix(conversation) as usize % WORKERS, &blocks(conversation, BLOCKS), 2048);
    }
    let asked: Vec<_> =
        (0..20_000).map(|number| blocks(CONVERSATIONS - 1 - mix(number) % 20_000, 72)).collect();
    let mut next = asked.iter().cycle();
    criterion.bench_function("the longest match among 1000 workers", |bencher| {
        bencher.iter(|| next.next().map(|blocks| black_box(index.depth(blocks))));
    });
    criterion.bench_function("the match at one of them", |bencher| {
        bencher.iter(|| next.next().map(|blocks| black_box(index.depth_at(7, blocks))));
    });
    let (blocks, bytes) = (index.blocks(), index.memory());
    assert!(blocks > WORKERS * 2000, "the caches are not full: {blocks} blocks");
    let report = format!(
        "memory of the index: {:.1} MiB for {blocks} blocks of {WORKERS} workers, {:.1} bytes each\n",
        bytes as f64 / f64::from(1 << 20),
        bytes as f64 / blocks as f64
    );
    std::io::Write::write_all(&mut std::io::stdout(), report.as_bytes()).ok();
}

criterion_group!(benches, hashing, choosing, looking);
criterion_main!(benches);
