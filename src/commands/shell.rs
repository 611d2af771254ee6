//! `traffic-dam completions` and `traffic-dam man`: completion scripts and manual pages.

use std::io::Write;
use std::path::PathBuf;

use clap::Command;
use clap_complete::Shell;

use super::CommandError;

#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// Write a page for each command to this directory, instead of printing the main page
    #[arg(long)]
    to: Option<PathBuf>,
}

pub(crate) fn completions(arguments: &Completions, mut command: Command) -> Result<(), CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "traffic-dam", &mut script);
    write(&script)
}

/// Prints the manual, or writes its pages to a directory.
pub(crate) fn man(arguments: &Man, command: Command) -> Result<(), CommandError> {
    if let Some(directory) = &arguments.to {
        let written = clap_mangen::generate_to(command, directory);
        return written
            .map_err(|error| CommandError::Usage(format!("--to: {}: {error}", directory.display())));
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    write(&page)
}

/// Prints `bytes`. A closed pipe (`| head`) is no failure.
fn write(bytes: &[u8]) -> Result<(), CommandError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
