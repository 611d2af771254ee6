//! `traffic-dam health`: a probe for containers that have no other program in them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::Failure;

/// A gateway that cannot answer a probe in this time is not well.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The admin port
    #[arg(long, default_value = "127.0.0.1:8081")]
    admin: SocketAddr,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let admin = arguments.admin;
    match probe(admin) {
        Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => Ok(()),
        Ok(answer) => {
            Err(Failure::Unwell(format!("{admin} answered: {}", answer.lines().next().unwrap_or("nothing"))))
        }
        Err(error) => Err(Failure::Unwell(format!("{admin} does not answer: {error}"))),
    }
}

fn probe(admin: SocketAddr) -> std::io::Result<String> {
    let mut socket = TcpStream::connect_timeout(&admin, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    write!(socket, "GET /healthz HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    socket.take(4096).read_to_string(&mut answer)?;
    Ok(answer)
}
