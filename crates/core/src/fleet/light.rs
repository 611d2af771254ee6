//! The health of a worker, as one of three colours.

use serde::{Deserialize, Serialize};

/// Health of a worker as a traffic light.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Light {
    /// Gets no requests.
    #[default]
    Red,
    /// Doubtful.
    Yellow,
    /// Healthy.
    Green,
}
