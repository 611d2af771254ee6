//! When a load is not the load that was drawn: requests that left too late.

/// Lateness above which a request is late, in ms: a twentieth of the TTFT SLO of one second with
/// which the load is judged, and a fifth of the time for which the gateway lets a request wait.
///
/// Requests that move by less do not change what the load asks of a worker. A generator that shares
/// its cores with the processes it measures cannot do much better while these are overloaded.
pub const LATE_MS: f64 = 50.0;
/// Maximum share of late requests.
pub(crate) const MOST_LATE: f64 = 0.01;

/// Returns why the load is not the one that was drawn, from each request's lateness in ms.
#[must_use]
pub fn late_requests(lateness: impl Iterator<Item = f64>) -> Option<String> {
    let (mut late, mut all) = (0_u64, 0_u64);
    for lateness in lateness {
        late += u64::from(lateness > LATE_MS);
        all += 1;
    }
    (late as f64 > MOST_LATE * all as f64)
        .then(|| format!("{late} of {all} requests were sent more than {LATE_MS} ms late"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_late_request_in_a_hundred_is_allowed() {
        let lateness = |late: usize| (0..200).map(move |at| if at < late { 50.1 } else { 50.0 });
        assert_eq!(late_requests(lateness(2)), None);
        let fault = late_requests(lateness(3));
        assert_eq!(fault.as_deref(), Some("3 of 200 requests were sent more than 50 ms late"));
        assert_eq!(late_requests(std::iter::empty()), None);
    }
}
