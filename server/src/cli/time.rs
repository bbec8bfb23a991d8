//! A moment as written on the command line.
//!
//! Owns what `--time` takes: RFC 3339 in any zone, or microseconds since 1970. Must never guess a zone: a time without one
//! is UTC.

use std::time::{Duration, UNIX_EPOCH};

use super::escape::piece;

const BEFORE_1970: &str = "the time is before 1970";

/// A moment in microseconds since 1970; the error is of usage.
pub fn parse(text: &str) -> Result<u64, String> {
    moment(text, |text| piece(text.as_bytes()))
}

/// The same of an argument: the whole command line is escaped already when it is parsed for its error.
pub fn argument(text: &str) -> Result<u64, String> {
    moment(text, str::to_owned)
}

fn moment(text: &str, shown: impl Fn(&str) -> String) -> Result<u64, String> {
    if let Ok(us) = text.parse() {
        return Ok(us);
    }
    let (local, ahead_s) = split_offset(text).unwrap_or((text, 0));
    // RFC 3339 takes small letters too.
    let time = humantime::parse_rfc3339_weak(&local.to_ascii_uppercase()).map_err(|error| match error {
        humantime::TimestampError::OutOfRange => beyond(local),
        _ => format!(
            "'{}' is neither a time such as 2026-01-31T12:00:00Z or 2026-01-31T13:00:00+01:00 nor microseconds since 1970",
            shown(text)
        ),
    })?;
    let ahead = Duration::from_secs(ahead_s.unsigned_abs());
    let time = if ahead_s < 0 { time.checked_add(ahead) } else { time.checked_sub(ahead) };
    let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).ok_or(BEFORE_1970)?;
    u64::try_from(since.as_micros()).map_err(|_| "the time is too far away".to_owned())
}

/// What is out of range in a time whose form is right.
fn beyond(local: &str) -> String {
    // `YYYY-MM-DDTHH:MM:SS`.
    let part = |at: usize, width: usize| local.get(at..at + width).and_then(|digits| digits.parse::<u32>().ok());
    let (year, month, day) = (part(0, 4).unwrap_or(0), part(5, 2).unwrap_or(0), part(8, 2).unwrap_or(0));
    let most = |at: usize, most: u32| part(at, 2).filter(|number| *number > most);
    if year < 1970 {
        return BEFORE_1970.to_owned();
    }
    if !(1..=12).contains(&month) {
        return format!("there is no month {month}");
    }
    if let Some(hour) = most(11, 23) {
        return format!("there is no hour {hour}");
    }
    if let Some(minute) = most(14, 59) {
        return format!("there is no minute {minute}");
    }
    if let Some(second) = most(17, 60) {
        return format!("there is no second {second}");
    }
    format!("there is no day {day} in month {month} of {year}")
}

/// The local time and how many seconds it is ahead of UTC, where the text ends in `+HH:MM` or `-HH:MM`.
fn split_offset(text: &str) -> Option<(&str, i64)> {
    let (local, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let (sign, offset) = offset.split_at_checked(1)?;
    let (hours, minutes) = offset.split_once(':')?;
    let number = |digits: &str, most: i64| {
        let number = digits.parse::<u8>().ok().filter(|_| digits.len() == 2 && !digits.starts_with('+'));
        number.map(i64::from).filter(|number| *number <= most)
    };
    let seconds = number(hours, 23)? * 3_600 + number(minutes, 59)? * 60;
    // What ends so without a time of day before it is a date.
    match sign {
        "+" if local.contains(':') => Some((local, seconds)),
        "-" if local.contains(':') => Some((local, -seconds)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_parse_in_any_zone() {
        assert_eq!(parse("17"), Ok(17));
        assert_eq!(parse("1970-01-01T00:00:01Z"), Ok(1_000_000));
        assert_eq!(parse("1970-01-01 00:00:01"), Ok(1_000_000));
        assert_eq!(parse("1970-01-01t00:00:01.000002z"), Ok(1_000_002));
        let noon = parse("2026-01-31T12:00:00Z").unwrap();
        for same in ["2026-01-31T14:00:00+02:00", "2026-01-31T06:30:00-05:30", "2026-01-31T12:00:00-00:00"] {
            assert_eq!(parse(same), Ok(noon), "{same}");
        }
        assert_eq!(parse("2026-02-01T01:00:00.25+13:00"), Ok(noon + 250_000));
    }

    #[test]
    fn what_is_no_time_is_said() {
        for bad in [
            "yesterday",
            "2026-01-31T12:00:00+2:00",
            "2026-01-31T12:00:00+24:00",
            "2026-01-31T12:00:00+02:60",
            "é+0:00",
        ] {
            assert!(parse(bad).unwrap_err().contains("+01:00"), "{bad}");
        }
        for (bad, why) in [
            ("2026-02-30T12:00:00Z", "there is no day 30 in month 2 of 2026"),
            ("2026-02-00 12:00:00", "there is no day 0 in month 2 of 2026"),
            ("2026-13-01T12:00:00+01:00", "there is no month 13"),
            ("2026-01-31T25:00:00Z", "there is no hour 25"),
            ("2026-01-31T12:60:00Z", "there is no minute 60"),
            ("2026-01-31 12:00:61", "there is no second 61"),
        ] {
            assert_eq!(parse(bad), Err(why.to_owned()), "{bad}");
        }
        assert_eq!(parse("1970-01-01T00:30:00+01:00"), Err(BEFORE_1970.to_owned()));
        assert_eq!(parse("1969-01-01T00:30:00Z"), Err(BEFORE_1970.to_owned()));
    }
}
