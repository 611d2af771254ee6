//! Live data for viewers of the page: one task produces it each second for all of them.
//!
//! A ring keeps the last minutes, so that a new viewer sees the history. Each second is serialized
//! once for all. A viewer that falls behind gets everything again instead of a growing queue. The
//! number of viewers is limited: each takes a connection and bandwidth.

mod changes;
mod view;

pub use view::{Frame, LiveEvent, SecondPoint};

use self::changes::FleetChange;
use self::view::trimmed;
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, broadcast};

use crate::view::GatewayView;

/// Seconds kept: what fits a screen, and covers most alarms.
const SECONDS: usize = 300;
/// Maximum events kept.
const EVENTS: usize = 100;
/// Maximum concurrent viewers.
const VIEWERS: usize = 32;
/// Maximum seconds that a viewer may fall behind.
const BEHIND: usize = 4;

/// The last minutes of a gateway, and its viewers.
#[derive(Debug)]
pub struct Live {
    ring: Mutex<Ring>,
    /// Each second with its number.
    sender: broadcast::Sender<(u64, Bytes)>,
    permits: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Ring {
    /// Seconds since the start. Unlike the wall clock it cannot be set back.
    number: u64,
    points: VecDeque<SecondPoint>,
    events: VecDeque<LiveEvent>,
    /// `None` before the first second.
    scene: Option<GatewayView>,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            ring: Mutex::default(),
            sender: broadcast::Sender::new(BEHIND),
            permits: Arc::new(Semaphore::new(VIEWERS)),
        }
    }
}

fn push<T>(ring: &mut VecDeque<T>, most: usize, item: T) {
    if ring.len() >= most {
        ring.pop_front();
    }
    ring.push_back(item);
}

impl Live {
    /// Adds a second that is over and the snapshot at its end.
    pub fn push(&self, point: SecondPoint, scene: GatewayView) {
        let mut ring = self.ring.lock();
        let changes = match &ring.scene {
            Some(before) => changes::changes(before, &scene),
            None => changes::first(&scene),
        };
        changes.iter().for_each(FleetChange::log);
        let event = |change: &FleetChange| LiveEvent { at_ms: point.at_ms, text: change.to_string() };
        let events: Vec<_> = changes.iter().map(event).collect();
        for event in &events {
            push(&mut ring.events, EVENTS, event.clone());
        }
        push(&mut ring.points, SECONDS, point.clone());
        ring.number += 1;
        // Serialization costs more than all the rest.
        if self.sender.receiver_count() > 0 {
            let frame = Frame { whole: false, points: vec![point], events, scene: trimmed(&scene) };
            // Viewers may have left meanwhile.
            self.sender.send((ring.number, write(&frame))).unwrap_or_default();
        }
        ring.scene = Some(scene);
    }

    /// Serializes everything, with the number of its last second.
    fn full_frame(&self) -> (u64, Bytes) {
        let ring = self.ring.lock();
        let frame = Frame {
            whole: true,
            points: ring.points.iter().cloned().collect(),
            events: ring.events.iter().cloned().collect(),
            scene: ring.scene.as_ref().map(trimmed).unwrap_or_default(),
        };
        (ring.number, write(&frame))
    }

    /// Returns server-sent events: everything, then each second once. `None` for too many viewers.
    pub(super) fn subscribe(self: &Arc<Self>) -> Option<impl Stream<Item = Bytes> + Send + use<>> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        let live = Arc::clone(self);
        // No second is missed from here on.
        let seconds = self.sender.subscribe();
        Some(unfold((live, seconds, permit, None), |(live, mut seconds, permit, sent)| async move {
            let (number, bytes) = match sent {
                None => {
                    // A new gateway has nothing to show before its first second is over.
                    if live.ring.lock().scene.is_none() {
                        seconds.recv().await.ok();
                    }
                    live.full_frame()
                }
                Some(sent) => loop {
                    match seconds.recv().await {
                        // Contained in the frame with everything.
                        Ok((number, _)) if number <= sent => {}
                        Ok(second) => break second,
                        Err(broadcast::error::RecvError::Lagged(_)) => {
                            seconds = seconds.resubscribe();
                            break live.full_frame();
                        }
                        Err(broadcast::error::RecvError::Closed) => return None,
                    }
                },
            };
            Some((bytes, (live, seconds, permit, Some(number))))
        }))
    }
}

