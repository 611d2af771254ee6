//! Switches of a pool's active colour: `/api/v1/pools/{pool}/active` and `…/canary`.

use std::time::Duration;

use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::answer::{AdminError, json_answer};
use super::body::AdminBody;
use crate::fleet::colour::MOST_SHARE;
use crate::shed::WHOLE;
use crate::view::CanaryView;

/// Time of a canary if none is given.
const USUAL_JUDGE: Duration = Duration::from_secs(120);
/// Longest time of a canary in seconds: if that is not enough, its share is too small.
const LONGEST_JUDGE: u64 = 3600;

const UNAVAILABLE: &str = "Redis does not answer, so the other gateways cannot be reached; retry";

/// A wanted switch of a pool's colour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchRequest {
    /// The pool.
    pub pool: String,
    /// The colour.
    pub colour: String,
    /// The only version of the colour that takes work; `None` for all versions.
    pub version: Option<String>,
    /// The trial before the switch; `None` to switch at once.
    pub canary: Option<CanaryRequest>,
    /// `true` to switch even during a canary, and to a colour without a ready worker.
    pub force: bool,
}

/// A wanted canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CanaryRequest {
    /// The share, in millionths: 1 to 500000.
    pub(crate) per_million: u32,
    /// Time until the verdict, extended until there are enough answers.
    pub(crate) judge: Duration,
    /// `true` if the client calls again and again; the canary ends soon after it stops.
    pub(crate) attended: bool,
}

/// Outcome of a colour switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Switched {
    /// Every gateway follows.
    Everywhere {
        /// Epoch of the switch.
        epoch: u64,
    },
    /// Published, but not every gateway follows yet.
    Partly {
        /// Epoch of the switch.
        epoch: u64,
    },
    /// A canary has begun.
    Canary {
        /// Epoch of the switch that began it.
        epoch: u64,
    },
    /// A canary has ended, and the old side gets everything.
    Cancelled,
    /// No such pool.
    NoPool,
    /// The pool has no worker of that colour.
    NoWorkers,
    /// No worker of that colour is ready.
    NotReady,
    /// A canary of the pool is under way.
    UnderWay,
    /// No canary of the pool is under way.
    NoCanary,
    /// A canary needs an active colour, and another one to try.
    NotBeside,
    /// Redis is unreachable.
    Unavailable,
}

