//! Reads events from the admin port.

use std::time::Duration;

use bytes::Bytes;
use http::header::ACCEPT;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Empty};
use tokio::sync::mpsc::Sender;
use tokio::time::timeout;
use traffic_dam::net::client;
use traffic_dam::server::admin::live::Frame;

use crate::commands::admin_port::{AdminPort, NO_TOKEN};

/// Timeout: a gateway sends an event each second, so after this silence it is gone.
const SILENCE: Duration = Duration::from_secs(5);
/// Maximum size of an event: five minutes of a large gateway are a few hundred kilobytes.
const LONGEST: usize = 16 << 20;

/// The admin port that sends events.
#[derive(Debug)]
pub(super) struct EventSource(pub(super) AdminPort);

impl EventSource {
    /// Sends events to `to` until its receiver is gone. Otherwise returns why events end.
    pub(super) async fn read(&self, to: &Sender<Result<Frame, String>>) -> Result<(), String> {
        let request = self.0.request(Method::GET, "/api/v1/events").header(ACCEPT, "text/event-stream");
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
        let silent = |_| format!("no data for {} s", SILENCE.as_secs());
        let answer = timeout(SILENCE, client::send(&self.0.url, self.0.tls.as_ref(), request)).await;
        let mut answer = answer.map_err(silent)?.map_err(|error| error.to_string())?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED => {
                return Err(NO_TOKEN.to_owned());
            }
            status => return Err(format!("unexpected status {status}")),
        }
        let mut unread = Vec::new();
        while let Some(piece) = timeout(SILENCE, answer.frame()).await.map_err(silent)? {
            let Ok(data) = piece.map_err(|error| error.to_string())?.into_data() else { continue };
            unread.extend_from_slice(&data);
            while let Some(event) = next(&mut unread) {
                let frame = serde_json::from_slice(&event)
                    .map_err(|error| format!("the gateway may have another version: {error}"))?;
                if to.send(Ok(frame)).await.is_err() {
                    return Ok(());
                }
            }
            if unread.len() > LONGEST {
                return Err("event too large".to_owned());
            }
        }
        Err("the gateway closed the connection".to_owned())
    }
}

/// Removes the first whole event from `unread`: the text after `data: ` up to an empty line.
fn next(unread: &mut Vec<u8>) -> Option<Vec<u8>> {
    let end = unread.windows(2).position(|pair| pair == b"\n\n")?;
    let event: Vec<u8> = unread.drain(..end + 2).collect();
    let text = event.strip_prefix(b"data: ").unwrap_or(&event);
    Some(text.trim_ascii_end().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_whole_however_they_are_cut() {
        let stream = b"data: {\"a\":1}\n\ndata: {}\n\n";
        for cut in 0..stream.len() {
            let mut unread = stream[..cut].to_vec();
            let mut events: Vec<_> = std::iter::from_fn(|| next(&mut unread)).collect();
            unread.extend_from_slice(&stream[cut..]);
            events.extend(std::iter::from_fn(|| next(&mut unread)));
            assert_eq!(events, [b"{\"a\":1}".to_vec(), b"{}".to_vec()], "{cut}");
        }
    }
}
