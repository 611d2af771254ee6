//! A gate without a fleet: for one service in this process.

use crate::clock::Clock;
use crate::shed::settings::GateSettings;
use crate::shed::{Gate, GateHandle, PoolMember};

use super::pick::PICK;

/// Creates the gate of one service that takes `slots` requests at once.
#[must_use]
pub fn local_gate(slots: u32, settings: GateSettings, clock: Clock) -> GateHandle {
    let gate = Gate::new("local".into(), settings.clone(), PICK, fastrand::u64(..));
    let gate = GateHandle::new(gate, clock);
    let service = PoolMember {
        id: "local".into(),
        slots: Some(slots),
        kv_tokens: None,
        eligible: true,
        external: None,
        canary: false,
    };
    gate.rebuild(settings, vec![service]);
    gate
}
