//! Checks of the machine by the agent.

use crate::fleet::heartbeat::{CheckStatus, HealthCheck};

/// Share of the overload threshold from which the load is doubtful.
const DOUBTFUL: f64 = 0.7;

/// Returns the load average of the last minute; `None` if the system does not report it.
pub(super) fn load_average() -> Option<f64> {
    read_load(&std::fs::read_to_string("/proc/loadavg").ok()?)
}

fn read_load(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
}

/// Checks the load of `cores` cores: red from `red` per core, yellow from 0.7 of that.
pub(super) fn load(average: f64, cores: usize, red: f64) -> HealthCheck {
    let per_core = average / cores.max(1) as f64;
    let status = if per_core >= red {
        CheckStatus::Red
    } else if per_core >= red * DOUBTFUL {
        CheckStatus::Yellow
    } else {
        CheckStatus::Green
    };
    HealthCheck { name: "load".into(), status, message: format!("{average:.2} on {cores} cores").into() }
}

pub(super) fn doubt(name: &str, message: &str) -> HealthCheck {
    HealthCheck { name: name.into(), status: CheckStatus::Yellow, message: message.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_judged_by_core() {
        for (average, status) in [
            (2.7, CheckStatus::Green),
            (2.8, CheckStatus::Yellow),
            (3.99, CheckStatus::Yellow),
            (4.0, CheckStatus::Red),
        ] {
            assert_eq!(load(average, 4, 1.0).status, status, "{average}");
        }
        assert_eq!(load(7.0, 4, 2.0).status, CheckStatus::Yellow);
        assert_eq!(read_load("0.52 0.58 0.59 1/467 12345\n"), Some(0.52));
        assert_eq!(read_load(""), None);
    }
}
