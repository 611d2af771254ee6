//! Gateways that tell each other what they charged to callers.

use super::Simulation;

impl Simulation<'_> {
    /// Each gateway charges what the others told a second ago, and tells what it has charged since. In
    /// reality they hear of it within a second, so this is the latest that they may.
    pub(super) fn exchange_tokens(&mut self) {
        let alone = self.gateways.len() < 2 || !self.scenario.dam.exchange;
        if alone || self.now < self.stopped_until {
            return;
        }
        let now = self.seen_now();
        let told: Vec<_> = self.gateways.iter_mut().map(super::SimulatedGateway::tell).collect();
        for gateway in 0..self.gateways.len() {
            if let Some(gate) = &mut self.gateways[gateway].gate {
                for (_, told) in told.iter().enumerate().filter(|(other, _)| *other != gateway) {
                    gate.hear_tokens(told, now);
                }
            }
            self.settle(gateway);
        }
    }
}
