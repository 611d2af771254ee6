//! Connections: reused, found dead, refused, encrypted.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;
use traffic_dam::fleet::provider::ProviderLimits;
use traffic_dam::fleet::spec::{Http2Mode, WorkerSpec};
use traffic_dam::refusal::Reason;
use traffic_dam::upstream::tls::client_config;
use traffic_dam::upstream::{UpstreamSettings, UpstreamTimeouts};

use crate::rig::{DONE, Dam, HELLO, ROLE, STREAM, Worker, answer, chat, chunk, eventually, read, spec, text};

#[tokio::test]
async fn a_connection_that_died_while_idle_costs_nothing() {
    let closed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&closed);
    let worker = Worker::new(move |mut conn| {
        let count = Arc::clone(&count);
        async move {
            conn.request().await;
            conn.send(answer(200, "ok")).await;
            drop(conn);
            count.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
    for n in 1..20 {
        // None of these may run twice, so none may be lost either.
        assert_eq!(text(dam.send("w1", chat(false, false)).await.unwrap()).await, "ok");
        eventually("the worker has closed", || closed.load(Ordering::SeqCst) == n).await;
        assert_eq!(worker.asked().len(), n);
    }
}

#[tokio::test]
async fn a_worker_that_says_close_is_believed() {
    let worker = Worker::saying("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok").await;
    let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
    for n in 1..4 {
        assert_eq!(text(dam.send("w1", chat(false, false)).await.unwrap()).await, "ok");
        assert_eq!(worker.connections.load(Ordering::SeqCst), n);
    }
}

#[tokio::test]
async fn bytes_nobody_asked_for_end_a_connection() {
    let worker = Worker::saying([answer(200, "ok"), answer(200, "smuggled")].concat()).await;
    let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
    for _ in 0..5 {
        assert_eq!(text(dam.send("w1", chat(false, false)).await.unwrap()).await, "ok");
    }
}

#[tokio::test]
async fn idle_connections_are_closed_without_a_further_request() {
    let closed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&closed);
    let worker = Worker::new(move |mut conn| {
        let count = Arc::clone(&count);
        async move {
            while conn.request().await.is_some() {
                conn.send(answer(200, "ok")).await;
            }
            count.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
    let (one, two) = (dam.send("w1", chat(false, false)), dam.send("w1", chat(false, false)));
    let (one, two) = tokio::join!(one, two);
    assert_eq!((text(one.unwrap()).await, text(two.unwrap()).await), ("ok".into(), "ok".into()));
    assert_eq!(closed.load(Ordering::SeqCst), 0);
    eventually("both are closed", || closed.load(Ordering::SeqCst) == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_share_no_connection() {
    let worker = Worker::saying(answer(200, "ok")).await;
    let dam = Arc::new(Dam::new(vec![worker.spec("w1")], UpstreamSettings::default()));
    for _ in 0..4 {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let dam = Arc::clone(&dam);
            tasks.spawn(async move { text(dam.send("w1", chat(false, false)).await.unwrap()).await });
        }
        while let Some(said) = tasks.join_next().await {
            assert_eq!(said.unwrap(), "ok");
        }
    }
    assert_eq!(worker.asked().len(), 200);
    // A connection is idle shortly after its answer was read, so there may be some more than 50.
    assert!(worker.connections.load(Ordering::SeqCst) <= 100, "what is idle is used again");
    assert_eq!(dam.in_flight(), 0);
}

#[tokio::test]
async fn an_old_connection_takes_no_new_request_and_ends_no_stream() {
    for (connection_age, connections) in [(Duration::from_secs(300), 1), (Duration::ZERO, 4)] {
        let worker = Worker::new(|mut conn| async move {
            while conn.request().await.is_some() {
                conn.send(STREAM).await;
                for piece in [ROLE, HELLO, DONE] {
                    conn.send(chunk(piece)).await;
                    tokio::task::yield_now().await;
                }
                conn.send(chunk("")).await;
            }
        })
        .await;
        let settings = UpstreamSettings { connection_age, ..UpstreamSettings::default() };
        let dam = Dam::new(vec![worker.spec("w1")], settings);
        for _ in 0..4 {
            let (data, _, ended) = read(dam.send("w1", chat(true, false)).await.unwrap()).await;
            ended.unwrap();
            assert!(String::from_utf8(data).unwrap().ends_with(DONE));
        }
        assert_eq!(worker.connections.load(Ordering::SeqCst), connections);
    }
}

#[tokio::test]
async fn a_discovered_worker_is_reached_at_its_address_under_its_name() {
    let worker = Worker::saying(answer(200, "ok")).await;
    let spec = WorkerSpec {
        address: Some(worker.addr.ip()),
        ..spec("w1", &format!("http://no-such-name.invalid:{}", worker.addr.port()))
    };
    let dam = Dam::new(vec![spec], UpstreamSettings::default());
    assert_eq!(text(dam.send("w1", chat(false, false)).await.unwrap()).await, "ok");
    let host = format!("no-such-name.invalid:{}", worker.addr.port());
    assert_eq!(worker.asked()[0].values("host"), [host]);
}

/// Starts a worker with a certificate of its own authority; returns its port and the authority.
async fn secure() -> (u16, CertificateDer<'static>) {
    secure_with(&[], |mut tls| async move {
        let mut unread = [0; 4096];
        while tls.read(&mut unread).await.unwrap_or(0) > 0 {
            tls.write_all(answer(200, "secret").as_bytes()).await.unwrap();
        }
    })
    .await
}

/// The same with these protocols in the TLS handshake, and `act` for each connection.
async fn secure_with<F, Fut>(protocols: &[&[u8]], act: F) -> (u16, CertificateDer<'static>)
where
    F: Fn(TlsStream<TcpStream>) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let authority = rcgen::CertifiedIssuer::self_signed(
        {
            let mut params = rcgen::CertificateParams::default();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params
        },
        rcgen::KeyPair::generate().unwrap(),
    )
    .unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, act) = (acceptor.clone(), act.clone());
            tokio::spawn(async move {
                if let Ok(tls) = acceptor.accept(tcp).await {
                    act(tls).await;
                }
            });
        }
    });
    (port, authority.der().clone())
}

#[tokio::test]
async fn an_https_worker_must_prove_who_it_is() {
    let (port, authority) = secure().await;
    let trusting =
        UpstreamSettings { tls: Some(client_config([authority]).unwrap()), ..UpstreamSettings::default() };
    let dam = Dam::new(vec![spec("w1", &format!("https://localhost:{port}"))], trusting.clone());
    for _ in 0..3 {
        assert_eq!(text(dam.send("w1", chat(false, false)).await.unwrap()).await, "secret");
    }

    let (_, other) = secure().await;
    let wrong =
        UpstreamSettings { tls: Some(client_config([other]).unwrap()), ..UpstreamSettings::default() };
    for (url, settings) in [
        (format!("https://localhost:{port}"), wrong),
        (format!("https://localhost:{port}"), UpstreamSettings::default()),
        (format!("https://127.0.0.1:{port}"), trusting),
    ] {
        let dam = Dam::new(vec![spec("w1", &url)], settings);
        let refusal = dam.send("w1", chat(false, false)).await.unwrap_err();
        assert_eq!(refusal.reason, Reason::UpstreamUnreachable);
        let shown = refusal.message.contains("localhost") || refusal.message.contains("127.0.0.1");
        assert!(!shown, "{}", refusal.message);
    }
}

/// Serves HTTP/2, or HTTP/1.1 if the client chose that, and counts connections and requests.
async fn either(offered: &[&[u8]]) -> (u16, CertificateDer<'static>, Arc<[AtomicUsize; 2]>) {
    let counts: Arc<[AtomicUsize; 2]> = Arc::default();
    let counting = Arc::clone(&counts);
    let (port, authority) = secure_with(offered, move |mut tls| {
        let counts = Arc::clone(&counting);
        async move {
            counts[0].fetch_add(1, Ordering::SeqCst);
            if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
                let mut unread = [0; 4096];
                while tls.read(&mut unread).await.unwrap_or(0) > 0 {
                    counts[1].fetch_add(1, Ordering::SeqCst);
                    tls.write_all(answer(200, "one").as_bytes()).await.unwrap();
                }
                return;
            }
            let mut connection = h2::server::handshake(tls).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                counts[1].fetch_add(1, Ordering::SeqCst);
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                stream.send_data(Bytes::from_static(b"two"), true).unwrap();
            }
        }
    })
    .await;
    (port, authority, counts)
}

