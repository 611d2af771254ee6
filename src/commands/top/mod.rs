//! `traffic-dam top`: the admin page in a terminal.
//!
//! It reads and shows the same events as the page, and costs as much as one more open page.

mod draw;
mod events;
mod timestamp;

use std::io::{self, IsTerminal, stdin, stdout};
use std::pin::pin;
use std::time::Duration;

use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use futures_util::{Stream, StreamExt};
use ratatui::Terminal;
use ratatui::backend::Backend;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::sleep;
use traffic_dam::clock::unix_millis;

use super::admin_port::{AdminAddress, AdminPort};
use super::serve::terminated;
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
    let shown =
        runtime.block_on(async { show(&mut terminal, source, EventStream::new(), told_to_end()).await });
    ratatui::try_restore()?;
    shown
}

/// Returns when a signal tells the process to end. By default it would end at once, and leave the
/// terminal without echo and in its alternate screen.
async fn told_to_end() {
    match signal(SignalKind::hangup()) {
        Ok(mut hangup) => tokio::select! {
            () = terminated() => {}
            _ = hangup.recv() => {}
        },
        Err(_) => terminated().await,
    }
}

/// Returns `true` for a key that ends the program: `q`, Esc or Ctrl-C.
fn quits(key: KeyEvent) -> bool {
    let interrupts = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
    key.kind == KeyEventKind::Press
        && (interrupts || matches!(key.code, KeyCode::Char('q' | 'Q') | KeyCode::Esc))
}

/// Shows events until a key of `keys` quits, or until `ended` returns.
async fn show<B>(
    terminal: &mut Terminal<B>,
    source: EventSource,
    mut keys: impl Stream<Item = io::Result<Event>> + Unpin,
    ended: impl Future<Output = ()>,
) -> Result<(), CommandError>
where
    B: Backend<Error: std::error::Error + Send + Sync + 'static>,
{
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
    let mut ended = pin!(ended);
    loop {
        terminal.draw(|frame| view.draw(frame, unix_millis())).map_err(io::Error::other)?;
        tokio::select! {
            () = &mut ended => break,
            Some(news) = news.recv() => view.take(news),
            key = keys.next() => match key {
                Some(Ok(Event::Key(key))) if quits(key) => break,
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

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use ratatui::backend::TestBackend;

    use super::*;

    async fn ends(keys: impl Stream<Item = io::Result<Event>> + Unpin, ended: impl Future<Output = ()>) {
        let admin = "http://127.0.0.1:1".parse().unwrap();
        let source = EventSource(AdminPort::new(AdminAddress { admin, token: None }).unwrap());
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        show(&mut terminal, source, keys, ended).await.unwrap();
    }

    fn key(code: KeyCode, modifiers: KeyModifiers) -> KeyEvent {
        KeyEvent::new(code, modifiers)
    }

    #[tokio::test]
    async fn a_signal_or_a_key_ends_it_and_the_terminal_can_be_restored() {
        ends(stream::pending(), std::future::ready(())).await;
        let quit = Event::Key(key(KeyCode::Char('Q'), KeyModifiers::SHIFT));
        let keys = stream::iter([Ok(Event::FocusGained), Ok(quit)]).chain(stream::pending());
        ends(keys, std::future::pending()).await;
    }

    #[test]
    fn some_keys_quit_and_others_do_not() {
        let none = KeyModifiers::NONE;
        for (code, modifiers, expected) in [
            (KeyCode::Char('q'), none, true),
            (KeyCode::Char('Q'), KeyModifiers::SHIFT, true),
            (KeyCode::Esc, none, true),
            (KeyCode::Char('c'), KeyModifiers::CONTROL, true),
            (KeyCode::Char('c'), none, false),
            (KeyCode::Enter, none, false),
        ] {
            assert_eq!(quits(key(code, modifiers)), expected, "{code:?}");
        }
    }
}
