//! `traffic-dam top`: the admin page in a terminal.
//!
//! It reads and shows the same events as the page, and costs as much as one more open page.

mod draw;
mod events;
mod timestamp;

use std::io::{IsTerminal, stdin, stdout};
use std::time::Duration;

use crossterm::event::{Event, EventStream, KeyCode, KeyEventKind, KeyModifiers};
use futures_util::StreamExt;
use ratatui::DefaultTerminal;
use tokio::sync::mpsc;
use tokio::time::sleep;
use traffic_dam::clock::unix_millis;

use super::admin_port::{AdminAddress, AdminPort};
use super::{CommandError, runtime};
use draw::View;
use events::EventSource;

/// Pause between attempts to reach the gateway.
const RECONNECT_DELAY: Duration = Duration::from_secs(2);
/// Maximum number of frames not yet drawn. One comes per second, and drawing it takes far less.
const CHANNEL_CAPACITY: usize = 4;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    address: AdminAddress,
}

pub(crate) fn run(arguments: Arguments) -> Result<(), CommandError> {
    if !stdout().is_terminal() || !stdin().is_terminal() {
        let state = "/api/v1/state";
        return Err(CommandError::Usage(format!(
            "top needs a terminal; programs can read {}{state} or /metrics",
            arguments.address.admin.to_string().trim_end_matches('/')
        )));
    }
    let source = EventSource(AdminPort::new(arguments.address)?);
    let runtime = runtime()?;
    let mut terminal = ratatui::try_init()?;
    let shown = runtime.block_on(show(&mut terminal, source));
    ratatui::try_restore()?;
    shown
}

/// Shows events until `q`, Esc or Ctrl-C.
async fn show(terminal: &mut DefaultTerminal, source: EventSource) -> Result<(), CommandError> {
    let (sender, mut news) = mpsc::channel(CHANNEL_CAPACITY);
    let reading = tokio::spawn(async move {
        loop {
            let Err(why) = source.read(&sender).await else { return };
            if sender.send(Err(why)).await.is_err() {
                return;
            }
            sleep(RECONNECT_DELAY).await;
        }
    });
    let mut view = View::default();
    let mut keys = EventStream::new();
    loop {
        terminal.draw(|frame| view.draw(frame, unix_millis()))?;
        tokio::select! {
            Some(news) = news.recv() => view.take(news),
            key = keys.next() => match key {
                Some(Ok(Event::Key(key))) if key.kind == KeyEventKind::Press => {
                    let interrupted = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
                    if interrupted || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                        break;
                    }
                }
                // Any other event, such as a resize, only redraws.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => break,
            },
        }
    }
    reading.abort();
    Ok(())
}
