//! Settings: a YAML file, parsed into validated values.
//!
//! * All errors are reported at once, with line, field and what would be valid, to save repeated
//!   attempts. Unknown keys are errors: a mistyped limit that is ignored is no limit.
//! * `file` is the shape of the file, and the only source of schema, documentation and
//!   checks; `settings` is what the program uses. `structure` checks the file against the schema,
//!   and `validate` checks settings against each other.
//! * A reload reads the file in the same way ([`watch`]); a file with errors changes nothing.
//!
//! **Trade-off.** Positions, and going on after an error, need our own reader between YAML parser
//! and serde, some 600 lines. A derived deserialiser stops at the first error and knows no lines.

pub(crate) mod error;
pub(crate) mod file;
pub mod load;
pub mod schema;
pub(crate) mod settings;
pub mod syntax;
pub mod watch;

mod effective;
mod source;
mod structure;
mod suggest;
mod tree;
mod validate;
mod variables;
mod warnings;
mod yaml;

pub use error::{ConfigError, ConfigErrors, Position};
pub use load::{LoadContext, Overrides, admin_port, from_str, load, scenario, scenario_from};
pub use schema::schema;
pub use settings::Settings;
pub use syntax::Secret;
pub use warnings::Warning;
