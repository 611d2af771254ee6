//! Settings: a YAML file, read into values that hold.
//!
//! * Every fault is reported at once, with its line and field and what would be right: an operator who fixes one and
//!   meets the next has been served badly. Unknown keys are faults, since a mistyped limit that is ignored is no limit.
//! * [`mod@file`] is the shape of the file and the one source of its schema, its documentation and its checks;
//!   [`settings`] is what the program uses. Between them stand `structure` (the file beside the schema) and
//!   `validate` (what settings demand of each other).
//! * A reload is the same reading again ([`watch`]); a file at fault changes nothing.
//!
//! The price of positions and of going on after a fault is a reader of our own between the YAML parser and serde,
//! some 600 lines; a derived deserialiser would stop at the first fault and know no lines.

pub mod fault;
pub mod file;
pub mod load;
pub mod schema;
pub mod settings;
pub mod syntax;
pub mod watch;

mod effective;
mod near;
mod place;
mod structure;
mod tree;
mod validate;
mod variables;
mod warnings;
mod yaml;

pub use fault::{Fault, Faults, Position};
pub use load::{Overrides, Surroundings, admin_port, from_str, load};
pub use schema::schema;
pub use settings::Settings;
pub use syntax::Secret;
pub use warnings::Warning;
