//! Faults that a request or an operator can order.
//!
//! A request names them in the header `x-sim-fault` or the JSON field `sim_fault`, in a list such
//! as `chunk:7,break:5`. `POST /debug/fault` sets them for the next requests of any sender.

use std::time::Duration;

use http::{HeaderName, StatusCode};

/// Header that names faults.
pub(super) const FAULTS: HeaderName = HeaderName::from_static("x-sim-fault");

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RequestFaults {
    pub(super) instead: Option<Instead>,
    /// Delay before the work begins.
    pub(super) delay: Duration,
    pub(super) midway: Option<Midway>,
    /// Size of the pieces in which the stream is sent, in bytes.
    pub(super) chunk: Option<usize>,
    /// `true` if HTTP trailers follow the stream.
    pub(super) trailers: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instead {
    Die,
    /// No byte ever comes.
    Hang,
    Status(StatusCode),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Midway {
    /// The connection closes right after the headers.
    DieAfterHeaders,
    /// The connection closes after this many tokens. An answer with fewer is complete.
    Break(u32),
    /// Nothing more comes after this many tokens.
    Stall(u32),
    /// After this many tokens, an error event replaces the rest.
    ErrorEvent(u32),
}

impl RequestFaults {
    /// Parses a list of faults.
    ///
    /// # Errors
    /// An error message for the sender.
    pub(super) fn parse(list: &str) -> Result<Self, String> {
        let mut faults = Self::default();
        for item in list.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            faults.add(item)?;
        }
        Ok(faults)
    }

    fn add(&mut self, item: &str) -> Result<(), String> {
        let (name, value) = item.split_once(':').map_or((item, None), |(name, value)| (name, Some(value)));
        let number = || {
            let value = value.ok_or_else(|| format!("the fault {name} needs a number, as in {name}:5"))?;
            value.parse::<u32>().map_err(|_| format!("{value:?} of the fault {name} is not a whole number"))
        };
        match name {
            "die" => self.instead = Some(Instead::Die),
            "hang" => self.instead = Some(Instead::Hang),
            "status" => {
                let status = u16::try_from(number()?).ok().filter(|code| *code >= 200);
                let status = status.and_then(|code| StatusCode::from_u16(code).ok());
                self.instead = Some(Instead::Status(status.ok_or("status needs a code from 200 to 999")?));
            }
            "slow-start" => self.delay = Duration::from_millis(number()?.into()),
            "die-after-headers" => self.midway = Some(Midway::DieAfterHeaders),
            "hang-after-headers" => self.midway = Some(Midway::Stall(0)),
            "break" => self.midway = Some(Midway::Break(number()?)),
            "stall" => self.midway = Some(Midway::Stall(number()?)),
            "error-event" => self.midway = Some(Midway::ErrorEvent(number()?)),
            "trailers" => self.trailers = true,
            "chunk" => self.chunk = Some((number()? as usize).max(1)),
            _ => return Err(format!("unknown fault {name:?}")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_combines_faults() {
        let faults = RequestFaults::parse("chunk:7, break:5,trailers,slow-start:20").unwrap();
        assert_eq!(
            faults,
            RequestFaults {
                instead: None,
                delay: Duration::from_millis(20),
                midway: Some(Midway::Break(5)),
                chunk: Some(7),
                trailers: true,
            }
        );
        assert_eq!(RequestFaults::parse(" "), Ok(RequestFaults::default()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (list, word) in [
            ("explode", "explode"),
            ("break", "needs a number"),
            ("stall:x", "\"x\""),
            ("status:99", "200"),
            ("status:70000", "200"),
        ] {
            let message = RequestFaults::parse(list).unwrap_err();
            assert!(message.contains(word), "{list}: {message}");
        }
    }
}