/// Serializes a frame as a server-sent event.
fn write(frame: &Frame) -> Bytes {
    // Plain data with text keys always serializes.
    let json = serde_json::to_string(frame).unwrap_or_default();
    format!("data: {json}\n\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt, StreamExt};

    fn read(bytes: &Bytes) -> Frame {
        let text = std::str::from_utf8(bytes).unwrap();
        let json = text.strip_prefix("data: ").and_then(|rest| rest.strip_suffix("\n\n")).unwrap();
        assert!(!json.contains('\n'));
        serde_json::from_str(json).unwrap()
    }

    fn second(live: &Live, at_ms: u64) {
        live.push(
            SecondPoint { at_ms, ..SecondPoint::default() },
            GatewayView { version: "1".into(), ..GatewayView::default() },
        );
    }

    #[tokio::test]
    async fn who_comes_late_sees_the_last_minutes_and_then_each_second() {
        let live = Arc::new(Live::default());
        (0..SECONDS as u64 + 20).for_each(|at| second(&live, at));
        let mut viewer = Box::pin(live.subscribe().unwrap());
        let first = read(&viewer.next().await.unwrap());
        assert_eq!((first.whole, first.points.len(), first.points[0].at_ms), (true, SECONDS, 20));
        assert_eq!((&*first.scene.version, first.events.len()), ("1", 1));
        second(&live, 999);
        let next = read(&viewer.next().await.unwrap());
        assert_eq!((next.whole, next.points.len(), next.points[0].at_ms), (false, 1, 999));

        // A viewer that does not read for a while gets everything again.
        (1000..1000 + 2 * BEHIND as u64).for_each(|at| second(&live, at));
        assert!(read(&viewer.next().await.unwrap()).whole);
    }

    #[tokio::test]
    async fn who_comes_before_the_first_second_waits_for_it() {
        let live = Arc::new(Live::default());
        let mut viewer = Box::pin(live.subscribe().unwrap());
        assert!(viewer.next().now_or_never().is_none());
        second(&live, 1000);
        let first = read(&viewer.next().await.unwrap());
        assert_eq!((first.whole, first.points.len(), &*first.scene.version), (true, 1, "1"));
        second(&live, 2000);
        assert_eq!(read(&viewer.next().await.unwrap()).points[0].at_ms, 2000);
    }

    #[tokio::test]
    async fn a_second_is_sent_once_whatever_the_clock_says() {
        let live = Arc::new(Live::default());
        second(&live, 1000);
        let mut viewer = Box::pin(live.subscribe().unwrap());
        // The first frame contains this second, and it is also queued on its own.
        second(&live, 2000);
        let first = read(&viewer.next().await.unwrap());
        assert_eq!((first.whole, first.points.len()), (true, 2));
        // The clock is set back.
        second(&live, 500);
        let next = read(&viewer.next().await.unwrap());
        assert_eq!((next.whole, next.points[0].at_ms), (false, 500));

        // A viewer that fell behind does not get the queued seconds again.
        (0..2 * BEHIND as u64).for_each(|_| second(&live, 600));
        assert!(read(&viewer.next().await.unwrap()).whole);
        second(&live, 700);
        let next = read(&viewer.next().await.unwrap());
        assert_eq!((next.whole, next.points.len(), next.points[0].at_ms), (false, 1, 700));
    }

    #[test]
    fn there_are_only_so_many_viewers() {
        let live = Arc::new(Live::default());
        let viewers: Vec<_> = (0..VIEWERS).map(|_| live.subscribe().unwrap()).collect();
        assert!(live.subscribe().is_none());
        drop(viewers);
        assert!(live.subscribe().is_some());
    }

    #[test]
    fn of_a_large_fleet_those_in_trouble_are_shown() {
        use crate::fleet::Light;
        use crate::view::{PoolView, WorkerView};
        let worker = |index: u32| WorkerView {
            id: format!("w{index}").into(),
            colour: "blue".into(),
            light: if index == 999 { Light::Red } else { Light::Green },
            in_flight: index,
            limit: 1000,
            eligible: true,
            ..WorkerView::default()
        };
        let pool = PoolView { workers: (0..1000).map(worker).collect(), ..PoolView::default() };
        let trimmed = trimmed(&GatewayView { pools: vec![pool], ..GatewayView::default() });
        let shown = &trimmed.pools[0].workers;
        assert_eq!((shown.len(), trimmed.hidden_workers), (200, 800));
        assert!(shown.iter().any(|worker| worker.light == Light::Red));
        assert_eq!(shown[0].in_flight, 800);
    }
}
