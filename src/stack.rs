//! The order of the layers.
