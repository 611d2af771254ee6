//! Tower layers around the decisions, in the order a request meets them.

pub mod body;
pub mod demand;
pub mod door;
pub mod identify;
pub mod intake;
pub mod limit;
pub mod observe;
pub mod paths;
pub mod rescue;
pub mod shed;
