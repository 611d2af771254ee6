//! CPU time, as the kernel counts it.

use std::fs;
use std::time::Duration;

/// Unit in which the kernel shows times to programs, on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// CPU time that a process has used so far, user and system; `None` if it has ended.
pub(crate) fn process_time(pid: u32) -> Option<Duration> {
    ticks_of(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// CPU time that all processes have used so far, on all cores.
pub(crate) fn busy_time() -> Option<Duration> {
    busy_of(&fs::read_to_string("/proc/stat").ok()?)
}

/// Number and model of the cores, for the document.
pub(crate) fn description() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    format!("{cores} cores of {}", model.map_or("an unknown CPU", |(_, model)| model))
}

fn ticks_of(stat: &str) -> Option<Duration> {
    // The second field, a name in brackets, may contain blanks and brackets.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u32>().ok();
    Some(TICK * (ticks(11)? + ticks(12)?))
}

fn busy_of(stat: &str) -> Option<Duration> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace();
    let ticks: Vec<u64> = fields.map_while(|field| field.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; user includes the guest times after.
    let busy: u64 =
        ticks.iter().take(8).enumerate().filter(|(at, _)| !matches!(at, 3 | 4)).map(|(_, ticks)| ticks).sum();
    Some(Duration::from_millis(busy * TICK.as_millis() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_process_may_hold_anything() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 2 0";
        assert_eq!(ticks_of(stat), Some(Duration::from_secs(3)));
        assert_eq!(ticks_of("7 (x) S 1"), None);
    }

    #[test]
    fn resting_is_not_work() {
        let stat = "cpu  100 10 50 9999 888 5 5 30 0 0\ncpu0 1 1 1 1\n";
        assert_eq!(busy_of(stat), Some(Duration::from_secs(2)));
    }
}