impl Switched {
    /// Returns the outcome in words, for the log.
    pub(super) const fn as_str(&self) -> &'static str {
        match self {
            Self::Everywhere { .. } => "followed by every gateway",
            Self::Partly { .. } => "not yet followed by every gateway",
            Self::Canary { .. } => "canary begun",
            Self::Cancelled => "canary ended",
            Self::NoPool => "no such pool",
            Self::NoWorkers => "no worker of that colour",
            Self::NotReady => "no worker of that colour is ready",
            Self::UnderWay => "a canary is under way",
            Self::NoCanary => "no canary is under way",
            Self::NotBeside => "no other colour is active",
            Self::Unavailable => "the other gateways cannot be reached",
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ActiveBody {
    colour: String,
    /// The only version of the colour that takes work; all of them if absent.
    #[serde(default)]
    version: Option<String>,
    /// The share of a canary, as `5%`; the whole at once if absent.
    #[serde(default)]
    canary: Option<String>,
    /// Duration of the canary's trial, in seconds.
    #[serde(default)]
    judge: Option<u64>,
    #[serde(default)]
    attended: bool,
    #[serde(default)]
    force: bool,
}

impl ActiveBody {
    pub(super) fn read(self, pool: String) -> Result<SwitchRequest, AdminError> {
        let bad = |message: String| AdminError::new(StatusCode::BAD_REQUEST, "bad_request", message);
        let Self { colour, version, canary, judge, attended, force } = self;
        let canary = match canary {
            None if judge.is_some() || attended => {
                return Err(bad("`judge` and `attended` belong to a `canary`, such as \"5%\"".to_owned()));
            }
            None => None,
            Some(_) if force => {
                return Err(bad("`force` switches at once; leave out `canary`".to_owned()));
            }
            Some(share) => Some(CanaryRequest {
                per_million: read_share(&share).map_err(|why| bad(format!("`canary` {why}")))?,
                judge: judge
                    .map_or(Ok(USUAL_JUDGE), read_judge)
                    .map_err(|why| bad(format!("`judge` {why}")))?,
                attended,
            }),
        };
        Ok(SwitchRequest { pool, colour, version, canary, force })
    }
}

/// Reads a share such as `5%` or `0.5%`, in millionths.
///
/// # Errors
/// A message with the expected form and the text found.
pub fn read_share(text: &str) -> Result<u32, String> {
    let percent = text.trim().strip_suffix('%').and_then(|number| number.trim_end().parse::<f64>().ok());
    let share = percent.map(|percent| percent / 100.0 * f64::from(WHOLE));
    let share = share.filter(|share| (1.0..=f64::from(MOST_SHARE)).contains(share));
    share.map(|share| share as u32).ok_or_else(|| {
        format!(
            "must be a share above 0% and at most {}%, such as `5%`; found \"{text}\"",
            MOST_SHARE / (WHOLE / 100)
        )
    })
}

/// Reads the time of a canary in seconds.
///
/// # Errors
/// What would be right, and what was found.
pub fn read_judge(seconds: u64) -> Result<Duration, String> {
    let allowed = (1..=LONGEST_JUDGE).contains(&seconds).then(|| Duration::from_secs(seconds));
    allowed.ok_or_else(|| format!("must be from 1 to {LONGEST_JUDGE} seconds; found {seconds}"))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AttendBody {
    pub(super) epoch: u64,
}

/// Answers with the state of a canary.
pub(super) fn show(canary: Option<CanaryView>) -> Result<Response<AdminBody>, AdminError> {
    match canary {
        Some(canary) => Ok(json_answer(StatusCode::OK, &json!(canary))),
        None => Err(AdminError::new(
            StatusCode::NOT_FOUND,
            "no_canary",
            "this gateway knows no such canary of the pool",
        )),
    }
}

/// Answers to a canary that was to end.
pub(super) fn tell_cancelled(
    ended: &Switched,
    canary: Option<CanaryView>,
) -> Result<Response<AdminBody>, AdminError> {
    let fault = |status, code, message| Err(AdminError::new(status, code, message));
    match ended {
        // Nothing is known of a canary that another gateway judged.
        Switched::Cancelled => Ok(json_answer(StatusCode::OK, &json!(canary))),
        Switched::Unavailable => fault(StatusCode::SERVICE_UNAVAILABLE, "redis_unavailable", UNAVAILABLE),
        _ => fault(StatusCode::NOT_FOUND, "no_canary", "no canary of the pool is under way"),
    }
}

/// Answers to a switch.
pub(super) fn tell(
    switched: &Switched,
    request: &SwitchRequest,
    canary: Option<CanaryView>,
) -> Result<Response<AdminBody>, AdminError> {
    let SwitchRequest { pool, colour, version, .. } = request;
    let done = |status, epoch: u64| {
        let mut answer = json!({ "pool": pool, "active": colour, "epoch": epoch });
        if let Some(version) = version {
            answer["version"] = json!(version);
        }
        Ok(json_answer(status, &answer))
    };
    let fault = |status, code, message| Err(AdminError::new(status, code, message));
    match switched {
        Switched::Everywhere { epoch } => done(StatusCode::OK, *epoch),
        Switched::Partly { epoch } => done(StatusCode::ACCEPTED, *epoch),
        Switched::Canary { .. } => Ok(json_answer(StatusCode::ACCEPTED, &json!(canary))),
        Switched::NoPool => fault(StatusCode::NOT_FOUND, "no_such_pool", "there is no pool of this name"),
        Switched::NoWorkers => fault(
            StatusCode::CONFLICT,
            "no_such_colour",
            "no worker of the pool has this colour, or this version of it",
        ),
        Switched::NotReady => fault(
            StatusCode::CONFLICT,
            "colour_not_ready",
            "no worker of this colour, or this version of it, is ready; `\"force\": true` switches anyway",
        ),
        Switched::UnderWay => fault(
            StatusCode::CONFLICT,
            "canary_under_way",
            "a canary of the pool is under way; wait for its verdict, cancel it, or switch with `\"force\": true`",
        ),
        Switched::NotBeside => fault(
            StatusCode::CONFLICT,
            "no_other_colour",
            "a canary needs an active colour (`workers.active_colour` or an earlier switch), and another colour to try",
        ),
        Switched::Unavailable | Switched::Cancelled | Switched::NoCanary => {
            fault(StatusCode::SERVICE_UNAVAILABLE, "redis_unavailable", UNAVAILABLE)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_percentage_and_at_most_half() {
        for (text, share) in [("5%", 50_000), ("0.5 %", 5_000), ("50%", 500_000), (" 100.0e-1% ", 100_000)] {
            assert_eq!(read_share(text), Ok(share), "{text}");
        }
        for wrong in ["", "5", "0%", "-1%", "51%", "NaN%", "0.00001%", "five%"] {
            assert!(read_share(wrong).unwrap_err().contains("at most 50%, such as `5%`"), "{wrong}");
        }
    }

    #[test]
    fn a_canary_takes_a_second_to_an_hour() {
        assert_eq!(read_judge(120), Ok(Duration::from_secs(120)));
        for wrong in [0, 3601, u64::MAX] {
            assert!(read_judge(wrong).unwrap_err().contains("from 1 to 3600 seconds"), "{wrong}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let read = |body: &str| serde_json::from_str::<ActiveBody>(body).unwrap().read("chat".to_owned());
        let canary = read(r#"{"colour":"green","canary":"5%"}"#).unwrap().canary.unwrap();
        assert_eq!((canary.per_million, canary.judge, canary.attended), (50_000, USUAL_JUDGE, false));
        for wrong in [
            r#"{"colour":"green","judge":120}"#,
            r#"{"colour":"green","attended":true}"#,
            r#"{"colour":"green","canary":"5%","force":true}"#,
            r#"{"colour":"green","canary":"5%","judge":0}"#,
        ] {
            assert_eq!(read(wrong).unwrap_err().status, StatusCode::BAD_REQUEST, "{wrong}");
        }
    }
}
