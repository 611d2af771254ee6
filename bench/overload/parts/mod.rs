//! The parts of a run; each is a section of the document.

pub(crate) mod critical;
pub(crate) mod engine;
pub(crate) mod failover;
pub(crate) mod fairness;
pub(crate) mod hiccups;
pub(crate) mod killed;
pub(crate) mod loads;
pub(crate) mod mixed;
pub(crate) mod retry;
pub(crate) mod scale;

use crate::plan::{Arm, Options};

/// Returns the gateway's own selected arms, or the fixed limit if none is selected.
pub(crate) fn ours(options: &Options) -> Vec<Arm> {
    let adaptive: Vec<Arm> = options.arms.iter().copied().filter(|arm| arm.is_ours()).collect();
    if adaptive.is_empty() && options.arms.contains(&Arm::Slots) { vec![Arm::Slots] } else { adaptive }
}

/// Prints progress to the terminal.
#[expect(clippy::print_stderr, reason = "a run takes long, and its figures go to a file")]
pub(crate) fn say(what: std::fmt::Arguments<'_>) {
    eprintln!("{what}");
}
