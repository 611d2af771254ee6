//! Many streams at once, on one thread.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Streams {
    /// The proxy, or the backend itself
    #[arg(long)]
    target: SocketAddr,
    /// Streams at once, each on a connection of its own
    #[arg(long)]
    connections: u32,
    /// Seconds in which streams are begun
    #[arg(long)]
    seconds: u64,
    /// Events of each stream
    #[arg(long)]
    events: u32,
    /// Pause between the events of a stream, in µs; 0 is none
    #[arg(long, default_value_t = 0)]
    pause_us: u64,
}

/// Time in which slow streams begin.
const BEGINNING: Duration = Duration::from_secs(1);

/// What one connection read.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    streams: u64,
    events: u64,
    failures: u64,
}

impl Streams {
    #[expect(clippy::print_stdout, reason = "the script reads the figures from there")]
    pub(super) fn run(self) -> Result<(), Box<dyn Error>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let sum = runtime.block_on(async {
            let start = Instant::now();
            let asked = Arc::new(self);
            let mut connections = JoinSet::new();
            for index in 0..asked.connections {
                connections.spawn(Arc::clone(&asked).connection(index, start));
            }
            connections.join_all().await.into_iter().fold(Tally::default(), |sum, one| Tally {
                streams: sum.streams + one.streams,
                events: sum.events + one.events,
                failures: sum.failures + one.failures,
            })
        });
        println!("{} {} {}", sum.streams, sum.events, sum.failures);
        Ok(())
    }

    async fn connection(self: Arc<Self>, index: u32, start: Instant) -> Tally {
        let mut tally = Tally::default();
        // Slow streams begin one after another: a gateway admits a thousand new prompts only at the pace
        // at which a worker can read them, and their events should not all come at the same moment.
        if self.pause_us > 0 {
            sleep(BEGINNING * index / self.connections.max(1)).await;
        }
        match self.read_streams(index, start, &mut tally).await {
            Ok(()) => {}
            Err(_) => tally.failures += 1,
        }
        tally
    }

    async fn read_streams(&self, index: u32, start: Instant, tally: &mut Tally) -> io::Result<()> {
        let body = format!(
            r#"{{"model":"bench","messages":[{{"role":"user","content":"Why does water find its level?"}}],"stream":true,"bench":{{"events":{},"pause_us":{}}}}}"#,
            self.events, self.pause_us
        );
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n\
             authorization: Bearer sk-bench\r\nx-session-id: s{index}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut socket = TcpStream::connect(self.target).await?;
        socket.set_nodelay(true)?;
        let mut buffer = vec![0; 32 << 10];
        while start.elapsed() < Duration::from_secs(self.seconds) {
            socket.write_all(request.as_bytes()).await?;
            self.read_one(&mut socket, &mut buffer, tally).await?;
        }
        Ok(())
    }

    async fn read_one(&self, socket: &mut TcpStream, buffer: &mut [u8], tally: &mut Tally) -> io::Result<()> {
        const START: &[u8] = b"data: {";
        const END: &[u8] = b"[DONE]\n\n\r\n0\r\n\r\n";
        // What is kept of the last read, so that nothing is missed that two reads share.
        let (mut kept, mut first, mut events) = (0, true, 0);
        loop {
            let read = socket.read(&mut buffer[kept..]).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let seen = &buffer[..kept + read];
            if std::mem::take(&mut first) && !seen.starts_with(b"HTTP/1.1 200") {
                return Err(io::Error::other("refused"));
            }
            events += memmem::find_iter(seen, START).count() as u64;
            if seen.ends_with(END) {
                break;
            }
            let rest = seen.len().saturating_sub(END.len());
            // An event that was counted must not be counted again.
            let rest = memmem::rfind(seen, START).map_or(rest, |at| rest.max(at + 1));
            let (from, to) = (rest, seen.len());
            buffer.copy_within(from..to, 0);
            kept = to - from;
        }
        tally.streams += 1;
        tally.events += events;
        if events == u64::from(self.events) { Ok(()) } else { Err(io::Error::other("events are missing")) }
    }
}
