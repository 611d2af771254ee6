//! Version of this build.

/// Version, commit and target, as in `0.1.0 (commit c1112768d91a, x86_64-unknown-linux-gnu)`.
pub(crate) const FULL: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (commit ",
    env!("TRAFFIC_DAM_COMMIT"),
    ", ",
    env!("TRAFFIC_DAM_TARGET"),
    ")"
);
