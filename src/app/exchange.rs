//! Tells other gateways what was charged to callers, and charges what they tell.
//!
//! Only where Redis knows of other gateways: one that is alone keeps and sends nothing.

use std::sync::Arc;

use tokio::time::{MissedTickBehavior, interval};

use super::App;
use crate::fleet::Fleet;
use crate::fleet::exchange::{EXCHANGE_EVERY, HeardGateways, PoolTokens, ToldTokens, is_too_late};
use crate::redis::exchange::TokenExchange;
use crate::redis::link::RedisLoss;

/// What a gateway has told and heard while it is not alone.
#[derive(Debug, Default)]
struct Exchanged {
    told: ToldTokens,
    heard: HeardGateways,
}

impl App {
    /// Exchanges the tokens of callers once a second while there are other gateways.
    pub(super) async fn exchange_tokens(self) {
        let Some(redis_parts) = &self.0.redis_parts else { return };
        let exchange = redis_parts.exchange();
        let mut exchanged: Option<Exchanged> = None;
        let mut ticks = interval(EXCHANGE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let fleet = self.0.fleet.load_full();
            if redis_parts.store.gateways().count() < 2 {
                if exchanged.take().is_some() {
                    fleet.pools().iter().for_each(|pool| pool.gate.stop_telling());
                }
                continue;
            }
            let exchanged = exchanged.get_or_insert_default();
            // A text that was not written is told again by the next one.
            if let Err(error) = self.tell_and_hear(&exchange, &fleet, exchanged).await {
                tracing::debug!(%error, "could not exchange the tokens of callers");
            }
        }
    }

    async fn tell_and_hear(
        &self,
        exchange: &TokenExchange,
        fleet: &Fleet,
        exchanged: &mut Exchanged,
    ) -> Result<(), RedisLoss> {
        let charged = fleet
            .pools()
            .iter()
            .map(|pool| PoolTokens { pool: Arc::clone(&pool.name), tokens: pool.gate.tokens_to_tell() });
        exchanged.told.add(charged.collect(), self.0.clock.now());
        exchange.tell(&exchanged.told).await?;
        let asked = self.0.clock.now();
        let heard = exchange.hear(&mut exchanged.heard).await?;
        if is_too_late(asked, self.0.clock.now()) {
            return Ok(());
        }
        for PoolTokens { pool, tokens } in heard {
            if let Some(known) = fleet.pools().iter().find(|known| known.name == pool) {
                known.gate.hear_tokens(&tokens);
            }
        }
        Ok(())
    }
}
