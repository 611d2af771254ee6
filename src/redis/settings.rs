//! Where Redis is.

use std::fmt;
use std::sync::Arc;

/// Where Redis is, and how what is ours is called there.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisSettings {
    /// A `redis://` or `rediss://` URL. It may hold a password.
    pub url: Arc<str>,
    /// What every key and channel begins with; holds no braces.
    pub prefix: Arc<str>,
}

// The URL may hold a password.
impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSettings").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}
