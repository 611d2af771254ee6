//! The Lua scripts of the protocol's steps.

/// Begins each script of one job.
pub const COMMON: &str = include_str!("../lua/common.lua");
/// Starts a run of a job.
pub(crate) const TAKE: &str = include_str!("../lua/take.lua");
/// Adds entries to an answer.
pub(crate) const EMIT: &str = include_str!("../lua/emit.lua");
/// Claims entries whose worker has not renewed them.
pub(crate) const CLAIM: &str = include_str!("../lua/claim.lua");
/// Renews entries.
pub(crate) const RENEW: &str = include_str!("../lua/renew.lua");
/// Hands an entry back.
pub(crate) const BACK: &str = include_str!("../lua/back.lua");
/// Ends a job that can never run.
pub(crate) const DISCARD: &str = include_str!("../lua/discard.lua");
/// Removes the entry of an ended job.
pub const END: &str = include_str!("../lua/end.lua");
