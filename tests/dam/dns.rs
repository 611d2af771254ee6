//! A DNS server in this process, whose answers the test chooses.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// What the server does with a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// It answers with its records, or that there is no such name.
    Answers,
    /// It says that it cannot answer.
    Fails,
    /// It says nothing.
    Silent,
}

#[derive(Debug)]
struct Zone {
    records: HashMap<(Name, RecordType), Vec<RData>>,
    ttl: u32,
    behaviour: Behaviour,
}

/// A DNS server.
#[derive(Debug)]
pub(crate) struct Dns {
    pub(crate) addr: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    asked: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Dns {
    /// Starts a server without records, whose answers hold for `ttl` seconds.
    pub(crate) async fn start(ttl: u32) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        let zone = Arc::new(Mutex::new(Zone { records: HashMap::new(), ttl, behaviour: Behaviour::Answers }));
        let asked = Arc::default();
        let task = tokio::spawn(serve(socket, Arc::clone(&zone), Arc::clone(&asked)));
        Self { addr, zone, asked, task }
    }

    /// Sets the records of one type of a name.
    pub(crate) fn set(&self, name: &str, kind: RecordType, data: Vec<RData>) {
        self.zone.lock().records.insert((fully(name), kind), data);
    }

    /// Sets the IPv4 addresses of a name.
    pub(crate) fn addresses(&self, name: &str, addresses: impl IntoIterator<Item = SocketAddr>) {
        let data = addresses.into_iter().map(|address| match address {
            SocketAddr::V4(address) => RData::A((*address.ip()).into()),
            SocketAddr::V6(address) => RData::AAAA((*address.ip()).into()),
        });
        self.set(name, RecordType::A, data.collect());
    }

    /// Changes what it does with questions.
    pub(crate) fn behave(&self, behaviour: Behaviour) {
        self.zone.lock().behaviour = behaviour;
    }

    /// Returns the number of questions so far.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns a name with its final dot.
pub(crate) fn fully(name: &str) -> Name {
    Name::from_ascii(format!("{name}.")).unwrap()
}

async fn serve(socket: UdpSocket, zone: Arc<Mutex<Zone>>, asked: Arc<AtomicU64>) {
    let mut buffer = [0; 4096];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
        let mut answer = Message::from_vec(&buffer[..length]).unwrap().into_response();
        asked.fetch_add(1, Ordering::SeqCst);
        let said = {
            let zone = zone.lock();
            let query = answer.queries[0].clone();
            let key = (query.name().to_lowercase(), query.query_type());
            match zone.behaviour {
                Behaviour::Silent => continue,
                Behaviour::Fails => answer.metadata.response_code = ResponseCode::ServFail,
                Behaviour::Answers => match zone.records.get(&key) {
                    Some(data) => {
                        for data in data {
                            answer.add_answer(Record::from_rdata(key.0.clone(), zone.ttl, data.clone()));
                        }
                    }
                    None => answer.metadata.response_code = ResponseCode::NXDomain,
                },
            }
            answer.to_vec().unwrap()
        };
        socket.send_to(&said, from).await.unwrap();
    }
}
