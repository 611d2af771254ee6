//! The whole gateway over real sockets, in front of the simulated worker.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

#[path = "dam/again.rs"]
mod again;
#[path = "dam/agent.rs"]
mod agent;
#[path = "dam/canary.rs"]
mod canary;
#[path = "dam/claims.rs"]
mod claims;
#[path = "dam/classes.rs"]
mod classes;
#[path = "dam/client.rs"]
mod client;
#[path = "dam/colours.rs"]
mod colours;
#[path = "dam/command_line.rs"]
mod command_line;
#[path = "dam/counting.rs"]
mod counting;
#[path = "dam/cuts.rs"]
mod cuts;
#[path = "dam/delays.rs"]
mod delays;
#[path = "dam/discovery.rs"]
mod discovery;
#[path = "dam/dns.rs"]
mod dns;
#[path = "dam/doors.rs"]
mod doors;
#[path = "dam/drain.rs"]
mod drain;
#[path = "dam/ejection.rs"]
mod ejection;
#[path = "dam/endings.rs"]
mod endings;
#[path = "dam/ends.rs"]
mod ends;
#[path = "dam/external.rs"]
mod external;
#[path = "dam/failover.rs"]
mod failover;
#[path = "dam/feed.rs"]
mod feed;
#[path = "dam/fleet.rs"]
mod fleet;
#[path = "dam/forms.rs"]
mod forms;
#[path = "dam/gateway.rs"]
mod gateway;
#[path = "dam/hand.rs"]
mod hand;
#[path = "dam/hostile.rs"]
mod hostile;
#[path = "dam/ill_formed.rs"]
mod ill_formed;
#[path = "dam/known.rs"]
mod known;
#[path = "dam/large.rs"]
mod large;
#[path = "dam/later.rs"]
mod later;
#[path = "dam/left.rs"]
mod left;
#[path = "dam/log.rs"]
mod log;
#[path = "dam/messages.rs"]
mod messages;
#[path = "dam/misuse.rs"]
mod misuse;
#[path = "dam/models.rs"]
mod models;
#[path = "dam/older.rs"]
mod older;
#[path = "dam/once.rs"]
mod once;
#[path = "dam/outage.rs"]
mod outage;
#[path = "dam/overflow.rs"]
mod overflow;
#[path = "dam/paused.rs"]
mod paused;
#[path = "dam/prefix.rs"]
mod prefix;
#[path = "dam/process.rs"]
mod process;
#[path = "dam/queue.rs"]
mod queue;
#[path = "dam/redis.rs"]
mod redis;
#[path = "dam/reload.rs"]
mod reload;
#[path = "dam/responses.rs"]
mod responses;
#[path = "dam/rig.rs"]
mod rig;
#[path = "dam/rights.rs"]
mod rights;
#[path = "dam/service_manager.rs"]
mod service_manager;
#[path = "dam/sessions.rs"]
mod sessions;
#[path = "dam/sides.rs"]
mod sides;
#[path = "dam/spans.rs"]
mod spans;
#[path = "dam/speech.rs"]
mod speech;
#[path = "dam/tokens.rs"]
mod tokens;
#[path = "dam/upgrade.rs"]
mod upgrade;
