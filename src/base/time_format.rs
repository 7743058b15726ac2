//! Formats and parses times for people and clients. Inside the program, a time is a number of milliseconds since
//! the epoch.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Formats a time as RFC 3339 with milliseconds and `Z`: `2026-11-22T06:43:36.763Z`.
pub fn iso(ms: i64) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(ms.clamp(0, 253_402_300_799_999) as u64);
    humantime::format_rfc3339_millis(time).to_string()
}

/// Converts an RFC 3339 time to the format of SQLite, in UTC but without a time zone: `2026-11-22 06:43:36`. Some
/// fields of the old HTTP API have this format.
pub fn sqlite(iso: &str) -> String {
    iso.get(..19).unwrap_or(iso).replace('T', " ")
}

/// Parses a time in the format of [`iso`] or of [`sqlite`]. The text may end with `+00:00` instead of `Z`. Returns
/// `None` for any other text.
pub fn parse(text: &str) -> Option<i64> {
    // If a time has a fraction of a second, the crate humantime treats any offset with a plus as `+00:00`. So every
    // offset with a plus, except `+00:00`, is refused here.
    let text = text.trim();
    let without_offset = text.strip_suffix("+00:00").filter(|time| !time.ends_with(['Z', 'z']));
    let text = without_offset.unwrap_or(text);
    if text.contains('+') {
        return None;
    }
    let time: SystemTime = humantime::parse_rfc3339_weak(text).ok()?;
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_millis() as i64)
}

/// Parses a point in time. The text has a format that [`parse`] accepts, or is a duration that is subtracted from
/// `now`: `2h`, `30m`, `1day 6h`.
pub fn parse_since(text: &str, now: i64) -> Option<i64> {
    let ago = humantime::parse_duration(text.trim()).ok().and_then(|ago| i64::try_from(ago.as_millis()).ok());
    ago.map(|ago| now.saturating_sub(ago)).or_else(|| parse(text))
}

/// Formats a duration in the largest unit that is precise enough: `7 min`, `40 s`.
pub fn span(ms: i64) -> String {
    let seconds = (ms.max(0) + 999) / 1000;
    match seconds {
        0..90 => format!("{seconds} s"),
        90..5400 => format!("{} min", (seconds + 30) / 60),
        5400..172_800 => format!("{} h", (seconds + 1800) / 3600),
        _ => format!("{} days", (seconds + 43_200) / 86_400),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn both_forms_are_read_and_written() {
        let ms = 1_795_330_074_170;
        assert_eq!(super::iso(ms), "2026-11-22T06:47:54.170Z");
        assert_eq!(super::parse(&super::iso(ms)), Some(ms));
        assert_eq!(super::sqlite(&super::iso(ms)), "2026-11-22 06:47:54");
        assert_eq!(super::parse("2026-11-22 06:47:54"), Some(ms - 170));
        assert_eq!(super::parse("2026-11-22T06:47:54.170+00:00"), Some(ms));
        assert_eq!(super::parse("yesterday"), None);
        for offset in ["+02:00", "-02:00", "+00:00+00:00", "Z+00:00", "+00:00Z"] {
            for time in ["2026-11-22T06:47:54", "2026-11-22T06:47:54.170"] {
                assert_eq!(super::parse(&format!("{time}{offset}")), None, "{time}{offset}");
            }
        }
    }

    #[test]
    fn a_point_in_time_is_a_time_or_how_long_ago_it_was() {
        let now = 1_795_330_074_170;
        for (text, want) in [
            ("2h", Some(now - 7_200_000)),
            (" 1h 30m ", Some(now - 5_400_000)),
            ("0s", Some(now)),
            ("99999999999999d", None),
            ("2026-11-22 06:47:54", Some(now - 170)),
            ("2", None),
            ("-2h", None),
            ("", None),
            ("yesterday", None),
        ] {
            assert_eq!(super::parse_since(text, now), want, "{text}");
        }
    }
}
