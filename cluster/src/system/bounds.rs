//! The name of a new table and the bounds of its shards.
//!
//! Owns: which names and split points make sense, and the equal parts of the ring. Must never: leave a position to no shard, or to two.

use super::{Partitioning, TABLE_NAME_MAX, TABLE_SHARDS_MAX};
use bytes::Bytes;

type Invalid = (&'static str, String);

pub(super) fn check_name(name: &str) -> Result<(), Invalid> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty()
        || name.len() > TABLE_NAME_MAX
        || !name.chars().all(fine)
        || !name.starts_with(char::is_alphanumeric)
    {
        let why = format!(
            "a table's name has 1 to {TABLE_NAME_MAX} of the characters A-Z a-z 0-9 _ - . and begins with a letter or digit; \
             this is {name:?}"
        );
        return Err(("name", why));
    }
    Ok(())
}

/// The bounds of a new table's shards, in order.
pub(super) fn bounds(
    partitioning: Partitioning,
    shards: u32,
    splits: &[Bytes],
) -> Result<Vec<(Bytes, Bytes)>, Invalid> {
    let points: Vec<Bytes> = match partitioning {
        Partitioning::Range => {
            range_points(shards, splits)?;
            splits.to_vec()
        }
        Partitioning::Hash => {
            if !splits.is_empty() {
                return Err(("split_at", "a hash table has no split points; give --shards N".into()));
            }
            if shards == 0 || shards > TABLE_SHARDS_MAX {
                return Err(("shards", format!("a hash table has 1 to {TABLE_SHARDS_MAX} shards, not {shards}")));
            }
            // The ring of 2^64 positions in equal parts.
            (1..u64::from(shards))
                .map(|i| {
                    let at = (u128::from(i) << 64) / u128::from(shards);
                    Bytes::copy_from_slice(&u64::try_from(at).expect("i < shards keeps it below 2^64").to_be_bytes())
                })
                .collect()
        }
    };
    let froms = std::iter::once(Bytes::new()).chain(points.iter().cloned());
    let tos = points.iter().cloned().chain(std::iter::once(Bytes::new()));
    Ok(froms.zip(tos).collect())
}

fn range_points(shards: u32, splits: &[Bytes]) -> Result<(), Invalid> {
    let needed = splits.len() as u64 + 1;
    if shards != 0 && u64::from(shards) != needed {
        let why = format!(
            "a range table of {shards} shards needs {} split points (--split-at KEY), {} were given",
            u64::from(shards) - 1,
            splits.len()
        );
        return Err(("shards", why));
    }
    if needed > u64::from(TABLE_SHARDS_MAX) {
        return Err(("split_at", format!("a table has at most {TABLE_SHARDS_MAX} shards, this would have {needed}")));
    }
    if splits.iter().any(|s| s.is_empty() || s.len() > crate::position::KEY_BYTES_MAX) {
        return Err(("split_at", format!("a split point has 1 to {} bytes", crate::position::KEY_BYTES_MAX)));
    }
    if let Some(pair) = splits.windows(2).find(|w| w[0] >= w[1]) {
        let (a, b) = (String::from_utf8_lossy(&pair[0]), String::from_utf8_lossy(&pair[1]));
        return Err(("split_at", format!("split points must rise: {b:?} follows {a:?}")));
    }
    Ok(())
}
