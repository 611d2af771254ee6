//! Measures what the heartbeats of a thousand workers cost; `scripts/heartbeats` builds and runs
//! it.
//!
//! The gateway serves no requests. A thousand workers each send one heartbeat per second to Redis,
//! spread over the second. The gateway's CPU time is the cost; it is also measured before the first
//! one.

#[path = "../overload/machine.rs"]
#[expect(dead_code, reason = "shared with the overload run")]
mod machine;

use std::error::Error;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use clap::Parser;
use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

/// Workers; each sends one heartbeat per second.
const WORKERS: usize = 1000;
/// Groups per second in which the workers send.
const GROUPS: usize = 50;
/// Allowed cost, in percent of one core.
const ALLOWED: f64 = 5.0;
/// Time for the workers to become known and the gateway to become idle.
const SETTLING: Duration = Duration::from_secs(3);

#[derive(Debug, Parser)]
struct Options {
    /// The gateway's binary
    #[arg(long)]
    dam: PathBuf,
    /// Seconds to measure
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

/// A process that is killed when the run ends.
struct Server(Child);

impl Server {
    fn start(command: &mut Command) -> Result<Self, Box<dyn Error>> {
        Ok(Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?))
    }

    fn time(&self) -> Result<Duration, Box<dyn Error>> {
        machine::process_time(self.0.id()).ok_or_else(|| "the gateway is gone".into())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).ok();
    }
}

fn free_port() -> Result<u16, Box<dyn Error>> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let options = Options::parse();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(&options))
}

async fn run(options: &Options) -> Result<ExitCode, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let (port, listen, admin) = (free_port()?, free_port()?, free_port()?);
    let _redis = Server::start(
        Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no"])
            .current_dir(folder.path()),
    )?;
    let mut connection = connect(port).await?;
    let file = folder.path().join("dam.yaml");
    std::fs::write(
        &file,
        format!(
            "workers: {{ discovery: redis, allow: [127.0.0.1] }}\nredis: {{ url: \"redis://127.0.0.1:{port}\" }}\n"
        ),
    )?;
    let dam = Server::start(
        Command::new(&options.dam)
            .arg("serve")
            .arg("--config")
            .arg(&file)
            .arg(format!("--listen=127.0.0.1:{listen}"))
            .arg(format!("--admin-listen=127.0.0.1:{admin}"))
            .env("TRAFFIC_DAM_LOG", "error"),
    )?;
    sleep(SETTLING).await;
    let measured = Duration::from_secs(options.seconds);
    let before = dam.time()?;
    sleep(measured).await;
    let idle = percent(dam.time()? - before, measured);
    let mut seq = 0;
    speak(&mut connection, &mut seq, SETTLING).await?;
    let (before, began, said) = (dam.time()?, Instant::now(), seq);
    speak(&mut connection, &mut seq, measured).await?;
    let busy = percent(dam.time()? - before, began.elapsed());
    let rate = ((seq - said) * WORKERS / GROUPS) as f64 / began.elapsed().as_secs_f64();
    let cost = busy - idle;
    print(format_args!(
        "{rate:.0} heartbeats/s of {WORKERS} workers: {busy:.2} % of one core, {idle:.2} % without them; \
         {cost:.2} % wanted below {ALLOWED} %: {}",
        if cost < ALLOWED { "reached" } else { "missed" }
    ));
    Ok(ExitCode::SUCCESS)
}

async fn connect(port: u16) -> Result<MultiplexedConnection, Box<dyn Error>> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}"))?;
    for _ in 0..100 {
        if let Ok(connection) = client.get_multiplexed_async_connection().await {
            return Ok(connection);
        }
        sleep(Duration::from_millis(50)).await;
    }
    Err("Redis did not come up".into())
}

/// Sends the heartbeats of all workers for `length`; `turn` counts the groups that have sent.
async fn speak(
    connection: &mut MultiplexedConnection,
    turn: &mut usize,
    length: Duration,
) -> Result<(), Box<dyn Error>> {
    let until = Instant::now() + length;
    let mut ticks = interval(Duration::from_secs(1) / GROUPS as u32);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while Instant::now() < until {
        ticks.tick().await;
        let mut say = redis::pipe();
        for worker in (*turn % GROUPS..WORKERS).step_by(GROUPS) {
            let text = beat(worker, *turn / GROUPS);
            say.cmd("SADD").arg("dam:workers").arg(format!("w{worker}")).ignore();
            say.cmd("SET").arg(format!("dam:worker:w{worker}")).arg(&text).arg("PX").arg(3000).ignore();
            say.cmd("PUBLISH").arg("dam:health").arg(&text).ignore();
        }
        say.query_async::<()>(connection).await?;
        *turn += 1;
    }
    Ok(())
}

/// Returns a heartbeat of realistic size.
fn beat(worker: usize, seq: usize) -> String {
    let (port, used) = (10_000 + worker, (seq % 70) as f64 / 100.0);
    format!(
        r#"{{"v":1,"worker":"w{worker}","boot":"a","seq":{seq},"interval_ms":1000,"url":"http://127.0.0.1:{port}","pool":"default","model":"sim","colour":"blue","version":"1","state":"ready","slots":16,"running":{},"waiting":0,"kv_used":{used},"kv_tokens":131072,"ttft_p90_ms":310,"itl_p90_ms":21,"checks":[{{"name":"gpu","status":"green","message":"ok"}}]}}"#,
        seq % 16
    )
}

fn percent(time: Duration, of: Duration) -> f64 {
    time.as_secs_f64() / of.as_secs_f64() * 100.0
}

#[expect(clippy::print_stdout, reason = "the figure is what the run prints")]
fn print(line: std::fmt::Arguments<'_>) {
    println!("{line}");
}
