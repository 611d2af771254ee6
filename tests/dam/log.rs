//! The log of a process whose stderr nobody reads.

use std::process::Stdio;

use super::client::{Conn, chat};
use super::gateway::Gateway;

#[tokio::test]
async fn a_reader_that_stops_stops_no_request() {
    // A pipe holds 64 KiB, some hundred and fifty lines.
    let gateway = Gateway::start("workers: { static: [] }", Stdio::piped()).await;
    let mut conn = Conn::open(gateway.addr).await;
    for _ in 0..1000 {
        assert!(conn.ask(chat("a", false, 8, &[])).await.unwrap().status >= 400);
    }
}