#[tokio::test]
async fn https_workers_are_asked_over_http2_if_they_choose_it_and_if_that_is_set() {
    let external = Some(ProviderLimits::default());
    for (offered, http2, everywhere, external, said) in [
        (&[&b"h2"[..], b"http/1.1"][..], Some(Http2Mode::Auto), None, None, "two"),
        (&[b"h2", b"http/1.1"], None, Some(Http2Mode::Auto), None, "two"),
        (&[b"h2", b"http/1.1"], None, Some(Http2Mode::PriorKnowledge), None, "two"),
        (&[b"h2", b"http/1.1"], Some(Http2Mode::Off), Some(Http2Mode::Auto), None, "one"),
        (&[b"h2", b"http/1.1"], None, None, None, "one"),
        (&[b"h2", b"http/1.1"], None, None, external, "two"),
        (&[b"h2", b"http/1.1"], None, Some(Http2Mode::Off), external, "one"),
        (&[b"http/1.1"], Some(Http2Mode::Auto), None, None, "one"),
        (&[], Some(Http2Mode::Auto), None, None, "one"),
    ] {
        let (port, authority, counts) = either(offered).await;
        let settings = UpstreamSettings {
            tls: Some(client_config([authority]).unwrap()),
            http2: everywhere,
            ..UpstreamSettings::default()
        };
        let spec = WorkerSpec { http2, external, ..spec("w1", &format!("https://localhost:{port}")) };
        let dam = Dam::new(vec![spec], settings);
        for _ in 0..5 {
            assert_eq!(text(dam.send("w1", chat(false, true)).await.unwrap()).await, said, "{offered:?}");
        }
        assert_eq!(
            counts.each_ref().map(|count| count.load(Ordering::SeqCst)),
            [1, 5],
            "{offered:?} {http2:?}"
        );
    }
}

