//! Tower layers around the decisions, in the order a request meets them.

pub mod body;
pub mod door;
pub mod identify;
pub mod intake;
pub mod paths;
pub mod shed;
