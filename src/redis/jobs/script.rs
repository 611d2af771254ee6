//! Lua scripts that gateways run. Those of workers are in the crate `traffic-dam-worker`.

use redis::Script;

use crate::redis::scripts::{COMMON, END};

macro_rules! of_job {
    ($own:literal) => {
        &[COMMON, include_str!($own)].concat()
    };
}

macro_rules! of_waiting {
    ($own:literal) => {
        concat!(include_str!("lua/waiting.lua"), include_str!($own))
    };
}

#[derive(Debug)]
pub(super) struct JobScripts {
    pub(super) create: Script,
    pub(super) enqueue: Script,
    pub(super) cancel: Script,
    pub(super) attach: Script,
    pub(super) pend: Script,
    pub(super) promote: Script,
    pub(super) requeue: Script,
    pub(super) bury: Script,
    pub(super) key: Script,
    pub(super) store: Script,
    pub(super) own: Script,
    pub(super) revive: Script,
    pub(super) end: Script,
    pub(super) forget: Script,
    pub(super) recolour: Script,
    pub(super) move_entry: Script,
    pub(super) readers: Script,
    pub(super) turn: Script,
}

impl Default for JobScripts {
    fn default() -> Self {
        Self {
            create: Script::new(of_job!("lua/create.lua")),
            enqueue: Script::new(include_str!("lua/enqueue.lua")),
            cancel: Script::new(of_job!("lua/cancel.lua")),
            attach: Script::new(of_job!("lua/attach.lua")),
            pend: Script::new(of_waiting!("lua/pend.lua")),
            promote: Script::new(of_waiting!("lua/promote.lua")),
            requeue: Script::new(of_job!("lua/requeue.lua")),
            bury: Script::new(of_job!("lua/bury.lua")),
            key: Script::new(include_str!("lua/key.lua")),
            store: Script::new(of_job!("lua/store.lua")),
            own: Script::new(of_waiting!("lua/own.lua")),
            revive: Script::new(of_waiting!("lua/revive.lua")),
            end: Script::new(END),
            forget: Script::new(include_str!("lua/forget.lua")),
            recolour: Script::new(of_job!("lua/recolour.lua")),
            move_entry: Script::new(include_str!("lua/move.lua")),
            readers: Script::new(include_str!("lua/readers.lua")),
            turn: Script::new(include_str!("lua/turn.lua")),
        }
    }
}
