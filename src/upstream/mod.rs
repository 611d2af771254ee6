//! Forwarding to workers.
