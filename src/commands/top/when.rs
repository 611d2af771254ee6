//! Moments as people write them, in UTC: the gateway may be far from who looks at it.

const DAY_MS: u64 = 86_400_000;

/// When `at_ms` was, looked at from `now_ms`: the time of day, and before it the date if that is another day.
pub(super) fn when(at_ms: u64, now_ms: u64) -> String {
    let (day, seconds) = (at_ms / DAY_MS, at_ms % DAY_MS / 1000);
    let time = format!("{:02}:{:02}:{:02}Z", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if day == now_ms / DAY_MS {
        return time;
    }
    let (year, month, day) = date(day);
    format!("{year}-{month:02}-{day:02} {time}")
}

/// The year, month and day that is `days` after the first of January 1970.
fn date(days: u64) -> (u64, u64, u64) {
    // Counted from the first of March of the year 0: so the day that some years have more is a year's last, and 400
    // years are always as long.
    let days = days + 719_468;
    let (centuries, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Five months of 31 and 30 days in turn are 153 days, from March on.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (400 * centuries + year + next, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_day_is_named() {
        let at = 951_782_400_000 + 3_723_000;
        assert_eq!(when(at, at + 5000), "01:02:03Z");
        assert_eq!(when(at, at + DAY_MS), "2000-02-29 01:02:03Z");
        // A gateway whose clock is ahead.
        assert_eq!(when(at, at - DAY_MS), "2000-02-29 01:02:03Z");
    }

    #[test]
    fn each_day_follows_the_one_before() {
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(11_016), (2000, 2, 29));
        let mut before = (1970, 1, 1);
        for days in 1..60_000 {
            let now = date(days);
            let (year, month, day) = before;
            let last = match month {
                2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            let next = match (month, day) {
                (12, 31) => (year + 1, 1, 1),
                _ if day == last => (year, month + 1, 1),
                _ => (year, month, day + 1),
            };
            assert_eq!(now, next, "{days} days");
            before = now;
        }
    }
}
