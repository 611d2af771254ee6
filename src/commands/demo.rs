//! `traffic-dam demo`: everything in one process, with limits small enough to see them act.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;
use traffic_dam::app::{App, BoundListeners};
use traffic_dam::clock::Clock;
use traffic_dam::config::{self, LoadContext, Overrides};
use traffic_dam::net;
use traffic_dam::openai::error::StreamFormat;
use traffic_dam::sim::worker::{WorkerOptions, serve};

use super::arguments::read;
use super::load::{self, Offer};
use super::log::Log;
use super::serve::serve_to_the_end;
use super::{CommandError, print_line, runtime};

/// Settings of the demo; `DEMO_WORKER` is the worker's address.
const SETTINGS: &str = include_str!("../../examples/demo.yaml");
/// Settings of `--load`: no quotas, a longer queue.
const LOAD_SETTINGS: &str = include_str!("../../examples/demo-load.yaml");
/// Slots of the simulated worker, as in the settings.
const SLOTS: u32 = 4;
/// Number of ports tried when one is in use.
const PORTS_TRIED: u16 = 100;
/// Tokens of each answer under `--load`: few, so that some answer ends every second.
const LOAD_TOKENS: u32 = 40;
/// Load offered by `--load`, as a multiple of what the worker can serve.
const OVERLOAD: f64 = 3.0;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Address for callers; if its port is in use, the next free one
    #[arg(long, default_value = "127.0.0.1:8080", value_parser = read::<SocketAddr>)]
    listen: SocketAddr,
    /// Address of the admin port; if it is in use, the next free one
    #[arg(long, default_value = "127.0.0.1:8081", value_parser = read::<SocketAddr>)]
    admin_listen: SocketAddr,
    /// Address of the simulated worker; if its port is in use, the next free one
    #[arg(long, default_value = "127.0.0.1:8000", value_parser = read::<SocketAddr>)]
    worker_listen: SocketAddr,
    /// Offer three times the load that the worker can serve, and show the outcome
    #[arg(long)]
    load: bool,
    /// API of the load, and of the commands to try
    #[arg(long, value_enum, default_value_t = DemoApi::Chat)]
    api: DemoApi,
}

/// API that the demo speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum DemoApi {
    /// OpenAI's chat completions
    Chat,
    /// Anthropic's Messages
    Messages,
}

impl DemoApi {
    const fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Messages => "/v1/messages",
        }
    }

    const fn format(self) -> StreamFormat {
        match self {
            Self::Chat => StreamFormat::Bare,
            Self::Messages => StreamFormat::Messages,
        }
    }
}

/// Binds `wanted`, or the next free port.
fn bind_near(wanted: SocketAddr) -> Result<TcpListener, CommandError> {
    for offset in 0..PORTS_TRIED {
        let Some(port) = wanted.port().checked_add(offset) else { break };
        match net::bind(SocketAddr::new(wanted.ip(), port)) {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
            Err(error) => {
                return Err(CommandError::Usage(format!("cannot listen on {}:{port}: {error}", wanted.ip())));
            }
        }
    }
    Err(CommandError::Usage(format!("found no free port, starting at {wanted}")))
}

pub(crate) fn run(arguments: &Arguments, log: &Log) -> Result<(), CommandError> {
    runtime()?.block_on(async {
        let worker = bind_near(arguments.worker_listen)?;
        let (main, admin) = (bind_near(arguments.listen)?, bind_near(arguments.admin_listen)?);
        let (worker_at, main_at, admin_at) = (worker.local_addr()?, main.local_addr()?, admin.local_addr()?);

        let text = if arguments.load { LOAD_SETTINGS } else { SETTINGS };
        let surroundings = LoadContext {
            variable: &|name| (name == "DEMO_WORKER").then(|| worker_at.to_string()),
            obstacle: &|_| None,
            overrides: Overrides { listen: Some(main_at), admin_listen: Some(admin_at) },
        };
        let settings = config::from_str(text, Path::new("demo.yaml"), surroundings)
            .map_err(|faults| CommandError::Usage(faults.to_string()))?;
        let slo = settings.gate.ttft_slo;
        let app = App::new(settings, Clock::system())?;
        app.watch_log(Arc::clone(&log.lost));

        let options = WorkerOptions { slots: SLOTS, ..WorkerOptions::default() };
        let rate = OVERLOAD * capacity(&options);
        tokio::spawn(serve(worker, options, std::future::pending()));
        greet(main_at, admin_at, worker_at, arguments);
        if arguments.load {
            let body = format!(
                r#"{{"model":"sim","stream":true,"max_tokens":{LOAD_TOKENS},"ignore_eos":true,"messages":[{{"role":"user","content":"Tell me about dams."}}]}}"#
            );
            print_line(format!("Offering {rate:.0} requests/s, about {OVERLOAD} times what the worker can serve. Ctrl-C stops.\n"));
            let offer = Offer {
                target: main_at,
                path: arguments.api.path(),
                format: arguments.api.format(),
                rate,
                body: Bytes::from(body),
                ttft_slo: slo,
            };
            tokio::spawn(load::run(offer, print_line));
        }
        serve_to_the_end(&app, BoundListeners::bound(main, admin)).await;
        Ok(())
    })
}

/// Returns the worker's capacity in answers of [`LOAD_TOKENS`] tokens per second, all slots busy.
fn capacity(options: &WorkerOptions) -> f64 {
    let step = options.token_time + options.token_time_per_seq * options.slots;
    let answer = options.prefill_base + step * LOAD_TOKENS;
    f64::from(options.slots) / answer.max(Duration::from_millis(1)).as_secs_f64()
}

fn greet(main: SocketAddr, admin: SocketAddr, worker: SocketAddr, arguments: &Arguments) {
    let path = arguments.api.path();
    let tries = if arguments.load {
        "There are no quotas here: the gate alone decides. Try a stream beside the load; it is served in time, or refused at once."
    } else {
        "Try a stream, and then six at once: one more than the rule admits, and one more than the worker has room for."
    };
    let six = if arguments.load {
        ""
    } else {
        "for i in 1 2 3 4 5 6; do ask -o /dev/null -w '%{http_code}\\n' & done; wait\n"
    };
    print_line(format!(
        "gateway  http://{main}\n\
         admin    http://{admin}\n\
         worker   http://{worker} (simulated)\n\n\
         {tries}\n\n\
         ask() {{ curl -sN \"$@\" http://{main}{path} -H 'content-type: application/json' \\\n     \
         -d '{{\"model\":\"sim\",\"stream\":true,\"max_tokens\":50,\"messages\":[{{\"role\":\"user\",\"content\":\"Hello\"}}]}}'; }}\n\
         ask -i\n\
         {six}"
    ));
}
