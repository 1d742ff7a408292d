//! Internet checksums (RFC 1071), always of the whole.

/// The one's complement sum of big-endian words; a last odd byte counts as a word's first.
pub(super) fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        _ => u32::from(pair[0]) << 8,
    });
    fold(words.sum())
}

fn fold(sum: u32) -> u16 {
    let mut sum = sum;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The sum of two sums.
pub(super) fn add(one: u16, other: u16) -> u16 {
    fold(u32::from(one) + u32::from(other))
}

/// A checksum field after a change: as right, or as wrong, as it was before. `before` and `after`
/// are the sums of all that it covers.
pub(super) fn carried(field: u16, before: u16, after: u16) -> u16 {
    let error = add(field, before);
    // What covers something is never the sum of nothing: of the two zeros, the field has the first.
    match add(error, !after) {
        0xffff => 0,
        field => field,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_right_is_right_after_a_change() {
        let (before, after) = (sum(&[1, 2, 3, 4, 5]), sum(&[1, 9, 3, 4, 77]));
        assert_eq!(carried(!before, before, after), !after);
    }

    #[test]
    fn what_was_wrong_stays_as_wrong() {
        let (before, after) = (sum(&[1, 2, 3, 4]), sum(&[7, 2, 3, 4]));
        let wrong = add(!before, 5);
        assert_eq!(carried(wrong, before, after), add(!after, 5));
    }
}