#[tokio::test]
async fn a_connection_that_is_not_made_in_time_is_given_up() {
    // TCP is accepted, but TLS never answered.
    let worker = Worker::new(|mut conn| async move {
        conn.request().await;
    })
    .await;
    let (_, authority) = secure().await;
    let tls = Some(client_config([authority]).unwrap());
    let url = format!("https://localhost:{}", worker.addr.port());
    let timeouts = UpstreamTimeouts { connect: Duration::from_millis(80), ..UpstreamTimeouts::default() };
    let dam =
        Dam::new(vec![spec("w1", &url)], UpstreamSettings { timeouts, tls, ..UpstreamSettings::default() });
    let refusal = dam.send("w1", chat(true, true)).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::UpstreamUnreachable);
    assert_eq!(
        refusal.message,
        "Worker w1 could not be reached: it did not accept a connection within 80ms."
    );
}

#[tokio::test]
async fn a_client_that_leaves_while_connecting_takes_the_connection_with_it() {
    let gone = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&gone);
    let worker = Worker::new(move |mut conn| {
        let count = Arc::clone(&count);
        async move {
            // A TLS hello is not a request, so this ends when the connection does.
            conn.request().await;
            count.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let (_, authority) = secure().await;
    let tls = Some(client_config([authority]).unwrap());
    let url = format!("https://localhost:{}", worker.addr.port());
    let timeouts = UpstreamTimeouts { connect: Duration::from_secs(600), ..UpstreamTimeouts::default() };
    let dam =
        Dam::new(vec![spec("w1", &url)], UpstreamSettings { timeouts, tls, ..UpstreamSettings::default() });
    let mut sending = Box::pin(dam.send("w1", chat(true, true)));
    tokio::select! {
        _ = &mut sending => panic!("nobody answers"),
        () = eventually("there is a connection", || worker.connections.load(Ordering::SeqCst) == 1) => {}
    }
    drop(sending);
    eventually("the connection is closed", || gone.load(Ordering::SeqCst) == 1).await;
    assert_eq!(dam.in_flight(), 0);
}
