//! Ages, as people like to read them.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::apiserver::store::object::text;

/// How long ago the time at `pointer` was.
pub(super) fn since(object: &Value, pointer: &str, now: Timestamp) -> Value {
    match text(object, pointer).parse::<Timestamp>() {
        Ok(then) => json!(words((now.as_second() - then.as_second()).max(0))),
        Err(_) => json!("<unknown>"),
    }
}

/// At most two units, and only where the second still matters.
fn words(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |large: i64, large_unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{large}{large_unit}"),
        small => format!("{large}{large_unit}{small}{small_unit}"),
    };
    match seconds {
        ..120 => format!("{seconds}s"),
        ..600 => two(minutes, "m", seconds % 60, "s"),
        ..10_800 => format!("{minutes}m"),
        ..28_800 => two(hours, "h", minutes % 60, "m"),
        ..172_800 => format!("{hours}h"),
        ..691_200 => two(days, "d", hours % 24, "h"),
        _ if days < 730 => format!("{days}d"),
        _ => two(days / 365, "y", days % 365, "d"),
    }
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn ages_have_the_units_that_matter() {
        for (seconds, expected) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (301, "5m1s"),
            (600, "10m"),
            (10_800, "3h"),
            (11_100, "3h5m"),
            (30_000, "8h"),
            (180_000, "2d2h"),
            (864_000, "10d"),
            (63_244_800, "2y2d"),
        ] {
            assert_eq!(words(seconds), expected);
        }
    }
}
