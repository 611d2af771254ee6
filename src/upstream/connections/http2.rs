//! One HTTP/2 connection to a worker, shared by many requests.
//!
//! Unlike an HTTP/1.1 connection, it has a task of its own: its streams belong to different tasks.
//! A request that is dropped resets its own stream and no other.
//!
//! **Windows.** Every stream may have [`STREAM_WINDOW`] bytes that its client has not read yet, and
//! the connection has room for that of all its streams. So a client that reads nothing stops its own
//! stream, never those of others.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use http::header::{CONNECTION, HOST, TRANSFER_ENCODING};
use http::uri::{Authority, Scheme, Uri};
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http2::{Builder, Connection, SendRequest};
use hyper::rt::{Read, Write};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;

use crate::clock::Nanos;
use crate::request::Payload;

/// Most streams of one connection, whatever the worker allows: one lost connection or one lost
/// packet concerns no more requests than this.
pub(crate) const STREAMS_MAX: usize = 128;
/// Bytes of an answer that a client may leave unread, per stream; as much as HTTP/1.1 reads at once.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS_MAX as u32;
/// Largest response head, in bytes.
const HEAD_MAX: u32 = 64 * 1024;
/// With streams open and nothing heard for this long, the worker is pinged.
const PING_EVERY: Duration = Duration::from_secs(20);
/// Without an answer to a ping for this long, the connection and its streams have failed.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection without streams is closed after this time. The worker announces when it closes one
/// earlier (GOAWAY), so this may be longer than for HTTP/1.1.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(60);

/// The half that hyper drives.
type Driver<T> = Connection<T, Payload, TokioExecutor>;

/// A connection shared by requests.
pub(crate) struct SharedConnection {
    sender: SendRequest<Payload>,
    /// Returns how many streams the worker allows now.
    allows: Box<dyn Fn() -> usize + Send + Sync>,
    scheme: Scheme,
    authority: Authority,
    streams: AtomicUsize,
    /// Set when it takes no new streams.
    retired: AtomicBool,
    /// From this time on it takes no new streams, so that a name with new addresses is followed.
    expires: Nanos,
    /// When it was last seen with a stream, in nanoseconds of the clock.
    used_at: AtomicU64,
    /// Set on each read, see [`super::socket::WorkerSocket`].
    heard: Arc<AtomicBool>,
}

impl std::fmt::Debug for SharedConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedConnection").field("streams", &self.streams).finish_non_exhaustive()
    }
}

impl SharedConnection {
    /// Begins HTTP/2 on `io`, and starts the task that drives it. The times are the present, and from
    /// when on it takes no new streams.
    ///
    /// # Errors
    /// If the connection fails at once.
    pub(crate) async fn begin<T>(
        io: T,
        (scheme, authority): (Scheme, Authority),
        heard: Arc<AtomicBool>,
        (now, expires): (Nanos, Nanos),
    ) -> hyper::Result<Arc<Self>>
    where
        T: Read + Write + Send + Unpin + 'static,
    {
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEAD_MAX)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .handshake(io)
            .await?;
        let driver = Arc::new(Mutex::new(Some(connection)));
        tokio::spawn(drive(Arc::clone(&driver)));
        let allows = move || driver.lock().as_ref().map_or(0, Connection::current_max_send_streams);
        Ok(Arc::new(Self {
            sender,
            allows: Box::new(allows),
            scheme,
            authority,
            streams: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
            expires,
            used_at: AtomicU64::new(now.0),
            heard,
        }))
    }

    /// Returns a stream, if one more is allowed.
    pub(crate) fn open(self: &Arc<Self>, now: Nanos) -> Option<Http2Stream> {
        if !self.is_usable(now) {
            return None;
        }
        let most = (self.allows)().min(STREAMS_MAX);
        let more = |count: usize| (count < most).then_some(count + 1);
        self.streams.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more).ok()?;
        Some(Http2Stream(Arc::clone(self)))
    }

    /// Returns `true` if it may take new streams.
    fn is_usable(&self, now: Nanos) -> bool {
        !self.retired.load(Ordering::Relaxed) && !self.sender.is_closed() && now < self.expires
    }

    /// Returns `true` if it should stay in the pool. Called at least every few seconds.
    pub(crate) fn is_kept(&self, now: Nanos) -> bool {
        if self.streams.load(Ordering::Relaxed) > 0 {
            self.used_at.store(now.0, Ordering::Relaxed);
        }
        self.is_usable(now) && now.since(Nanos(self.used_at.load(Ordering::Relaxed))) < IDLE_MAX
    }
}

/// Drives the connection until it ends. The lock is held for one poll, never across a wait.
async fn drive<T>(driver: Arc<Mutex<Option<Driver<T>>>>)
where
    T: Read + Write + Send + Unpin + 'static,
{
    poll_fn(|cx| {
        let mut slot = driver.lock();
        let Some(connection) = slot.as_mut() else { return Poll::Ready(()) };
        let Poll::Ready(ended) = Future::poll(Pin::new(connection), cx) else { return Poll::Pending };
        *slot = None;
        if let Err(error) = ended {
            tracing::trace!(%error, "a worker's HTTP/2 connection ended");
        }
        Poll::Ready(())
    })
    .await;
}

/// One stream of a shared connection; counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Http2Stream(Arc<SharedConnection>);

