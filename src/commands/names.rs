//! Former names of environment variables.

use std::env::var_os;

use clap::Command;

/// Subcommands and arguments, with the former name of their variable.
const FORMER: [(&str, &str, &str); 5] = [
    ("agent", "redis", "DAM_REDIS_URL"),
    ("agent", "hmac_key", "DAM_REDIS_KEY"),
    ("worker", "redis", "DAM_REDIS_URL"),
    ("worker", "hmac_key", "DAM_REDIS_KEY"),
    ("top", "token", "DAM_ADMIN_TOKEN"),
];

/// Makes arguments read the former name of their variable if only that one is set.
pub(crate) fn with_former(mut command: Command) -> Command {
    for (subcommand, argument, former) in FORMER {
        if var_os(former).is_some() && var_os(format!("TRAFFIC_{former}")).is_none() {
            command = command.mut_subcommand(subcommand, |command| {
                command.mut_arg(argument, |argument| argument.env(former))
            });
        }
    }
    command
}