impl Http2Stream {
    /// Sends a request and waits for the response head. If nothing was written, the error returns
    /// the request. Dropping the future resets the stream.
    pub(crate) async fn send(
        &self,
        mut request: Request<Payload>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Payload>>> {
        self.0.heard.store(false, Ordering::Relaxed);
        to_http2(&mut request, &self.0.scheme, &self.0.authority);
        self.0.sender.clone().try_send_request(request).await
    }

    /// Returns `true` if no byte came on the connection since the request was sent.
    pub(crate) fn is_unheard(&self) -> bool {
        !self.0.heard.load(Ordering::Relaxed)
    }

    /// Lets the connection take no new streams; those that it has go on.
    pub(crate) fn retire(&self) {
        self.0.retired.store(true, Ordering::Relaxed);
    }
}

impl Drop for Http2Stream {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Turns a request for HTTP/1.1 into one for HTTP/2 (RFC 9113 §8.2.2, §8.3.1).
fn to_http2(request: &mut Request<Payload>, scheme: &Scheme, authority: &Authority) {
    *request.version_mut() = Version::HTTP_2;
    let path = request.uri().path_and_query().cloned();
    let target = Uri::builder().scheme(scheme.clone()).authority(authority.clone());
    // A valid path behind a valid authority is a valid URI, except `*`, which keeps its form.
    if let Some(Ok(target)) = path.map(|path| target.path_and_query(path).build()) {
        *request.uri_mut() = target;
    }
    for name in [HOST, CONNECTION, TRANSFER_ENCODING] {
        request.headers_mut().remove(name);
    }
}

/// Undoes [`to_http2`] for a request that was never written.
pub(crate) fn to_http1(request: &mut Request<Payload>) {
    use http::HeaderValue;
    use http_body::Body as _;
    if request.version() != Version::HTTP_2 {
        return;
    }
    *request.version_mut() = Version::HTTP_11;
    let host = request.uri().authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok());
    if let Some(path) = request.uri().path_and_query().cloned() {
        *request.uri_mut() = Uri::from(path);
    }
    let unknown = !request.body().is_end_stream() && request.body().size_hint().exact().is_none();
    let headers = request.headers_mut();
    headers.extend(host.map(|host| (HOST, host)));
    if unknown {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::Instant;

    /// An empty SETTINGS frame.
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

    async fn connection() -> (Arc<SharedConnection>, DuplexStream) {
        let (ours, theirs) = duplex(1 << 20);
        let host = (Scheme::HTTP, Authority::from_static("worker:8000"));
        let ages = (Nanos::ZERO, Nanos::from_secs(600));
        let shared = SharedConnection::begin(TokioIo::new(ours), host, Arc::default(), ages).await;
        (shared.unwrap(), theirs)
    }

    fn request() -> Request<Payload> {
        let mut request = Request::new(Payload::empty());
        *request.uri_mut() = Uri::from_static("/v1/models?a=b");
        request
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_vanishes_is_noticed_by_its_missing_answer_to_a_ping() {
        let (shared, mut theirs) = connection().await;
        tokio::spawn(async move {
            theirs.write_all(&SETTINGS).await.unwrap();
            let mut heard = [0; 1024];
            while theirs.read(&mut heard).await.is_ok_and(|count| count > 0) {}
        });
        let began = Instant::now();
        let stream = shared.open(Nanos::ZERO).unwrap();
        let failed = stream.send(request()).await.unwrap_err();
        assert!(failed.error().is_timeout(), "{:?}", failed.error());
        let elapsed = began.elapsed();
        assert!((PING_EVERY..=PING_EVERY + PING_TIMEOUT + PING_TIMEOUT).contains(&elapsed), "{elapsed:?}");
        drop(stream);
        tokio::task::yield_now().await;
        assert!(shared.open(Nanos::ZERO).is_none(), "it is not used again");
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_kept_for_a_minute_and_an_old_one_takes_no_streams() {
        let (shared, _theirs) = connection().await;
        let at = Nanos::from_secs;
        assert!(shared.is_kept(at(59)) && !shared.is_kept(at(60)));
        let stream = shared.open(at(60)).unwrap();
        assert!(shared.is_kept(at(300)), "it is in use");
        drop(stream);
        assert!(shared.is_kept(at(359)) && !shared.is_kept(at(360)));
        assert!(shared.open(at(599)).is_some());
        assert!(shared.open(at(600)).is_none() && !shared.is_kept(at(600)));
    }

    #[tokio::test(start_paused = true)]
    async fn it_has_a_bound_of_its_own_and_a_retired_one_takes_no_streams() {
        let (shared, _theirs) = connection().await;
        let streams: Vec<_> = std::iter::from_fn(|| shared.open(Nanos::ZERO)).collect();
        assert_eq!(streams.len(), 100, "the worker has not said how many it allows");
        drop(streams);
        let stream = shared.open(Nanos::ZERO).unwrap();
        stream.retire();
        assert!(shared.open(Nanos::ZERO).is_none());
    }

    #[test]
    fn what_was_never_written_can_go_over_http1() {
        let mut sent = request();
        sent.headers_mut().insert(HOST, "worker:8000".parse().unwrap());
        sent.headers_mut().insert(CONNECTION, "te".parse().unwrap());
        to_http2(&mut sent, &Scheme::HTTPS, &Authority::from_static("worker:8000"));
        assert_eq!(
            (sent.uri().to_string(), sent.version()),
            ("https://worker:8000/v1/models?a=b".into(), Version::HTTP_2)
        );
        assert!(sent.headers().is_empty());
        to_http1(&mut sent);
        assert_eq!((sent.uri().to_string(), sent.version()), ("/v1/models?a=b".into(), Version::HTTP_11));
        assert_eq!(sent.headers()[HOST], "worker:8000");
    }
}
